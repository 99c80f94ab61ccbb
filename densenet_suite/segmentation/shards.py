"""Images with masks written as sharded tars; `pair_shards` reads them, and `classes.json` says what the values mean."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from densenet_suite.archives.members import ArchiveWriter, open_binary
from densenet_suite.archives.shards import FOLDER, sample_keys, write_index
from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.picture_files import picture_names
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
    folder = root / FOLDER
    folder.mkdir(parents=True)
    lost, archives = {}, []
    for split, dataset in sets.items():
        lost[split] = Findings(str(folder))
        names = picture_names(dataset.paths, lost[split], by_stem=True)
        writer = ArchiveWriter(folder, split, limit)
        for scene, name, key in zip(dataset.scenes, names, sample_keys(names, lost[split]), strict=True):
            with open_binary(scene.path) as file:
                files = {f"{key}{PurePosixPath(name).suffix.lower()}": file.read()}
            mask = scene.mask.decode().mask
            if classes.multilabel:
                files |= {f"{key}.mask-{i}.png": png(layer) for i, layer in enumerate(mask)}
            else:
                files[f"{key}.mask.png"] = png(mask)
            writer.add(files)
        writer.close()
        archives += writer.archives
    write_index(folder, archives, {name: i for i, name in enumerate(classes.names)})
    values = dict.fromkeys(classes.names, 1) if classes.multilabel else {n: i for i, n in enumerate(classes.names)}
    ClassFile(values, multilabel=classes.multilabel).write(root)
    return lost
