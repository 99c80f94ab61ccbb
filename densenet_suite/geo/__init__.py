"""What lies on the ground: GeoTIFFs, GeoJSON labels, footprints."""
