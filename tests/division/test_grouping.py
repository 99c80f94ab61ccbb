import json
import re

import numpy as np
import pytest
from volume_files import SECRETS, dicom_file, series, stored_as
from volume_files import patient as volume

from densenet_suite.division.grouping import duplicates, named_groups, patients, scenes
from densenet_suite.errors import ConfigError, DataError


def test_a_group_is_what_an_expression_finds_in_the_name(tmp_path):
    paths = [tmp_path / "images" / name for name in ("case1_a.png", "case12_b.png", "case1_c.png")]

    assert named_groups(paths, tmp_path, r"(case\d+)_") == ["case1", "case12", "case1"]
    with pytest.raises(DataError, match=r"1 images have no group: case12_b\.png"):
        named_groups(paths, tmp_path, r"(case\d)_")
    with pytest.raises(ConfigError, match=r"has 2 groups, one is needed\n  hint: such as"):
        named_groups(paths, tmp_path, r"(case)(\d+)_")
    with pytest.raises(ConfigError, match="is no regular expression: "):
        named_groups(paths, tmp_path, "(case")


def test_a_group_is_what_a_table_says(tmp_path):
    paths = [tmp_path / "a" / "1.png", tmp_path / "b" / "1.png", tmp_path / "2.png"]
    (tmp_path / "g.csv").write_text("image,group\na/1.png,x\nb/1.png,y\n2.png,x\n")
    (tmp_path / "g.json").write_text(json.dumps({"1.png": "x", "2.png": 5}))

    assert named_groups(paths, tmp_path, str(tmp_path / "g.csv")) == ["x", "y", "x"]
    assert named_groups(paths, tmp_path, str(tmp_path / "g.json")) == ["x", "x", "5"]
    for name, content, message in (
        ("bad.json", "{", "groups cannot be read"),
        ("list.json", "[]", "groups are no object"),
        ("bad.csv", "file,group\na,b\n", "no table with the columns image and group"),
        ("none.csv", None, "groups cannot be read"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=message):
            named_groups(paths, tmp_path, str(tmp_path / name))


def test_a_patient_is_known_by_a_digest_or_by_names(tmp_path):
    pixels = np.zeros((4, 4), np.uint8)
    one, two = dicom_file(tmp_path / "a.dcm", pixels), dicom_file(tmp_path / "b.dcm", pixels)
    other = dicom_file(tmp_path / "c.dcm", pixels, PatientID="other")
    unknown = dicom_file(tmp_path / "d.dcm", pixels, PatientID=None)
    scan = series(tmp_path / "scan", *stored_as(*volume(), "LPS"))

    found = patients([one, two, other, unknown, scan], tmp_path)
    assert found[0] == found[1] == found[4] != found[2]
    assert re.fullmatch("[0-9a-f]{32}", found[0])
    assert not any(text in str(found) for text in SECRETS.values())
    assert found[3] == "d"
    names = ["sub-01/anat/sub-01_T1w.nii.gz", "sub-01/sub-01_T2w.nii.gz", "case_7_0000.nii.gz", "case_8.nii.gz"]
    assert patients([tmp_path / name for name in names], tmp_path) == ["sub-01", "sub-01", "case_7", "case_8"]


def test_a_scene_is_the_folder(tmp_path):
    paths = [tmp_path / "images" / "north" / "1.tif", tmp_path / "images" / "south" / "1.tif", tmp_path / "1.tif"]
    assert scenes(paths, tmp_path) == ["north", "south", ""]


def test_copies_are_found_by_content(tmp_path):
    for name, content in {"a": b"one", "b": b"two", "c": b"one", "d": b"longer", "e": b"one"}.items():
        (tmp_path / name).write_bytes(content)
    assert duplicates([tmp_path / name for name in "abcde"]) == [[0, 2, 4]]

    scans = [series(tmp_path / name, *stored_as(*volume(), "LPS")) for name in ("s1", "s2")]
    assert duplicates(scans) == []  # each file has a number of its own
    for file in scans[0].iterdir():
        (scans[1] / file.name).write_bytes(file.read_bytes())
    assert duplicates(scans) == [[0, 1]]
