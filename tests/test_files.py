import json
import os

import pytest

from densenet_suite.files import atomic_write, write_json, write_text


def test_a_file_takes_its_place_when_the_block_ends(tmp_path):
    target = tmp_path / "scores.bin"
    with atomic_write(target) as file:
        file.write(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["scores.bin"]


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    target = tmp_path / "scores.bin"
    target.write_bytes(b"old")
    with pytest.raises(TypeError, match="bytes-like"), atomic_write(target) as file:
        file.writelines([b"half of the n", None])
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["scores.bin"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    target = tmp_path / "scores.bin"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(target, "new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["scores.bin"]


def test_content_reaches_the_disk_before_the_name_does(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append("fsync") or fsync(descriptor))
    monkeypatch.setattr(os, "replace", lambda old, new: calls.append("replace") or replace(old, new))
    write_text(tmp_path / "a.txt", "content")
    assert calls == ["fsync", "replace", "fsync"]  # the last is the folder's


def test_text_is_written_in_utf8(tmp_path):
    write_text(tmp_path / "a.txt", "Straße 日本\n")
    assert (tmp_path / "a.txt").read_bytes() == "Straße 日本\n".encode()


def test_json_reads_back_and_keeps_its_letters(tmp_path):
    value = {"name": "Straße", "ids": [2**63, 10**20], "score": 0.1, "none": None}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "Straße" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_holds_no_value_that_is_not_json(tmp_path, value):
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(target, {"score": value})
    assert target.read_text() == "old"
