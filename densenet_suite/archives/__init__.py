"""Files inside tar archives, and datasets in sharded ones."""
