"""YOLO: `images/<split>/`, `labels/<split>/` and a `data.yaml`; see `yolo_txt` for the reader.

A share of a picture's side seldom has an end, so each is written with as many decimals as give the box again to the
last bit, and no fewer than six. Crowd regions are left out, as the format would make objects of them; boxes that leave
the picture further than a share may are cut off at its border.
"""

from collections.abc import Mapping
from pathlib import Path

import yaml

from densenet_suite.detection.coordinates import to_shares
from densenet_suite.detection.datasets import DetectionSet, LabelledImage
from densenet_suite.detection.format_limits import (
    note_category_ids,
    note_difference,
    note_order,
    note_plain_boxes,
    note_stripped_names,
    shared_classes,
)
from densenet_suite.detection.yolo_txt import label_file
from densenet_suite.detection.yolo_yaml import YAML_BYTES
from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.picture_files import picture_names, place_pictures


def write_yolo(sets: Mapping[str, DetectionSet], root: Path, *, copy: bool = False) -> dict[str, Findings]:
    """Write splits as a YOLO dataset, and return what was lost of each.

    Args:
        sets: the splits by their names, train first.
        root: folder of the dataset, which is empty.
        copy: the pictures, rather than link them; see `picture_files.place_pictures`.

    Raises:
        DataError: the splits have different classes, or names that cannot be written.
    """
    classes = shared_classes(sets)
    lost = {}
    for split, dataset in sets.items():
        folder = root / "images" / split
        lost[split] = Findings(str(root / "labels" / split))
        names = picture_names(dataset.paths, lost[split], by_stem=True)
        note_plain_boxes(dataset, lost[split])
        note_category_ids(classes, 0, lost[split])
        note_stripped_names(classes, lost[split])
        note_order(names, lost[split])
        place_pictures(dataset.paths, names, folder, copy=copy)
        for image, name in zip(dataset.images, names, strict=True):
            file = label_file(folder / name, root)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(_lines(image, lost[split])), encoding="utf-8")
    content = {split: f"images/{split}" for split in sets}
    text = yaml.safe_dump(
        {**content, "nc": len(classes), "names": {i: name.strip() for i, name in enumerate(classes.names)}},
        sort_keys=False,
        allow_unicode=True,
    )
    if len(text.encode()) > YAML_BYTES:
        raise DataError(f"the names of {len(classes)} classes take more than the {YAML_BYTES:,} bytes of a data.yaml")
    (root / "data.yaml").write_text(text, encoding="utf-8")
    return lost


def _lines(image: LabelledImage, lost: Findings) -> list[str]:
    lines = []
    objects = image.objects
    size = (image.height, image.width)
    rows = zip(objects.boxes, objects.clipped(*size), objects.labels.tolist(), objects.crowd, objects.ids, strict=True)
    for box, inside, label, crowd, key in rows:
        if crowd:
            lost.warning("crowd-left-out", f"object {key} of {image.path.name} is a crowd region")
            continue
        corners = box.tolist()
        if not _has_shares(corners, *size):
            lost.warning("box-cut-off", f"object {key} of {image.path.name} at {corners} is cut off at the border")
            corners = inside.tolist()
        texts, error = to_shares(corners, *size)
        note_difference(image, key, error, lost)
        lines.append(f"{label} {' '.join(texts)}\n")
    return lines


def _has_shares(corners: list[float], height: int, width: int) -> bool:
    """Say whether centre and size are shares of the picture, from 0 to 1."""
    x1, y1, x2, y2 = corners
    return max(x2 - x1, (x1 + x2) / 2) <= width and max(y2 - y1, (y1 + y2) / 2) <= height and min(x1 + x2, y1 + y2) >= 0
