"""Names of pictures in a dataset that is written, and how they get there."""

import os

import pytest
from PIL import Image

from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.picture_files import picture_names, place_pictures


def _names(paths, tmp_path, **options):
    findings = Findings("out")
    names = picture_names([tmp_path / path for path in paths], findings, **options)
    return names, sum(finding.count for finding in findings)


def test_names_are_those_below_the_folder_that_all_share(tmp_path):
    assert _names(["x/a/1.png", "x/b/1.png"], tmp_path) == (["a/1.png", "b/1.png"], 0)
    assert _names(["x/a/1.png", "x/a/2 ü&#.png"], tmp_path) == (["1.png", "2 ü&#.png"], 0)
    assert _names([], tmp_path) == ([], 0)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a\nb.png", "a_b.png"),
        (".a.png", "_a.png"),
        (" a.png", "_a.png"),
        ("a\\b.png", "a_b.png"),
        ("\udcff.png", "_.png"),
    ],
)
def test_what_formats_cannot_hold_is_replaced_and_counted(tmp_path, name, safe):
    assert _names([name, "other.png"], tmp_path) == ([safe, "other.png"], 1)


def test_pictures_that_differ_in_their_ending_get_names_of_their_own_where_that_matters(tmp_path):
    assert _names(["a.png", "a.jpg", "a.JPG"], tmp_path) == (["a.png", "a.jpg", "a.JPG"], 0)
    assert _names(["a.png", "a.jpg", "a.JPG"], tmp_path, by_stem=True) == (["a.png", "a_jpg.jpg", "a_JPG.JPG"], 2)
    assert _names(["a.png", "a.png"], tmp_path) == (["a.png", "a_png.png"], 1)


def test_a_picture_without_ending_gets_that_of_its_kind(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "photo", "JPEG")
    Image.new("RGB", (2, 2)).save(tmp_path / "b.gif")
    assert _names(["photo"], tmp_path) == (["photo"], 0)
    assert _names(["photo"], tmp_path, by_stem=True) == (["photo.jpg"], 1)
    with pytest.raises(DataError, match="does not end in one of"):
        _names(["b.gif"], tmp_path, by_stem=True)


def test_pictures_are_linked_or_copied(tmp_path):
    (tmp_path / "a.png").write_bytes(b"picture")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    paths, names = [tmp_path / "a.png", tmp_path / "link.png"], ["sub/a.png", "b.png"]
    place_pictures(paths, names, tmp_path / "linked")
    place_pictures(paths, names, tmp_path / "copied", copy=True)
    for name in names:
        linked, copied = tmp_path / "linked" / name, tmp_path / "copied" / name
        assert not linked.is_symlink()
        assert linked.samefile(tmp_path / "a.png")
        assert copied.read_bytes() == b"picture"
        assert not copied.samefile(tmp_path / "a.png")


def test_where_links_cannot_be_made_pictures_are_copied(tmp_path, monkeypatch):
    def refuse(*paths):
        raise OSError("another disk")

    (tmp_path / "a.png").write_bytes(b"picture")
    monkeypatch.setattr(os, "link", refuse)
    place_pictures([tmp_path / "a.png"], ["a.png"], tmp_path / "out")
    assert (tmp_path / "out" / "a.png").read_bytes() == b"picture"
