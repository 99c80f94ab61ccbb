"""Random changes of training images, and of their boxes or masks.

What may change is a row of numbers (`policy`, `presets`, `capabilities`: no torch, as the config needs them). Geometry
is decided before a pixel is read (`plan`, `affine`, `masks`), so that no more than what is seen is decoded and resized.
Colours are changed by a matrix or a table (`photometry`, `randaugment`). Which pictures are put together is drawn by
`mixing`. `detection` and `segmentation` make the samples of a task. albumentations is known to `library` alone.

Every draw is a function of (seed, epoch, index), so that the number of workers changes nothing and any sample can be
replayed.
"""

from densenet_suite.augment.policy import AugmentPolicy
from densenet_suite.augment.presets import PRESETS, preset_policy

__all__ = ["PRESETS", "AugmentPolicy", "preset_policy"]
