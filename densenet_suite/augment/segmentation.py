"""Samples of segmentation: a crop of a scene with its mask, or several put together."""

from typing import Any, Protocol

import numpy as np

from densenet_suite.augment.masks import Cut, MaskAugment
from densenet_suite.augment.mixing import Part, draw_mix
from densenet_suite.augment.pixels import UNLABELLED

Array = np.ndarray[Any, Any]


class Scenes(Protocol):
    """Labelled scenes, as augmentation asks for them; each index is a crop of one."""

    def __len__(self) -> int:
        """Return how many crops there are in an epoch."""

    def mask(self, index: int) -> Array:
        """Return the mask of a scene, uint8 [h w] or [k h w]."""

    def window(self, index: int, mask: Array, cut: Cut) -> tuple[Array, Array]:
        """Return what is to be cut out of the image, [h w c], and of this mask of it."""


class SegmentationAugment:
    """Make samples of labelled scenes.

    Args:
        one: makes a crop of one scene.
        seed: of the run.
        epochs: of the run, of which the last `policy.plain_epochs` are plain; None for no end.
    """

    def __init__(self, one: MaskAugment, seed: int = 0, epochs: int | None = None):
        self.one = one
        self.seed = seed
        self.epochs = epochs
        self._plain = one.changed(one.policy.plain(), one.crop)

    def sample(self, scenes: Scenes, epoch: int, index: int) -> tuple[Array, Array]:
        """Return the crop of an epoch that has this number, [h w c], and its mask, [h w] or [k h w]."""
        whole = self.one if self.one.policy.in_epoch(epoch, self.epochs) == self.one.policy else self._plain
        policy = whole.policy
        mix = draw_mix(policy, len(scenes), whole.crop, self.seed, epoch, index)
        if len(mix.parts) == 1:
            image, mask = _crop(whole, scenes, mix.parts[0][0])
        else:
            pieces = [
                (area, *_crop(whole.changed(policy, (area.height, area.width)), scenes, part))
                for part, area in mix.parts
            ]
            _, piece, labels = pieces[0]
            image = np.empty((*whole.crop, piece.shape[2]), piece.dtype)
            mask = np.empty((*labels.shape[:-2], *whole.crop), labels.dtype)
            for area, piece, labels in pieces:
                image[area.slices], mask[(..., *area.slices)] = piece, labels
        if mix.pasted:
            image, mask = _pasted(image, mask, *_crop(whole, scenes, mix.pasted), mix.chosen)
        if mix.erased:
            image[mix.erased.slices] = np.asarray(whole.fill, image.dtype)
            mask[(..., *mix.erased.slices)] = UNLABELLED
        return image, mask


def _crop(augment: MaskAugment, scenes: Scenes, part: Part) -> tuple[Array, Array]:
    mask = scenes.mask(part.index)
    cut = augment.place(mask, part.seed)
    return augment.change(*scenes.window(part.index, mask, cut), cut, part.seed)


def _pasted(image: Array, mask: Array, other: Array, labels: Array, chosen: int) -> tuple[Array, Array]:
    """Paste half of the classes of another crop."""
    rng = np.random.default_rng(chosen)
    if labels.ndim == 2:
        present = np.flatnonzero(np.bincount(labels.reshape(-1), minlength=UNLABELLED + 1)[:UNLABELLED])
        cover = np.isin(labels, rng.permutation(present)[: len(present) // 2])
    else:
        present = np.flatnonzero((labels == 1).any((1, 2)))
        cover = (labels[rng.permutation(present)[: len(present) // 2]] == 1).any(0)
    return np.where(cover[:, :, None], other, image), np.where(cover, labels, mask)
