"""Which pictures are the same, or nearly.

Those that may be are found by a perceptual hash of 64 bits (the signs of the lowest frequencies: Zauner,
"Implementation and Benchmarking of Perceptual Image Hash Functions", 2010) and held against each other as thumbnails,
since flat pictures have similar hashes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import cv2
import numpy as np

Array = np.ndarray[Any, Any]

SIDE = 32  # of the thumbnail
_MOST_BITS = 8  # that the hashes of pictures which are nearly the same differ in
_LEAST_CORRELATION = 0.95  # of their thumbnails; other pictures of one scene stay below 0.9
_AT_ONCE = 2_000_000  # hashes that are compared at a time


@dataclass(frozen=True)
class Likeness:
    """What a picture is known by.

    Attributes:
        bits: the perceptual hash.
        thumbnail: grey, [32 32] float32, of mean 0 and length 1; zero where the picture is of one colour.
    """

    bits: int
    thumbnail: Array

    @classmethod
    def of(cls, grey: Array, level: float = 1.0) -> Self:
        """Return that of a grey picture [h w] of any size, float32; `level` is a difference that nobody sees."""
        small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        centred = (small - small.mean()).astype(np.float32)
        length = float(np.linalg.norm(centred))
        plain = length <= SIDE * level  # by their root mean square, the pixels differ by no more than it
        return cls(perceptual_hash(small), np.zeros_like(centred) if plain else centred / length)

    @property
    def plain(self) -> bool:
        """Whether the picture is of one colour."""
        return not self.thumbnail.any()


def perceptual_hash(thumbnail: Array) -> int:
    """Return 64 bits of a grey picture [32 32]: which of its lowest frequencies are above their median."""
    low = cv2.dct(np.asarray(thumbnail, np.float32))[:8, :8].reshape(-1)
    bits = low > np.median(low[1:])
    bits[0] = False  # brightness alone makes no difference
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def hash_distances(first: Array, second: Array) -> Array:
    """Return in how many bits hashes [n] and [m], uint64, differ: [n m]."""
    different = first[:, None] ^ second[None]
    parts = different.view(np.uint16).reshape(*different.shape, 4)
    return np.asarray(_BITS_OF[parts].sum(-1, dtype=np.uint8))


_BITS_OF = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)


def near_copies(new: Sequence[Likeness], seen: Sequence[Likeness]) -> Iterator[tuple[int, int, float]]:
    """Yield each new picture that is nearly one that was seen, with the one that is most alike, and how alike.

    Numbers are places in the two sequences; likeness is the correlation of the thumbnails, at most 1.
    """
    if not new or not seen:
        return
    known = np.array([picture.bits for picture in seen], np.uint64)
    step = max(1, _AT_ONCE // len(known))
    for start in range(0, len(new), step):
        part = new[start : start + step]
        near = hash_distances(np.array([picture.bits for picture in part], np.uint64), known) <= _MOST_BITS
        for row in np.flatnonzero(near.any(1)).tolist():
            candidates = np.flatnonzero(near[row]).tolist()
            alike = [float((seen[i].thumbnail * part[row].thumbnail).sum()) for i in candidates]
            best = int(np.argmax(alike))
            if alike[best] >= _LEAST_CORRELATION:
                yield start + row, candidates[best], alike[best]
