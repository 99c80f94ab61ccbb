"""Where the splits of a dataset lie, found by the names that folders usually have. This module needs no torch."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from densenet_suite.archives.shards import find_shards
from densenet_suite.errors import DataError
from densenet_suite.geo.geojson_rasters import GeoJsonFiles, find_geojson
from densenet_suite.segmentation.pair_shards import pair_samples
from densenet_suite.segmentation.pair_table import find_table, read_table
from densenet_suite.segmentation.pairing import (
    SHOWN,
    SPLIT_NAMES,
    PairedFiles,
    pair_folders,
    path_key,
    without_ending,
)

_MASK_FOLDERS = ("masks", "annotations", "labels")
_NNUNET = {"train": "Tr", "test": "Ts"}


@dataclass(frozen=True)
class CocoFile:
    """A split whose masks are the polygons and run lengths of a COCO instances file; `images` is its folder."""

    annotations: Path
    images: Path


SplitFiles = PairedFiles | CocoFile | GeoJsonFiles


def find_split(root: Path, split: str, *, mask_name: str = "{stem}", multilabel: bool = False) -> SplitFiles | None:
    """Find a split below a dataset's folder.

    Looked for, in this order (`val` may also be called valid or validation; masks may also lie in a folder called
    annotations or labels):

    1. a CSV file with the columns image, mask and perhaps split: `<split>.csv`, or any with a column split;
    2. GeoJSON polygons: images/<split>/ with labels/<split>/*.geojson or <split>.geojson; see `find_geojson`;
    3. images/<split>/ and masks/<split>/;
    4. <split>/images/ and <split>/masks/;
    5. annotations/instances_<split>.json in COCO format, perhaps with a year behind the split, beside images/<split>/,
       <split>/ or images/;
    6. sharded tars with masks: shards/<split>-000000.tar and so on, or the same without a folder;
    7. imagesTr/ and labelsTr/, imagesTs/ and labelsTs/, as nnU-Net has them, for train and test;
    8. images/ and masks/ with a list of names in <split>.txt; without any list, all of them are the training split.

    Args:
        root: the folder.
        split: train, val or test.
        mask_name: of the mask that belongs to an image, without ending, such as "{stem}_mask".
        multilabel: classes may overlap, so that folders among the masks may stand for a class each.

    Raises:
        DataError: several files could be meant, or a list or table is wrong.
    """
    for alias in SPLIT_NAMES[split]:
        table = find_table(root, split, alias)
        if table is not None:
            return read_table(table, root, split)
        polygons = None if (root / "masks").is_dir() else find_geojson(root, split, alias)
        if polygons is not None:
            return polygons
        for images, parent in ((root / "images" / alias, root), (root / alias / "images", root / alias)):
            masks = [parent / name for name in _MASK_FOLDERS]
            masks = [folder / alias for folder in masks] if parent == root else masks
            there = [folder for folder in masks if folder.is_dir()]
            if images.is_dir() and there:
                return pair_folders(images, there[0], split, mask_name=mask_name, multilabel=multilabel)
        coco = _find_coco(root, split, alias)
        if coco is not None:
            return coco
        images = root / "images" / alias
        if images.is_dir() and split != "test":  # pictures to test on often have no masks
            return pair_folders(images, root / "masks" / alias, split, mask_name=mask_name)
    shards = find_shards(root, SPLIT_NAMES[split])
    if shards is not None and (pairs := pair_samples(shards)) is not None:
        return pairs
    if split in _NNUNET:
        pictures, labels = (root / f"{kind}{_NNUNET[split]}" for kind in ("images", "labels"))
        if pictures.is_dir() and labels.is_dir():
            return pair_folders(pictures, labels, split, mask_name=mask_name, multilabel=multilabel)
    return _unsplit(root, split, mask_name, multilabel)


def name_split(
    root: Path, split: str, images: str, masks: str, *, mask_name: str = "{stem}", multilabel: bool = False
) -> SplitFiles:
    """Return a split whose places a config names, relative to the dataset's folder.

    Args:
        root: the folder.
        split: its name.
        images: folder of the images.
        masks: folder of the masks, a CSV file with the columns image (relative to `images`) and mask (relative to the
            CSV's folder), a COCO file, or a GeoJSON file or folder of them.
        mask_name: see `find_split`.
        multilabel: see `find_split`.

    Raises:
        DataError: the CSV file is wrong.
    """
    kind = Path(masks).suffix.lower()
    if kind == ".csv":
        return read_table(root / masks, root / images, split)
    if kind == ".json":
        return CocoFile(root / masks, root / images)
    if kind == ".geojson" or any((root / masks).glob("*.geojson")):
        return GeoJsonFiles(root / masks, root / images)
    return pair_folders(root / images, root / masks, split, mask_name=mask_name, multilabel=multilabel)


def _find_coco(root: Path, split: str, alias: str) -> CocoFile | None:
    exact = root / "annotations" / f"instances_{alias}.json"
    found = [exact] if exact.is_file() else sorted((root / "annotations").glob(f"instances_{alias}20[0-9][0-9].json"))
    if len(found) > 1:
        raise DataError(
            f"several files could be the {split} split: {', '.join(path.name for path in found)}",
            where=str(root),
            hint=f"name one: data.{split}.images=... data.{split}.masks=annotations/{found[0].name}",
        )
    if not found:
        return None
    name = found[0].stem.removeprefix("instances_")
    folders = (root / "images" / name, root / name, root / "images", root)
    return CocoFile(found[0], next(folder for folder in folders if folder.is_dir()))


def _unsplit(root: Path, split: str, mask_name: str, multilabel: bool) -> PairedFiles | None:
    images = root / "images"
    masks = next((root / name for name in _MASK_FOLDERS if (root / name).is_dir()), root / "masks")
    names = [alias for aliases in SPLIT_NAMES.values() for alias in aliases]
    if not images.is_dir() or any((images / alias).is_dir() for alias in names):
        return None
    lists = {alias: root / f"{alias}.txt" for alias in names if (root / f"{alias}.txt").is_file()}
    mine = next((lists[alias] for alias in SPLIT_NAMES[split] if alias in lists), None)
    if mine is None and (lists or split != "train"):
        return None
    whole = pair_folders(images, masks, split, mask_name=mask_name, multilabel=multilabel)
    return whole if mine is None else _chosen(whole, images, mine)


def _chosen(whole: PairedFiles, images: Path, names: Path) -> PairedFiles:
    """Return the part of unsplit files that a list of names chooses, each with or without its ending."""
    pairs = {path_key(pair.image, images): pair for pair in whole.pairs}
    unlabelled = {path_key(path, images): path for path in whole.unlabelled}
    try:
        lines = names.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"list of names cannot be read: {error}", where=str(names)) from None
    wanted = [re.sub(r"\\", "/", line.strip()) for line in lines if line.strip()]
    keys = [without_ending(name) if name not in pairs and name not in unlabelled else name for name in wanted]
    unknown = [name for name, key in zip(wanted, keys, strict=True) if key not in pairs and key not in unlabelled]
    if unknown:
        raise DataError(
            f"{len(unknown)} of the {len(wanted)} names are of no image below {images}: {', '.join(unknown[:SHOWN])}",
            where=str(names),
            hint="one name to a line, relative to the folder of images, with or without its ending",
        )
    keys = list(dict.fromkeys(keys))
    return replace(
        whole,
        where=names,
        pairs=tuple(pairs[key] for key in keys if key in pairs),
        unlabelled=tuple(unlabelled[key] for key in keys if key in unlabelled),
    )
