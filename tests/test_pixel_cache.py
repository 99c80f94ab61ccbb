import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest

from densenet_suite.errors import ConfigError
from densenet_suite.pixel_cache import DiskCache, RamCache, cache_folder


class Decoder:
    """Makes an array out of a file, and counts how often."""

    def __init__(self, shape=(30, 40, 3)):
        self.shape, self.calls = shape, 0

    def __call__(self, path):
        def make():
            self.calls += 1
            seed = int.from_bytes(path.read_bytes()[:4].ljust(4, b"\0"), "big")
            return np.random.default_rng(seed).integers(0, 256, self.shape, dtype=np.uint8)

        return make


@pytest.fixture(params=["ram", "disk"])
def new_cache(request, tmp_path):
    """Make a cache of so many bytes."""
    return (lambda limit: RamCache(limit, 100)) if request.param == "ram" else (lambda n: DiskCache(tmp_path / "c", n))


def _file(folder, name="a.jpg", content=b"one"):
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("shape", [(30, 40, 3), (7, 5, 1), (9, 11), (3, 8, 8)])
def test_what_was_made_once_is_given_back(new_cache, tmp_path, shape):
    cache, decode, path = new_cache(10**6), Decoder(shape), _file(tmp_path)
    first = cache.get(path, "s", decode(path)).copy()
    again = cache.get(path, "s", decode(path))
    assert decode.calls == 1
    assert (again.shape, again.dtype) == (shape, np.uint8)
    assert np.array_equal(first, again)


def test_another_schema_is_another_entry(new_cache, tmp_path):
    cache, path = new_cache(10**6), _file(tmp_path)
    half, whole = Decoder((4, 4, 3)), Decoder((8, 8, 3))
    for _ in range(2):
        assert cache.get(path, "half", half(path)).shape == (4, 4, 3)
        assert cache.get(path, "whole", whole(path)).shape == (8, 8, 3)
    assert (half.calls, whole.calls) == (1, 1)


@pytest.mark.parametrize("same", ["size", "time"])
def test_a_file_that_has_changed_is_read_again(new_cache, tmp_path, same):
    cache, decode, path = new_cache(10**6), Decoder(), _file(tmp_path)
    old = cache.get(path, "s", decode(path)).copy()
    state = path.stat()
    path.write_bytes(b"two" if same == "size" else b"longer")
    stamp = state.st_mtime_ns + (1 if same == "size" else 0)
    os.utime(path, ns=(stamp, stamp))
    new = cache.get(path, "s", decode(path))
    assert decode.calls == 2
    assert not np.array_equal(old, new)
    assert np.array_equal(new, cache.get(path, "s", decode(path)))
    assert decode.calls == 2


def test_a_file_that_is_gone_is_left_to_the_reader(new_cache, tmp_path):
    with pytest.raises(FileNotFoundError):
        new_cache(10**6).get(tmp_path / "a.jpg", "s", Decoder()(tmp_path / "a.jpg"))


def test_what_is_full_keeps_what_it_has_and_takes_nothing_in(new_cache, tmp_path):
    decode = Decoder()
    cache = new_cache(3 * (30 * 40 * 3 + 100))
    paths = [_file(tmp_path, f"{i}.jpg", bytes([i, 1])) for i in range(5)]
    for path in paths:
        cache.get(path, "s", decode(path))
    decode.calls = 0
    for path in paths:
        cache.get(path, "s", decode(path))
    assert decode.calls == 2
    assert sum(file.stat().st_size for file in tmp_path.glob("c/*")) <= 3 * (30 * 40 * 3 + 100)


def test_what_is_held_in_memory_cannot_be_changed(tmp_path):
    cache, decode, path = RamCache(10**6, 10), Decoder(), _file(tmp_path)
    cache.get(path, "s", decode(path))
    with pytest.raises(ValueError, match="read-only"):
        cache.get(path, "s", decode(path))[0, 0, 0] = 1


def _fill(cache, paths, calls):
    decode = Decoder()
    for path in paths:
        assert np.array_equal(cache.get(path, "s", decode(path)), Decoder()(path)())
    with calls.get_lock():
        calls.value += decode.calls


