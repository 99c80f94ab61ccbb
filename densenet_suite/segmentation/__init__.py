"""Segmentation: a class for every pixel. Names and tables load without torch, networks and training with it."""
