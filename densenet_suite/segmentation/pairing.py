"""Images and masks that belong together because they are called the same. This module needs no torch.

The mask of an image has its name but for the ending, or is called as `mask_name` says. Files whose name begins with a
dot are no part of a dataset. A volume is a NIfTI file; a DICOM file directly in the folder of images or masks; or a
folder below it that holds the DICOM files of a series.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from densenet_suite.errors import DataError
from densenet_suite.images import IMAGE_SUFFIXES
from densenet_suite.volumes.dicom import is_dicom
from densenet_suite.volumes.scenes import channel_of, without_channel
from densenet_suite.volumes.voxels import NIFTI_ENDINGS, VOLUME_ENDINGS, ending_of

MASK_SUFFIXES = (*IMAGE_SUFFIXES, ".gif")
SPLIT_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
SHOWN = 5
_NAME_IT = "say where both are: data.{split}.images=... and data.{split}.masks=..."


@dataclass(frozen=True)
class Pair:
    """An image and its masks: one file, or one for each class in the order of `PairedFiles.layers`."""

    image: Path
    masks: tuple[Path, ...]


@dataclass(frozen=True)
class PairedFiles:
    """A split of images with mask files.

    Attributes:
        where: the folder or file that says what belongs together.
        pairs: sorted by the image's name.
        layers: the classes, where each has mask files of its own; otherwise empty.
        unlabelled: images with no mask, or with none for some class.
        unused: masks with no image.
        hint: how the missing masks could be found.
    """

    where: Path
    pairs: tuple[Pair, ...]
    layers: tuple[str, ...] = ()
    unlabelled: tuple[Path, ...] = ()
    unused: tuple[Path, ...] = ()
    hint: str | None = None

    def missing(self) -> str:
        """Return a line that names the images without mask; nothing where there are none."""
        if not self.unlabelled:
            return ""
        names = ", ".join(path.name for path in self.unlabelled[:SHOWN])
        more = f" and {len(self.unlabelled) - SHOWN} more" if len(self.unlabelled) > SHOWN else ""
        number = "1 image has" if len(self.unlabelled) == 1 else f"{len(self.unlabelled)} images have"
        return f"{number} no mask: {names}{more}"


def pair_folders(
    images: Path, masks: Path, split: str, *, mask_name: str = "{stem}", multilabel: bool = False
) -> PairedFiles:
    """Pair the files of two folders, searched to their depths; the same folder may hold both.

    Raises:
        DataError: two files have the same name but for the ending.
    """
    layers = _class_folders(masks) if multilabel else ()
    mask_of = [_bypath_key(masks / layer, MASK_SUFFIXES) for layer in layers or ("",)]
    image_of = _bypath_key(images, IMAGE_SUFFIXES)
    if images == masks and mask_name != "{stem}":
        called_so = re.compile(re.escape(mask_name).replace(re.escape("{stem}"), ".+"))
        image_of = {key: path for key, path in image_of.items() if not called_so.fullmatch(path.stem)}
        mask_of = [{key: path for key, path in mask_of[0].items() if key not in image_of}]
    pairs, unlabelled = [], []
    used: set[Path] = set()
    for key, image in image_of.items():
        folder, _, stem = key.rpartition("/")
        wanted = f"{folder}/{mask_name.format(stem=stem)}".lstrip("/")
        found = tuple(layer[wanted] for layer in mask_of if wanted in layer)
        used.update(found)
        if len(found) == len(mask_of):
            pairs.append(Pair(image, found))
        else:
            unlabelled.append(image)
    unused = [path for layer in mask_of for path in layer.values() if path not in used]
    hint = _missing_hint(masks, split, unlabelled, unused, layers)
    return PairedFiles(masks, tuple(pairs), layers, tuple(unlabelled), tuple(unused), hint)


def stays_inside(name: str) -> bool:
    """Say whether a file name in a dataset leads to no place outside the folder that it is relative to."""
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or Path(name).is_absolute():
        return False
    depth = 0
    for part in parts:
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return False
    return True


def _class_folders(masks: Path) -> tuple[str, ...]:
    if not masks.is_dir() or any(_is_file(path, MASK_SUFFIXES) for path in masks.iterdir()):
        return ()
    return tuple(sorted(path.name for path in masks.iterdir() if path.is_dir() and not path.name.startswith(".")))


def _bypath_key(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return the files and series below a folder by their path in it without ending."""
    found: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if file.parent != folder and is_dicom(file):
            path = file.parent  # the folder of a series
        elif _is_file(file, suffixes) and not channel_of(file):
            path = file
        else:
            continue
        key = path_key(path, folder)
        if found.setdefault(key, path) != path:
            raise DataError(
                f"{found[key].name} and {path.name} have the same name but for the ending",
                where=str(path.parent),
                hint="pictures and masks are paired by name: take one away or give it another",
            )
    return found


def _is_file(path: Path, suffixes: Sequence[str]) -> bool:
    known = ending_of(path) in (*suffixes, *NIFTI_ENDINGS)
    return (known and not path.name.startswith(".") and path.is_file()) or is_dicom(path)


def path_key(path: Path, folder: Path) -> str:
    """Return a file's path in a folder, without its ending, and without the number of a channel of nnU-Net."""
    key = without_ending(path.relative_to(folder).as_posix())
    return key if channel_of(path) is None else without_channel(key)


def without_ending(name: str) -> str:
    """Return a name without the ending of an image or volume, if it has one; other dots are part of the name."""
    ending = ending_of(Path(name))
    return name[: -len(ending)] if ending in (*MASK_SUFFIXES, *VOLUME_ENDINGS) else name


def _missing_hint(
    masks: Path, split: str, unlabelled: Sequence[Path], unused: Sequence[Path], layers: Sequence[str]
) -> str | None:
    if not unlabelled:
        return None
    if layers:
        return f"every image needs a mask in each of {', '.join(layers)}: all zeros where a class does not occur"
    stem = unlabelled[0].stem
    similar = next((path.stem for path in unused if stem in path.stem), None)
    if similar is not None:
        return f"there is {similar} for {stem}: data.mask_name={similar.replace(stem, '{stem}', 1)}"
    if not masks.is_dir():
        return _NAME_IT.format(split=split)
    return f"masks were looked for in {masks}, under the same names"
