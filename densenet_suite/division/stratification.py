"""Dividing labelled images among splits: groups stay whole, and each split gets its share of every class.

Iterative stratification (Sechidis, Tsoumakas, Vlahavas: On the Stratification of Multi-Label Data, ECML PKDD 2011,
algorithm 1), over groups of images in the place of single ones: the class that is left in the fewest images is dealt
out next, each of its groups to the split that lacks most of it. The largest groups go first, as small ones can still
even out what they leave. What was dealt out for one class may suit another badly, so groups are then moved to other
splits as long as that brings all shares closer to what is wanted.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from densenet_suite.errors import DataError
from densenet_suite.sampling import Stream, derive_seed

Array = np.ndarray[Any, Any]

_MOVES = 200  # with many groups, the first division is as even as it gets


def join(groups: Sequence[Hashable], together: Iterable[Sequence[int]]) -> list[int]:
    """Return the number of each image's group, where images that belong together, by number, join their groups."""
    numbers: dict[Hashable, int] = {}
    parent = [numbers.setdefault(group, len(numbers)) for group in groups]
    root = list(range(len(numbers)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for images in together:
        for image in images[1:]:
            root[find(parent[image])] = find(parent[images[0]])
    joined: dict[int, int] = {}
    return [joined.setdefault(find(group), len(joined)) for group in parent]


def stratify(groups: Sequence[int], classes: Array, shares: Mapping[str, float], seed: int) -> list[str]:
    """Return the split of each image.

    Args:
        groups: number of each image's group, from 0.
        classes: bool [n k], which classes each image has.
        shares: of each split, which sum to 1.
        seed: of what decides between equals.

    Raises:
        DataError: there are fewer groups than splits.
    """
    names, count = list(shares), max(groups) + 1
    if count < len(names):
        raise DataError(
            f"{count} group{'s' if count > 1 else ''} of images cannot be divided into {', '.join(names)}",
            hint="a finer --by, or fewer splits",
        )
    sizes = np.bincount(groups, minlength=count)
    holds = np.zeros((count, classes.shape[1]), np.int64)
    np.add.at(holds, np.asarray(groups), classes)
    share = np.array([shares[name] for name in names])
    wanted, room = np.outer(share, holds.sum(0)), share * sizes.sum()
    rank = np.array([derive_seed(seed, Stream.DIVISION, group) for group in range(count)], np.float64)
    split_of = np.full(count, -1)

    def give(group: int, split: int) -> None:
        split_of[group] = split
        wanted[split] -= holds[group]
        room[split] -= sizes[group]

    while (open_groups := split_of < 0).any():
        left = holds[open_groups].sum(0)
        rarest = int(np.where(left > 0, left, np.iinfo(np.int64).max).argmin()) if left.any() else None
        mine = np.flatnonzero(open_groups & (holds[:, rarest] > 0 if rarest is not None else True))
        weight = sizes[mine] if rarest is None else holds[mine, rarest]
        for group in mine[np.lexsort((rank[mine], -sizes[mine], -weight))]:
            lacking = room if rarest is None else wanted[:, rarest]
            give(int(group), int(np.lexsort((-room, -lacking.round(9)))[0]))
    _fill_empty(split_of, sizes, len(names))
    _even_out(split_of, np.column_stack([holds, sizes]), share)
    return [names[split_of[group]] for group in groups]


def _even_out(split_of: Array, holds: Array, share: Array) -> None:
    """Move groups, the best move first, while that lowers the sum of the squared errors of all shares.

    Args:
        split_of: split of each group; changed.
        holds: what each group holds of everything that is shared out [groups k].
        share: of each split.
    """
    parts = holds / np.maximum(holds.sum(0), 1)
    excess = np.stack([parts[split_of == split].sum(0) - share[split] for split in range(len(share))])
    squares = (parts**2).sum(1)
    for _ in range(_MOVES):
        along = parts @ excess.T
        change = squares[:, None] + along - np.take_along_axis(along, split_of[:, None], 1)  # half of that of the sum
        change[np.arange(len(split_of)), split_of] = 0
        change[(np.bincount(split_of, minlength=len(share)) == 1)[split_of]] = 0  # no split is left empty
        group, split = np.unravel_index(change.argmin(), change.shape)
        if change[group, split] > -1e-12:
            return
        excess[split_of[group]] -= parts[group]
        excess[split] += parts[group]
        split_of[group] = split


def _fill_empty(split_of: Array, sizes: Array, splits: int) -> None:
    """Give a split that got no group the smallest one of the split that has most."""
    for split in range(splits):
        if not (split_of == split).any():
            largest = int(np.bincount(split_of, minlength=splits).argmax())
            theirs = np.flatnonzero(split_of == largest)
            split_of[theirs[sizes[theirs].argmin()]] = split
