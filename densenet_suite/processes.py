"""Which process of a distributed run this is, read from what launchers set; known before torch is imported."""

import os

_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK")


def is_first_process() -> bool:
    """Say whether this process is the one that writes files and talks: the only one, or the first of several."""
    return all(os.environ.get(name, "0") in ("", "0") for name in _RANKS)
