"""Trained networks as single files for other runtimes, each run and compared with the network before it is kept."""
