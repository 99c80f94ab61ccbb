"""Detection with EfficientDet: names and tables load without torch, networks and training with it."""
