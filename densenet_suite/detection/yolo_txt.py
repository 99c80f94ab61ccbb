"""YOLO annotations: a text file for each picture, and a yaml that names classes and splits.

A line is `class cx cy w h`: the class as its number in `names`, counted from 0, and centre and size of the box as
shares of the picture's width and height. The text file of images/train/a.jpg is labels/train/a.txt: the last folder
called images, below the yaml's, becomes labels; where there is none, it lies beside the picture. A picture without a
text file has no objects, and is counted.

In the yaml, `names` is a list or a mapping from numbers, and `train`, `val` and `test` are folders, lists of pictures
(.txt), or several of these, relative to `path`. A `path` that is no folder below the yaml's own is of another machine:
the yaml's folder takes its place, and "../" at the beginning of an entry is left out if it leads out of it.

Reference: https://docs.ultralytics.com/datasets/detect/
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from densenet_suite.detection.annotation_checks import (
    ListedBox,
    ListedImage,
    assemble,
    check_headers,
    image_files,
    is_below,
    read_annotation_text,
    to_number,
)
from densenet_suite.detection.coordinates import to_corners
from densenet_suite.detection.datasets import DetectionSet
from densenet_suite.detection.structures import ClassTable
from densenet_suite.detection.yolo_yaml import load_data_yaml
from densenet_suite.findings import Findings

_TXT_BYTES = 16_777_216
_MOST = 1.01  # largest share of a picture that is a rounding error of 1


def read_yolo(
    name: str,
    data: Path | str,
    classes: ClassTable | None = None,
    key: str | None = None,
    findings: Findings | None = None,
) -> DetectionSet:
    """Read a split in YOLO format.

    Args:
        name: of the split.
        data: the yaml file.
        classes: those of the training split or the model, matched by name; None for those of the yaml.
        key: what the yaml calls the split; None for its name.
        findings: takes what is found; None for one of its own, at whose errors reading stops.

    Raises:
        DataError: files cannot be read, or hold faults that would make a run wrong: all kinds at once.
    """
    data = Path(data)
    findings = findings or Findings(str(data))
    content = load_data_yaml(data)
    names = _class_names(content, findings)
    folders, paths = _find_pictures(content, key or name, data, findings)
    images = [ListedImage(i, path, path.name) for i, path in enumerate(paths, start=1)]
    check_headers(images, findings)
    findings.raise_errors()
    labels = [label_file(image.path, data.parent) for image in images]
    _note_orphans(labels, folders, data.parent, findings)
    listed = [(image, _read_boxes(file, image, names, findings)) for image, file in zip(images, labels, strict=True)]
    if labels and not any(file.is_file() for file in labels):
        findings.error(
            "no-labels",
            f"none of the {len(labels)} pictures has a text file: the first was looked for at {labels[0]}",
            "the text file of images/.../a.jpg is labels/.../a.txt",
        )
    own = ClassTable(tuple(names.values()), tuple(names))
    return assemble(name, data, listed, classes, own, findings)


def _class_names(content: Mapping[Any, Any], findings: Findings) -> dict[int, str]:
    """Return the class of each number, in the order of numbers."""
    given = content.get("names")
    by_number = dict(enumerate(given)) if isinstance(given, list) else given
    pairs = list(by_number.items()) if isinstance(by_number, dict) else []
    names: dict[int, str] = {}
    for number, name in pairs:
        if not _is_whole(number) or number < 0:
            findings.error("class-id", f"names has a key that is no number from 0: {_short(number)}")
        elif _is_whole(name) or (isinstance(name, str) and name.strip()):
            names[number] = str(name).strip()
        else:
            findings.error(
                "class-name",
                f"names[{number}] is {_short(name)}, not a name",
                "yaml takes yes, no, on and off for truth values: put them in quotes",
            )
    if not pairs:
        findings.error("no-classes", "names holds no classes", "names: [cat, dog], or names: {0: cat, 1: dog}")
    for name in (name for name, times in Counter(names.values()).items() if times > 1):
        findings.error("class-name-twice", f"the class name {name!r} stands for several numbers")
    count = content.get("nc")
    if _is_whole(count) and count != len(pairs):
        findings.error("class-count", f"nc is {count}, and there are {len(pairs)} names", "which of the two is right?")
    return dict(sorted(names.items()))


def _find_pictures(
    content: Mapping[Any, Any], key: str, data: Path, findings: Findings
) -> tuple[list[Path], list[Path]]:
    """Return the folders that a split is made of, if it is of nothing else, and its pictures."""
    base = data.parent
    path = content.get("path")
    if isinstance(path, str) and path:
        if is_below(base / path, base) and _can_be(base / path) and (base / path).is_dir():
            base = base / path
        else:
            findings.warning("yaml-path", f"path {path!r} is no folder below {base}, which takes its place")
    given = content.get(key)
    folders: list[Path] = []
    found: list[Path] = []
    entries = given if isinstance(given, list) else [given]
    for entry in entries:
        place = _resolve(entry, (base,), data.parent) if isinstance(entry, str) and entry else None
        if place is None or not _can_be(place):
            findings.error(
                "file-outside",
                f"{key}: {_short(entry)} is no place below the folder of the yaml",
                "name folders of pictures, or lists of them, relative to the yaml",
            )
        elif place.is_dir():
            folders.append(place)
            found += image_files(place)
        elif place.is_file() and place.suffix.lower() == ".txt":
            found += _listed(place, base, data.parent, findings)
        else:
            findings.error(
                "split-missing",
                f"{key}: {entry} is neither a folder nor a list of pictures: {place}",
                f"take {key} out of the yaml where there is no such split",
            )
    unique = list(dict.fromkeys(found))
    if len(unique) < len(found):
        findings.warning("image-listed-twice", f"{key}: {len(found) - len(unique)} pictures are listed twice")
    return folders if len(folders) == len(entries) else [], unique


def _listed(file: Path, base: Path, root: Path, findings: Findings) -> list[Path]:
    found = []
    for number, line in enumerate(read_annotation_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        path = _resolve(line.strip(), (file.parent, base), root)
        if path is None:
            findings.error(
                "file-outside",
                f"{file.name}:{number}: {line.strip()!r} leads out of the dataset's folder {root}",
                "name pictures relative to the list",
            )
        else:
            found.append(path)
    return found


def _resolve(entry: str, bases: Sequence[Path], root: Path) -> Path | None:
    """Return the place below `root` that an entry means: the first that is there, or else the first."""
    text = entry.replace("\\", "/")
    forms = (text, re.sub(r"^(\.\./)+", "", text))
    candidates = [Path(os.path.normpath(base / form)) for form in forms for base in bases]
    inside = [path for path in candidates if is_below(path, root)]
    return next((path for path in inside if _can_be(path) and path.exists()), inside[0] if inside else None)


def _can_be(path: Path) -> bool:
    """Say whether there can be a file of this name: none holds a NUL, or is thousands of characters long."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return True


