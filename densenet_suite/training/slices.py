"""Every task by its name. A further task is a further entry.

A config meets the slices in the modules named here and nowhere else; the slices themselves take plain values.
"""

from densenet_suite.training.detection import DETECTION
from densenet_suite.training.segmentation import SEGMENTATION
from densenet_suite.training.slice import Slice

SLICES: dict[str, Slice] = {"detection": DETECTION, "segmentation": SEGMENTATION}
