"""Volumes as scenes of slices: NIfTI files and DICOM series."""
