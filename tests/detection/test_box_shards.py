"""Boxes in sharded tars: ours, with everything that a set holds, and plain ones of webdataset's layout."""

import io
import json

import pytest
from PIL import Image

from densenet_suite.archives.shards import find_shards
from densenet_suite.archives.writing import ArchiveWriter, write_index
from densenet_suite.detection.data import DetectionData
from densenet_suite.detection.shards import read_shards, write_shards
from densenet_suite.errors import DataError
from densenet_suite.findings import Findings


def _png(size=(40, 30)):
    content = io.BytesIO()
    Image.new("RGB", size).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def read(tmp_path):
    """Write samples, files by ending for each key, into plain tars, and read them."""

    def samples(*shards, classes=None, findings=None):
        archives = []
        for number, shard in enumerate(shards):
            with ArchiveWriter(tmp_path, f"train-{number}", 10**6) as writer:
                for key, files in shard.items():
                    labels = files.get("json")
                    content = labels if isinstance(labels, bytes) else json.dumps(labels).encode()
                    parts = {"png": _png(), "json": content} | {k: v for k, v in files.items() if k != "json"}
                    writer.add({f"{key}.{end}": part for end, part in parts.items() if part is not None})
            archives += writer.archives
        if classes is not None:
            write_index(tmp_path, archives, classes)
        return read_shards("train", find_shards(tmp_path, ("train",)), findings=findings)

    return samples


def test_plain_tars_are_read_without_an_index(read):
    found = read(
        {"a/1": {"json": {"boxes": [[1, 2, 10, 20], [0.1, 0.2, 0.7, 5.3]], "labels": ["dog", "cat"]}}},
        {"b": {"json": {"boxes": [], "labels": []}}},
    )
    assert found.classes.names == ("cat", "dog")
    first, second = found.images
    assert first.objects.boxes.tolist() == [[1, 2, 10, 20], [0.1, 0.2, 0.7, 5.3]]
    assert first.objects.labels.tolist() == [1, 0]
    assert (first.height, first.width, first.path.name) == (30, 40, "1.png")
    assert len(second.objects) == 0
    assert not found.findings.to_list()


def test_everything_that_a_set_holds_is_held(synthetic, tmp_path):
    source = DetectionData(synthetic, (64, 64), 1)
    sets = {name: source.split(name) for name in ("train", "val")}
    lost = write_shards(sets, tmp_path / "out", limit=20_000)
    assert not any(list(findings) for findings in lost.values())
    data = DetectionData(tmp_path / "out", (64, 64), 1)
    assert len(data.files("train").archives) > 2
    assert data.recognised("val") == f"sharded tars, as there is {tmp_path / 'out' / 'shards' / 'val-000000.tar'}"
    for name, theirs in sets.items():
        ours = data.split(name)
        assert ours.classes == theirs.classes
        for a, b in zip(ours.images, theirs.images, strict=True):
            assert (a.id, a.height, a.width, a.path.name) == (b.id, b.height, b.width, b.path.name)
            assert a.objects.ids == b.objects.ids
            assert a.objects.segmentations == b.objects.segmentations
            for part in ("boxes", "labels", "crowd", "areas"):
                assert (getattr(a.objects, part) == getattr(b.objects, part)).all()


GOOD = {"boxes": [[1, 1, 5, 5]], "labels": ["cat"]}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (b"{", "train-0-000000.tar!a.json cannot be read"),
        (b"[]", "train-0-000000.tar!a.json does not hold lists of equal length"),
        ({"boxes": [[1, 1, 5, 5]], "labels": []}, "does not hold lists of equal length"),
        ({**GOOD, "crowd": [0, 1]}, "does not hold lists of equal length"),
        ({"boxes": [[1, 1, 5]], "labels": ["cat"]}, "is [1, 1, 5], not four numbers"),
        ({"boxes": ["1234"], "labels": ["cat"]}, "is '1234', not four numbers"),
        ({"boxes": [["1", "2", "3", "4"]], "labels": ["cat"]}, "is ['1', '2', '3', '4'], not four numbers"),
        (b'{"boxes": [[1, 1, NaN, 5]], "labels": ["cat"]}', "NaN or infinity"),
        ({"boxes": [[9, 1, 5, 5]], "labels": ["cat"]}, "its width or height is negative"),
        ({"boxes": [[1, 1, 5, 5]], "labels": [3]}, "category_id '3' is not in categories"),
        ({**GOOD, "height": 31, "width": 40}, "the picture a.png is 40x30"),
    ],
)
def test_faulty_samples_are_refused(read, labels, message):
    with pytest.raises(DataError) as caught:
        read({"a": {"json": labels}, "b": {"json": GOOD}})
    assert message in str(caught.value)


def test_what_is_missing_is_counted(read):
    found = read({"a": {"json": GOOD}, "b": {"json": GOOD, "png": None}, "c": {"json": GOOD}}, classes={"cat": 3})
    assert {finding.check: finding.count for finding in found.findings} == {"sample-without-picture": 1}
    assert found.classes.ids == (3,)


def test_a_sample_in_two_shards_is_refused(read):
    with pytest.raises(DataError, match=r"a is in two shards: train-0-000000\.tar"):
        read({"a": {"json": GOOD}}, {"a": {"json": GOOD}})


def test_a_class_that_the_index_does_not_know_is_refused(read):
    with pytest.raises(DataError, match="category_id 'cat' is not in categories"):
        read({"a": {"json": GOOD}}, classes={"dog": 1})


def test_without_any_object_there_must_be_an_index(read):
    empty = {"boxes": [], "labels": []}
    with pytest.raises(DataError, match="no sample has an object"):
        read({"a": {"json": empty}})
    assert len(read({"a": {"json": empty}}, classes={"cat": 1})) == 1


def test_a_check_goes_on_behind_errors(read):
    findings = Findings("here", stops=False)
    found = read({"a": {"json": b"{"}, "b": {"json": GOOD}}, findings=findings)
    assert len(found) == 2
    assert "sample-labels" in findings
