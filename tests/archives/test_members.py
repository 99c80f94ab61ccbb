"""Members of tars: found by their headers, read where they lie, refused where they are not what they seem."""

import io
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from densenet_suite.archives.members import file_size, member_of, open_binary, scan, shard_groups
from densenet_suite.archives.writing import ArchiveWriter
from densenet_suite.errors import DataError
from densenet_suite.image_opening import read_header
from densenet_suite.images import read_image
from densenet_suite.rasters import read_raster


def _tar(path, *entries):
    """Write entries of (TarInfo or name, bytes) without any check."""
    with tarfile.open(path, "w") as tar:
        for entry, content in entries:
            info = entry if isinstance(entry, tarfile.TarInfo) else tarfile.TarInfo(entry)
            if isinstance(entry, str):
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def _png(colour, size=(5, 4)):
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, "PNG")
    return content.getvalue()


def test_members_are_read_where_they_lie(tmp_path):
    long = "a/" + "ü" * 120 + ".jpg"
    archive = _tar(tmp_path / "x.tar", ("a.png", b"first"), ("sub/b c.txt", b""), (long, b"third" * 400))
    first, second, third = scan(archive)
    assert [member.name for member in (first, second, third)] == ["a.png", "sub/b c.txt", long]
    assert str(first) == "x.tar!a.png"
    for member, content in ((first, b"first"), (second, b""), (third, b"third" * 400)):
        assert member_of(member.path) == member
        assert (member.path.name, file_size(member.path)) == (member.name.split("/")[-1], len(content))
        with open_binary(pickle.loads(pickle.dumps(member.path))) as file:
            assert file.read() == content


def test_ordinary_files_are_opened_as_ever(tmp_path):
    path = tmp_path / "not.tar" / "12+34" / "a.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"plain")
    assert member_of(path) is None
    assert file_size(path) == 5
    with open_binary(path) as file:
        assert file.read() == b"plain"


def test_pictures_in_archives_are_those_outside(tmp_path):
    deep = io.BytesIO()
    Image.fromarray(np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000).save(deep, "PNG")
    contents = {"a.png": _png((1, 2, 3)), "deep.png": deep.getvalue()}
    members = scan(_tar(tmp_path / "x.tar", *contents.items()))
    for member in members:
        outside = tmp_path / member.name
        outside.write_bytes(contents[member.name])
        (inner, record), (outer, expected) = read_image(member.path), read_image(outside)
        assert (inner == outer).all()
        assert (record.height, record.width, record.dtype) == (expected.height, expected.width, expected.dtype)
        assert (read_raster(member.path)[0] == read_raster(outside)[0]).all()


def test_a_picture_whose_archive_was_cut_off_is_damaged(tmp_path):
    archive = _tar(tmp_path / "x.tar", ("a.png", _png((9, 9, 9), (300, 300))))
    (member,) = scan(archive)
    archive.write_bytes(archive.read_bytes()[: member.offset + 20])
    with pytest.raises(DataError, match=r"image file is damaged: x\.tar ends before a\.png does"):
        read_header(member.path)


def _entry(name, kind=tarfile.REGTYPE, size=0):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("../a.png", "has a name that leads out of the archive"),
        ("/a.png", "has a name that leads out of the archive"),
        ("a\\..\\b.png", "has a name that leads out of the archive"),
        (_entry("a.png", tarfile.SYMTYPE), "is no plain file"),
        (_entry("a.png", tarfile.LNKTYPE), "is no plain file"),
        (_entry("a.png", tarfile.CHRTYPE), "is no plain file"),
        (_entry("a.png", tarfile.FIFOTYPE), "is no plain file"),
        (_entry("a.png", size=10**9), "more than there are"),
        (_entry("a.png", size=2**40), "more than there are"),
    ],
)
def test_what_no_dataset_holds_is_refused(tmp_path, entry, message):
    archive = tmp_path / "x.tar"
    name = entry if isinstance(entry, str) else entry.get_info()["name"]
    info = tarfile.TarInfo(name) if isinstance(entry, str) else entry
    archive.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)
    with pytest.raises(DataError) as caught:
        scan(archive)
    assert message in str(caught.value)
    assert str(archive) in str(caught.value)


def test_a_header_that_leads_back_ends(tmp_path):
    """A negative size, as base 256 can hold it, would send a reader back for ever."""
    header = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # -512
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "x.tar"
    path.write_bytes(bytes(header) * 3 + b"\0" * 1024)
    with pytest.raises(DataError):
        scan(path)


@pytest.mark.parametrize("content", [b"", b"no tar" * 200, b"\x1f\x8b" + b"x" * 600])
def test_what_is_no_tar_is_said(tmp_path, content):
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises(DataError, match="archive cannot be read"):
        scan(path)


def test_samples_are_grouped_by_archive(tmp_path):
    one, two = (_tar(tmp_path / f"{n}.tar", ("a.png", b"1"), ("b.png", b"2")) for n in "xy")
    paths = [member.path for pair in zip(scan(one), scan(two), strict=True) for member in pair]
    assert shard_groups(paths) == [[0, 2], [1, 3]]
    assert shard_groups([*paths, tmp_path / "c.png"]) is None


def test_the_writer_begins_an_archive_where_one_is_full(tmp_path):
    with ArchiveWriter(tmp_path, "train", 6000) as writer:
        for i in range(5):
            writer.add({f"{i}.png": bytes(1500), f"{i}.json": b"{}"})
        writer.add({"large.png": bytes(20_000)})
    names = [[member.name for member in scan(archive)] for archive in writer.archives]
    assert [path.name for path in writer.archives] == [f"train-{i:06d}.tar" for i in range(len(names))]
    assert [name for group in names for name in group] == [
        f"{i}.{end}" for i in range(5) for end in ("png", "json")
    ] + ["large.png"]
    assert len(names) > 2
    assert names[-1] == ["large.png"]
    assert all(path.stat().st_size < 20_480 for path in writer.archives[:-1])


def test_a_geotiff_in_an_archive_is_read_by_windows(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "a.tif"
    bands = np.arange(5 * 6 * 7, dtype=np.uint16).reshape(5, 6, 7)
    profile = {"driver": "GTiff", "count": 5, "height": 6, "width": 7, "dtype": "uint16"}
    transform = rasterio.Affine(1, 0, 10, 0, -1, 20)
    with rasterio.open(path, "w", crs="EPSG:32633", transform=transform, **profile) as file:
        file.write(bands)
    (member,) = scan(_tar(tmp_path / "x.tar", ("a.tif", path.read_bytes())))
    assert (read_raster(member.path)[0] == bands.transpose(1, 2, 0)).all()
