"""Labelled sets written in every format and read again: what comes back, and what is said to be lost."""

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from densenet_suite.detection.coco_json import read_coco
from densenet_suite.detection.coco_writer import write_coco
from densenet_suite.detection.csv_writer import write_csv
from densenet_suite.detection.data import DetectionData
from densenet_suite.detection.voc_writer import write_voc
from densenet_suite.detection.yolo_writer import write_yolo

WRITERS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo, "csv": write_csv}
SIZES = [(30, 40), (7, 3), (641, 333), (1, 1), (480, 640)]  # height, width
LETTERS = "abXéß日 #&<>\"'%;,=-_()"
GENERATED = (Phase.explicit, Phase.generate)  # to shrink a set of files takes minutes
FEW = settings(max_examples=12, derandomize=True, deadline=None, phases=GENERATED)
FEWER = settings(max_examples=6, derandomize=True, deadline=None, phases=GENERATED)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A PNG of one colour in each size."""
    folder = tmp_path_factory.mktemp("pictures")
    for height, width in SIZES:
        Image.new("RGB", (width, height)).save(folder / f"{height}x{width}.png")
    return folder


def _words(most=8):
    return st.text(LETTERS, min_size=1, max_size=most).filter(lambda text: text == text.strip())


@st.composite
def _boxes(draw, height, width):
    """Boxes as COCO has them, with some inside: whole numbers, hundredths, or any float64."""
    kind = draw(st.sampled_from(["whole", "hundredths", "any"]))
    sides = []
    for length in (width, height):
        if kind == "any":
            low = draw(st.just(0.0) | st.floats(1e-15, length * 0.99))
            side = draw(st.floats(length * 1e-6, length - low).filter(lambda value: value > 0))
        else:
            unit = 1 if kind == "whole" else 100
            cells = draw(st.tuples(st.integers(0, length * unit - 1), st.integers(1, length * unit)))
            low, side = cells[0] / unit, min(cells[1], length * unit - cells[0]) / unit
        sides.append((low, side))
    (x, w), (y, h) = sides
    return [x, y, w, h]


@st.composite
def _contents(draw):
    """The contents of a COCO file, with the size of each picture."""
    names = draw(st.lists(_words(), min_size=1, max_size=4, unique=True))
    whole = st.integers(1, 2**70)
    ids = sorted(draw(st.lists(whole, min_size=len(names), max_size=len(names), unique=True)))
    stems = draw(
        st.lists(st.lists(_words(5), min_size=1, max_size=2).map("/".join), min_size=1, max_size=4, unique=True)
    )
    stems = [stem for stem in stems if not any(other.startswith(f"{stem}.png/") for other in stems)]
    image_ids = draw(st.lists(whole, min_size=len(stems), max_size=len(stems), unique=True))
    images, annotations = [], []
    for key, stem in zip(image_ids, stems, strict=True):
        height, width = draw(st.sampled_from(SIZES))
        images.append({"id": key, "file_name": f"{stem}.png", "height": height, "width": width})
        for _ in range(draw(st.integers(0, 3))):
            annotation = {
                "id": len(annotations) + draw(st.sampled_from([1, 2**60])),
                "image_id": key,
                "category_id": draw(st.sampled_from(ids)),
                "bbox": draw(_boxes(height, width)),
                "iscrowd": draw(st.sampled_from([0, 0, 0, 1])),
            }
            if draw(st.booleans()):
                annotation["area"] = draw(st.floats(0.5, 1e6))
            if draw(st.booleans()):
                annotation["segmentation"] = [[0, 0, 1, 0, 1, 1.5]]
            annotations.append(annotation)
    numbered = {a["id"] for a in annotations}
    if len(numbered) < len(annotations):
        annotations = [{**a, "id": i} for i, a in enumerate(annotations, start=5)]
    categories = [{"id": key, "name": name} for key, name in zip(ids, names, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _source(content, pictures, root):
    """Write a COCO file, its pictures and their folders, by hand; read it."""
    for image in content["images"]:
        target = root / "source" / image["file_name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(pictures / f"{image['height']}x{image['width']}.png")
    file = root / "source.json"
    file.write_text(json.dumps(content))
    return read_coco("train", file, root / "source")


def _reread(root, name, dataset, classes=None):
    root = root / name
    lost = WRITERS[name]({"train": dataset}, root)["train"]
    found = DetectionData(root, (64, 64), 1, holdout=0, format=name, classes=classes).split("train")
    return found, Counter({finding.check: finding.count for finding in lost})


def _by_key(dataset):
    """Images by what their file is called below the folder that all share."""
    parents = [path.parent for path in dataset.paths]
    shared = next(p for p in [parents[0], *parents[0].parents] if all(other.is_relative_to(p) for other in parents))
    return {image.path.relative_to(shared).as_posix(): image for image in dataset.images}


def _rows(dataset, image, keep=lambda crowd: True):
    objects = image.objects
    rows = zip(objects.boxes.tolist(), objects.labels.tolist(), objects.crowd.tolist(), strict=True)
    return [(box, dataset.classes.names[label], crowd) for box, label, crowd in rows if keep(crowd)]


@given(content=_contents())
@FEW
def test_coco_gives_everything_again(pictures, content):
    with tempfile.TemporaryDirectory() as folder:
        source = _source(content, pictures, Path(folder))
        found, lost = _reread(Path(folder), "coco", source)
        assert not lost
        assert found.classes == source.classes
        assert list(_by_key(found)) == list(_by_key(source))
        for ours, theirs in zip(found.images, source.images, strict=True):
            assert (ours.id, ours.height, ours.width) == (theirs.id, theirs.height, theirs.width)
            assert ours.objects.ids == theirs.objects.ids
            assert ours.objects.segmentations == theirs.objects.segmentations
            for name in ("boxes", "labels", "crowd", "areas"):
                assert (getattr(ours.objects, name) == getattr(theirs.objects, name)).all()


@pytest.mark.parametrize("name", ["voc", "yolo", "csv"])
@given(content=_contents())
@FEW
def test_boxes_come_back_to_the_last_bit_and_what_does_not_is_counted(pictures, name, content):
    with tempfile.TemporaryDirectory() as folder:
        source = _source(content, pictures, Path(folder))
        used = {a["category_id"] for a in content["annotations"]}
        if name != "yolo" and not used:
            return  # no class would be left
        found, lost = _reread(Path(folder), name, source)
        theirs = _by_key(source)
        ours = _by_key(found)
        assert ours.keys() == theirs.keys()
        for key, image in ours.items():
            assert (image.height, image.width) == (theirs[key].height, theirs[key].width)
            keep = (lambda crowd: not crowd) if name == "yolo" else (lambda crowd: True)
            assert _rows(found, image) == _rows(source, theirs[key], keep)
        _assert_counted(name, content, source, found, lost)


def _assert_counted(name, content, source, found, lost):
    """Hold the counts against the contents of the file that the set was read from."""
    annotations = content["annotations"]
    used = {a["category_id"] for a in annotations}
    names = {c["id"]: c["name"] for c in content["categories"]}
    expected = Counter()
    expected["crowd-left-out"] = sum(a["iscrowd"] for a in annotations) if name == "yolo" else 0
    expected["outline-lost"] = sum("segmentation" in a for a in annotations)
    expected["image-id-lost"] = sum(image["id"] != i for i, image in enumerate(content["images"], start=1))
    order = [a["id"] for image in content["images"] for a in annotations if a["image_id"] == image["id"]]
    expected["annotation-id-lost"] = sum(key != i for i, key in enumerate(order, start=1))
    expected["area-lost"] = sum(
        "area" in a and not np.isclose(a["area"], a["bbox"][2] * a["bbox"][3], rtol=1e-8) for a in annotations
    )
    files = [image["file_name"] for image in content["images"]]
    if name == "yolo":
        assert found.classes.names == source.classes.names
        expected["category-id-lost"] = sum(key != i for i, key in enumerate(sorted(names)))
        expected["image-order-lost"] = int(files != sorted(files, key=lambda file: file.split("/")))
    else:
        kept = [names[key] for key in sorted(used)]
        assert found.classes.names == tuple(sorted(kept))
        expected["class-lost"] = len(names) - len(used)
        expected["class-order-lost"] = sum(a != b for a, b in zip(kept, sorted(kept), strict=True))
        ids = {name: key for key, name in names.items()}
        expected["category-id-lost"] = sum(ids[kind] != i for i, kind in enumerate(sorted(kept), start=1))
    assert lost == +expected


@given(content=_contents(), chain=st.permutations(["voc", "yolo", "csv"]))
@FEWER
def test_a_set_through_all_formats_is_the_same_set(pictures, content, chain):
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 0
    if not content["annotations"]:
        return
    with tempfile.TemporaryDirectory() as folder:
        source = dataset = _source(content, pictures, Path(folder))
        for name in [*chain, "coco"]:
            dataset, _ = _reread(Path(folder), name, dataset)
        theirs, ours = _by_key(source), _by_key(dataset)
        assert ours.keys() == theirs.keys()
        for key, image in ours.items():
            assert _rows(dataset, image) == _rows(source, theirs[key])


@given(content=_contents())
@FEWER
def test_the_same_set_gives_the_same_targets_in_every_format(pictures, content):
    """With the classes of a model, labels are the same too; the targets are what training sees."""
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 0
    with tempfile.TemporaryDirectory() as folder:
        source = _source(content, pictures, Path(folder))
        for name in WRITERS:
            found, _ = _reread(Path(folder), name, source, source.classes)
            theirs, ours = _by_key(source), _by_key(found)
            for key, image in ours.items():
                assert (image.objects.boxes == theirs[key].objects.boxes).all()
                assert (image.objects.labels == theirs[key].objects.labels).all()


def test_blood_cells_go_through_every_format(data_folder, tmp_path):
    source = DetectionData(data_folder("bccd"), (64, 64), 1).split("val").subset("train", range(12))
    dataset = source
    for name in ("voc", "yolo", "csv", "coco"):
        dataset, lost = _reread(tmp_path, name, dataset, source.classes)
        assert lost.keys() <= {
            "image-id-lost",
            "category-id-lost",
            "class-order-lost",
            "annotation-id-lost",
            "area-lost",
        }
    assert [image.path.name for image in dataset.images] == [image.path.name for image in source.images]
    for ours, theirs in zip(dataset.images, source.images, strict=True):
        assert (ours.objects.boxes == theirs.objects.boxes).all()
        assert (ours.objects.labels == theirs.objects.labels).all()
