"""Pascal VOC: `Annotations/*.xml`, `JPEGImages/` and `ImageSets/Main/<split>.txt`; see `voc_xml` for the reader.

Corners are counted from 1, and written with all their decimals, so that boxes are read again to the last bit; boxes of
whole pixels are whole numbers, as in VOC itself. Crowd regions become `difficult`: evaluation forgives both.
"""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from densenet_suite.detection.coordinates import count_from_one, plain
from densenet_suite.detection.datasets import DetectionSet, LabelledImage
from densenet_suite.detection.format_limits import (
    note_occurring_classes,
    note_plain_boxes,
    note_stripped_names,
    shared_classes,
)
from densenet_suite.detection.structures import ClassTable
from densenet_suite.findings import Findings
from densenet_suite.picture_files import picture_names, place_pictures


def write_voc(sets: Mapping[str, DetectionSet], root: Path, *, copy: bool = False) -> dict[str, Findings]:
    """Write splits as a Pascal VOC dataset, and return what was lost of each.

    All splits share the folders; where two of them have pictures of one name, each has a folder of its own in these.

    Args:
        sets: the splits by their names, train first.
        root: folder of the dataset, which is empty.
        copy: the pictures, rather than link them; see `picture_files.place_pictures`.

    Raises:
        DataError: the splits have different classes, or names that cannot be written.
    """
    classes = shared_classes(sets)
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    lost = {split: Findings(str(lists / f"{split}.txt")) for split in sets}
    names = {split: picture_names(dataset.paths, lost[split], by_stem=True) for split, dataset in sets.items()}
    keys = {split: [PurePosixPath(name).with_suffix("").as_posix() for name in names[split]] for split in sets}
    if len(set(chain(*keys.values()))) < sum(len(listed) for listed in keys.values()):
        names = {split: [f"{split}/{name}" for name in listed] for split, listed in names.items()}
        keys = {split: [f"{split}/{key}" for key in listed] for split, listed in keys.items()}
    note_occurring_classes(sets, lost)
    for split, dataset in sets.items():
        note_plain_boxes(dataset, lost[split])
        note_stripped_names(classes, lost[split])
        place_pictures(dataset.paths, names[split], root / "JPEGImages", copy=copy)
        for image, name, key in zip(dataset.images, names[split], keys[split], strict=True):
            file = root / "Annotations" / f"{key}.xml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(ElementTree.tostring(_annotation(image, name, classes), "utf-8", xml_declaration=True))
        (lists / f"{split}.txt").write_text("".join(f"{key}\n" for key in keys[split]), encoding="utf-8")
    return lost


def _annotation(image: LabelledImage, name: str, classes: ClassTable) -> Element:
    root = Element("annotation")
    _add(root, filename=name)
    _add(SubElement(root, "size"), width=image.width, height=image.height)
    objects = image.objects
    for box, label, crowd in zip(objects.boxes.tolist(), objects.labels, objects.crowd, strict=True):
        entry = SubElement(root, "object")
        _add(entry, name=classes.names[label].strip(), difficult=int(crowd))
        x1, y1, x2, y2 = box
        _add(
            SubElement(entry, "bndbox"),
            xmin=count_from_one(x1),
            ymin=count_from_one(y1),
            xmax=plain(x2),
            ymax=plain(y2),
        )
    ElementTree.indent(root)
    return root


def _add(parent: Element, **texts: object) -> None:
    for tag, text in texts.items():
        SubElement(parent, tag).text = str(text)
