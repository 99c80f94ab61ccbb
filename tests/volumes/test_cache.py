import os
import threading

import numpy as np

from densenet_suite.volumes.cache import VolumeCache


def files(tmp_path, names="abc"):
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    return [tmp_path / name for name in names]


def test_the_longest_unused_goes_first_and_the_newest_stays_however_large(tmp_path):
    a, b, c = files(tmp_path)
    loaded = []
    cache = VolumeCache(limit=200)

    def get(path, size=100):
        return cache.get(path, lambda: loaded.append(path.name) or np.zeros(size, np.uint8))

    for path in (a, b, a, c, a, b):
        get(path)
    assert loaded == ["a", "b", "c", "b"]
    get(c, 1000)
    get(c, 1000)
    assert loaded[4:] == ["c"]


def test_a_file_that_has_changed_is_loaded_anew(tmp_path):
    (a,) = files(tmp_path, "a")
    cache = VolumeCache()
    assert cache.get(a, lambda: np.zeros(1)) == 0
    a.write_bytes(b"longer")
    assert cache.get(a, lambda: np.ones(1)) == 1
    os.utime(a, ns=(1, 1))
    assert cache.get(a, lambda: np.full(1, 2)) == 2


def test_of_several_threads_one_loads_and_the_others_wait(tmp_path):
    (a,) = files(tmp_path, "a")
    cache, loaded = VolumeCache(), []

    def load():
        loaded.append(1)
        return np.zeros(5)

    threads = [threading.Thread(target=cache.get, args=(a, load)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loaded == [1]