def test_processes_share_what_each_of_them_made(new_cache, tmp_path):
    context = multiprocessing.get_context("fork")
    cache, calls = new_cache(10**7), context.Value("i", 0)
    paths = [_file(tmp_path, f"{i}.jpg", bytes([i, 1])) for i in range(40)]
    for orders in ((paths, paths[::-1], paths[20:] + paths[:20]), (paths,)):
        workers = [context.Process(target=_fill, args=(cache, order, calls)) for order in orders]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
        made, calls.value = calls.value, 0
    assert made == 0  # by the last, as the first three had made all
    _fill(cache, paths, calls)
    assert calls.value == 0


def test_a_later_run_finds_what_is_on_disk(tmp_path):
    decode, path = Decoder(), _file(tmp_path)
    first = DiskCache(tmp_path / "c", 10**6).get(path, "s", decode(path))
    again = DiskCache(tmp_path / "c", 10**6)
    assert np.array_equal(again.get(path, "s", decode(path)), first)
    assert decode.calls == 1


def test_what_is_on_disk_already_counts(tmp_path):
    decode = Decoder()
    for number, expected in ((0, 1), (1, 2), (1, 3)):
        path = _file(tmp_path, f"{number}.jpg", bytes([number]))
        DiskCache(tmp_path / "c", 5000).get(path, "s", decode(path))
        assert decode.calls == expected


@pytest.mark.parametrize("damage", ["cut", "flipped", "zeros", "empty", "magic", "shape"])
def test_a_damaged_entry_is_noticed_and_made_again(tmp_path, caplog, damage):
    cache, decode, path = DiskCache(tmp_path / "c", 10**6), Decoder(), _file(tmp_path)
    sound = cache.get(path, "s", decode(path)).copy()
    (entry,) = (tmp_path / "c").iterdir()
    content = bytearray(entry.read_bytes())
    if damage == "flipped":
        content[2000] ^= 1
    elif damage == "zeros":
        content[1024:2048] = bytes(1024)
    elif damage == "magic":
        content[:8] = b"another!"
    elif damage == "shape":
        content[32:36] = (29).to_bytes(4, "little")
    entry.write_bytes({"cut": content[:1000], "empty": b""}.get(damage, content))
    for calls in (2, 2):
        assert np.array_equal(cache.get(path, "s", decode(path)), sound)
        assert decode.calls == calls
    assert caplog.text.count("a damaged entry of the cache is made again") == 1


def test_a_folder_that_takes_no_files_is_said_once_and_done_without(tmp_path, caplog):
    cache, decode, path = DiskCache(tmp_path / "c", 10**6), Decoder(), _file(tmp_path)
    (tmp_path / "c").rmdir()  # root may write where it should not
    for calls in (1, 2):
        cache.get(path, "s", decode(path))
        assert decode.calls == calls
    assert caplog.text.count("nothing more is cached in") == 1


def test_what_killed_processes_left_is_removed(tmp_path):
    (tmp_path / "c").mkdir()
    old, new = (_file(tmp_path / "c", name, b"x" * 100) for name in (".old-1", ".new-2"))
    os.utime(old, (time.time() - 7200,) * 2)
    DiskCache(tmp_path / "c", 1000)
    assert (old.exists(), new.exists()) == (False, True)


def test_every_dataset_has_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = {cache_folder(Path(root)) for root in ("/data/a/coco", "/data/b/coco")}
    assert len(folders) == 2
    assert all(folder.parent == tmp_path / "densenet_suite" for folder in folders)
    assert all(folder.name.startswith("coco-") for folder in folders)
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder(Path("/data/a/coco")).is_relative_to(Path.home() / ".cache")


def test_more_memory_than_there_is_is_refused():
    with pytest.raises(ConfigError, match=r"there is no memory for a cache of 9e\+08 GB") as caught:
        RamCache(9 * 10**17, 1)
    assert caught.value.problems[0].hint == "lower data.cache_gb, or data.cache=disk"
