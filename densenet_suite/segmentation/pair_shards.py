"""Images and masks in sharded tars: `key.jpg` and `key.mask.png`, or a mask for each class, `key.mask-0.png` and so on.

See `densenet_suite.archives.shards` for the archives. This module needs no torch.
"""

import re
from pathlib import Path

from densenet_suite.archives.shards import ShardSample, ShardSplit
from densenet_suite.errors import DataError
from densenet_suite.images import IMAGE_SUFFIXES
from densenet_suite.segmentation.pairing import Pair, PairedFiles

_MASK = re.compile(r"(?:mask|seg)(?:-(\d{1,4}))?\.(?:png|tiff?|bmp|gif)")


def pair_samples(split: ShardSplit) -> PairedFiles | None:
    """Return the images of a split with their masks; None where no sample has any.

    Raises:
        DataError: a shard is damaged, or samples have different numbers of masks.
    """
    pairs: list[Pair] = []
    unlabelled: list[Path] = []
    numbers: set[int] = set()
    for sample in split.samples():
        image = next((file.path for end, file in sample.files.items() if f".{end}" in IMAGE_SUFFIXES), None)
        masks = _masks(sample)
        if not masks and not pairs and "json" in sample.files:
            return None  # samples with boxes
        if image is None:
            continue
        if masks:
            numbers.add(len(masks))
            pairs.append(Pair(image, masks))
        else:
            unlabelled.append(image)
    if not pairs:
        return None
    if len(numbers) > 1:
        raise DataError(f"samples have {' or '.join(map(str, sorted(numbers)))} masks each", where=str(split.folder))
    layers = tuple(split.classes or ()) if len(pairs[0].masks) > 1 else ()
    if layers and len(layers) != len(pairs[0].masks):
        raise DataError(
            f"samples have {len(pairs[0].masks)} masks, and the index has {len(layers)} classes",
            where=str(split.folder),
        )
    return PairedFiles(split.archives[0], tuple(pairs), layers, tuple(unlabelled))


def _masks(sample: ShardSample) -> tuple[Path, ...]:
    found = {int(match[1] or 0): file.path for end, file in sample.files.items() if (match := _MASK.fullmatch(end))}
    return tuple(found[number] for number in sorted(found))
