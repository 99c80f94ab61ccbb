"""Images with masks written as sharded tars; `pair_shards` reads them, and `classes.json` says what the values mean."""

from collections.abc import Mapping
from pathlib import Path

from densenet_suite.archives.writing import write_samples
from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.segmentation.class_file import ClassFile
from densenet_suite.segmentation.datasets import SegmentationSet
from densenet_suite.segmentation.mask_writer import png


def write_shards(sets: Mapping[str, SegmentationSet], root: Path, *, limit: int = 256 * 2**20) -> dict[str, Findings]:
    """Write splits as sharded tars with an index, and return what was lost of each.

    Args:
        sets: the splits by their names, all of the same classes.
        root: folder of the dataset, which is empty.
        limit: bytes of a shard.

    Raises:
        DataError: there are no splits.
    """
    if not sets:
        raise DataError("there is no split to write")
    classes = next(iter(sets.values())).classes
    numbered = {name: i for i, name in enumerate(classes.names)}

    def labels_of(split: str, number: int) -> dict[str, bytes]:
        mask = sets[split].scenes[number].mask.decode().mask
        if classes.multilabel:
            return {f"mask-{i}.png": png(layer) for i, layer in enumerate(mask)}
        return {"mask.png": png(mask)}

    lost = write_samples({split: dataset.paths for split, dataset in sets.items()}, labels_of, root, numbered, limit)
    values = dict.fromkeys(classes.names, 1) if classes.multilabel else numbered
    ClassFile(values, multilabel=classes.multilabel).write(root)
    return lost
