"""Datasets in sharded tars: found, indexed, trusted no more than they deserve, and readable by others."""

import hashlib
import io
import json
import tarfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image
from webdataset import tariterators

from densenet_suite.archives.shards import find_shards, verify
from densenet_suite.archives.writing import ArchiveWriter, sample_keys, write_index
from densenet_suite.errors import DataError
from densenet_suite.findings import Findings


def _png(colour=(0, 0, 0)):
    content = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def root(tmp_path):
    """Five samples in shards of two."""
    folder = tmp_path / "data" / "shards"
    folder.mkdir(parents=True)
    with ArchiveWriter(folder, "train", 6 * 1024) as writer:
        for i in range(5):
            writer.add({f"sub/{i}.png": _png((i, i, i)), f"sub/{i}.json": json.dumps({"n": i}).encode()})
    write_index(folder, writer.archives, {"cat": 7})
    return tmp_path / "data"


def _contents(split):
    return [
        (sample.key, {end: (member.archive.name, member.offset, member.size) for end, member in sample.files.items()})
        for sample in split.samples()
    ]


def test_a_split_is_found_with_its_classes_and_the_reason(root):
    split = find_shards(root, ("train",))
    assert str(split) == f"sharded tars, as there is {root / 'shards' / 'train-000000.tar'}"
    assert split.classes == {"cat": 7}
    assert len(split.archives) > 1
    assert [sample.key for sample in split.samples()] == [f"sub/{i}" for i in range(5)]
    assert find_shards(root, ("val", "valid")) is None


def test_tars_without_an_index_are_indexed_by_their_headers(root):
    with_index = _contents(find_shards(root, ("train",)))
    (root / "shards" / "index.json").unlink()
    split = find_shards(root, ("train",))
    assert split.classes is None
    assert _contents(split) == with_index


def test_the_index_says_what_a_shard_is(root):
    index = json.loads((root / "shards" / "index.json").read_text())
    for name, entry in index["shards"].items():
        content = (root / "shards" / name).read_bytes()
        assert entry["bytes"] == len(content)
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        for _, offset, size in entry["members"]:
            assert content[offset : offset + size].startswith((b"\x89PNG", b'{"n"'))
    findings = Findings("here", stops=False)
    verify(find_shards(root, ("train",)).archives, findings)
    assert not list(findings)


def test_a_shard_without_checksum_is_said(root):
    (root / "shards" / "index.json").unlink()
    findings = Findings("here", stops=False)
    verify(find_shards(root, ("train",)).archives[:1], findings)
    assert [str(finding) for finding in findings] == [
        f"{root / 'shards' / 'train-000000.tar'} has no checksum in index.json"
    ]


def test_a_shard_that_has_changed_is_noticed(root):
    split = find_shards(root, ("train",))
    first, second = split.archives[:2]
    content = bytearray(first.read_bytes())
    content[700] ^= 1
    first.write_bytes(content)
    findings = Findings("here", stops=False)
    verify(split.archives, findings)
    assert [(finding.check, finding.count) for finding in findings] == [("shard-changed", 1)]
    assert str(first) in str(next(iter(findings)))
    second.write_bytes(second.read_bytes() + b"\0" * 512)  # of another size, which is noticed at once
    with pytest.raises(DataError, match="not the one that the index was made for") as caught:
        list(split.samples())
    assert str(second) in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"members": [["a.png", 0, 10**9]]},
        {"members": [["a.png", -5, 3]]},
        {"members": [["../a.png", 0, 3]]},
        {"members": [["a.png", 0]]},
        {"members": [["a.png", True, 3]]},
        {"members": 7},
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(root, change):
    path = root / "shards" / "index.json"
    index = json.loads(path.read_text())
    index["shards"]["train-000000.tar"] |= change
    path.write_text(json.dumps(index))
    with pytest.raises(DataError, match="not the one that the index was made for"):
        list(find_shards(root, ("train",)).samples())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2, "shards": {}, "classes": null}', "[" * 100_000])
def test_an_index_that_cannot_be_read_is_said(root, text):
    (root / "shards" / "index.json").write_text(text)
    with pytest.raises(DataError, match="index of the shards cannot be read") as caught:
        find_shards(root, ("train",))
    assert "without it the tars are scanned" in str(caught.value)


def test_a_file_that_is_there_twice_is_refused(tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(DataError, match=r"member 'a\.png' is there twice"):
        list(find_shards(tmp_path, ("train",)).samples())


def test_tar_reads_what_was_written(root):
    for archive in find_shards(root, ("train",)).archives:
        with tarfile.open(archive) as tar:
            names = tar.getnames()
            assert json.loads(tar.extractfile(names[1]).read())["n"] == int(Path(names[1]).stem)


def test_webdataset_reads_what_was_written(root):
    with ExitStack() as opened:
        streams = [
            {"url": str(path), "stream": opened.enter_context(path.open("rb"))}
            for path in find_shards(root, ("train",)).archives
        ]
        found = list(tariterators.group_by_keys(tariterators.tar_file_expander(streams)))
    assert [sample["__key__"] for sample in found] == [f"sub/{i}" for i in range(5)]
    assert [json.loads(sample["json"])["n"] for sample in found] == list(range(5))
    assert [sample["png"] for sample in found] == [_png((i, i, i)) for i in range(5)]


def test_keys_have_no_dots_and_are_no_two_alike():
    lost = Findings("out")
    assert sample_keys(["a.png", "b/a.1.png", "b/a_1.png", "c.tar.gz.jpg"], lost) == [
        "a",
        "b/a_1",
        "b/a_1_2",
        "c_tar_gz",
    ]
    (finding,) = lost
    assert (finding.check, finding.count) == ("picture-renamed", 3)
