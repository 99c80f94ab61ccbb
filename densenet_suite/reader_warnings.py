"""What the libraries that read pictures warn of and we decide ourselves, kept from the user.

Pillow warns of EXIF data and TIFF tags that it cannot read (they are taken for none; where pixels suffer, reading them
fails) and of large pictures (ours have a limit of their own); rasterio warns of rasters that lie nowhere.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = 0
_filters = warnings.catch_warnings()


@contextmanager
def without_reader_warnings() -> Iterator[None]:
    """Ignore those warnings inside a block, of which several threads may be in one at a time.

    `warnings.catch_warnings` is for one thread: two that overlap leave each other's filters behind. So the first block
    to open sets the filters, and the last one to close takes them back.
    """
    global _inside, _filters
    with _lock:
        _inside += 1
        if _inside == 1:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
            warnings.filterwarnings("ignore", message="Dataset has no geotransform|The given matrix is equal to")
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _filters.__exit__(None, None, None)