def label_file(image: Path, root: Path) -> Path:
    """Return the text file of a picture, both below the yaml's folder."""
    folders = list(Path(os.path.relpath(image, root)).parts[:-1])
    for i in reversed(range(len(folders))):
        if folders[i] == "images":
            folders[i] = "labels"
            break
    return root.joinpath(*folders, image.stem + ".txt")


def _note_orphans(labels: Iterable[Path], folders: Iterable[Path], root: Path, findings: Findings) -> None:
    known = set(labels)
    for folder in dict.fromkeys(label_file(folder / "a.jpg", root).parent for folder in folders):
        for file in sorted(folder.rglob("*.txt")) if folder.is_dir() else ():
            if file not in known and file.name != "classes.txt":
                findings.warning("labels-without-image", f"{file} is of no picture and is not read")


def _read_boxes(file: Path, image: ListedImage, names: Mapping[int, str], findings: Findings) -> list[ListedBox]:
    boxes: list[ListedBox] = []
    if not file.is_file():
        findings.warning("image-without-labels", f"{image.path.name} has no {file}: it counts as without objects")
        return boxes
    for number, line in enumerate(read_annotation_text(file, _TXT_BYTES).splitlines(), start=1):
        place = f"{file.name}:{number}"
        numbers = [to_number(field) for field in line.split()]
        if not numbers:
            continue
        values = [value for value in numbers if value is not None]
        if len(numbers) != 5 or len(values) != 5:
            findings.error(
                "box-format",
                f"{place} is {line.strip()[:80]!r}, not five numbers",
                "a line is: class cx cy w h; polygons, points and confidences are not read",
            )
            continue
        if values[0] not in names:
            findings.error(
                "class-unknown-id",
                f"{place}: class {line.split()[0]} is not in names",
                f"the numbers are {', '.join(map(str, list(names)[:8]))}: classes are counted from 0",
            )
            continue
        if max(values[1:]) > _MOST:
            findings.error(
                "box-not-shares",
                f"{place}: box {values[1:]} has numbers above 1",
                "divide pixels by the picture's width and height",
            )
            continue
        corners = to_corners(line.split()[1:], image.height, image.width)
        boxes.append(ListedBox(names[int(values[0])], corners, f"{place}: box {values[1:]}"))
    return boxes


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: Any) -> str:
    return repr(value)[:80] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
