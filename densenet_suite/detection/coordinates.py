"""Coordinates as text, so that what is written is read again to the last bit.

Binary fractions do not survive arithmetic: 0.1 + 1 - 1 is not 0.1, and a share of a width of 640 pixels, times 640, is
often beside where it was. So the way between text and pixels is calculated with decimals, which are rounded to a float
once, at the end; a number with few decimals then is what it says.
"""

import math
from collections.abc import Sequence
from decimal import Context, Decimal

_FROM_ONE = Context(prec=400, traps=[])  # holds the smallest float beside 1
_SHARES = Context(prec=80, traps=[])
_DECIMALS = (6, 12, 18, 24, 30, 40)
_HALF = Decimal("0.5")


def plain(value: float | Decimal) -> str:
    """Return a number with as many digits as give it again, and without ".0" where it is whole."""
    return str(int(value)) if value == int(value) else str(value)


def count_from_one(value: float) -> str:
    """Return the text of a coordinate that is counted from 1: that of 0.1 is 1.1."""
    return plain(_FROM_ONE.add(Decimal(repr(value)), 1))


def count_from_zero(text: str) -> float:
    """Return the coordinate whose text is counted from 1; text that is no number is not allowed."""
    return float(_FROM_ONE.subtract(_FROM_ONE.create_decimal(text), 1))


def to_corners(shares: Sequence[str], height: int, width: int) -> tuple[float, float, float, float]:
    """Return the xyxy pixels of a box whose centre x, centre y, width and height are written as shares of a picture."""
    cx, cy, w, h = (_SHARES.create_decimal(text) for text in shares)
    half_w, half_h = _SHARES.multiply(w, _HALF), _SHARES.multiply(h, _HALF)
    return (
        float(_SHARES.multiply(_SHARES.subtract(cx, half_w), width)),
        float(_SHARES.multiply(_SHARES.subtract(cy, half_h), height)),
        float(_SHARES.multiply(_SHARES.add(cx, half_w), width)),
        float(_SHARES.multiply(_SHARES.add(cy, half_h), height)),
    )


def to_shares(corners: Sequence[float], height: int, width: int) -> tuple[list[str], float]:
    """Return the texts of a box's centre x, centre y, width and height as shares, and what is left of error in pixels.

    They have six decimals or as many more as `to_corners` needs to give the box again, up to 40: only corners that
    differ from zero by less than 1e-20 pixels would need more.
    """
    x1, y1, x2, y2 = (Decimal(value) for value in corners)
    texts: list[str] = []
    error = 0.0
    for decimals in _DECIMALS:
        cx, w = _centre_and_side(x1, x2, width, decimals)
        cy, h = _centre_and_side(y1, y2, height, decimals)
        texts = [f"{share:f}" for share in (cx, cy, w, h)]
        error = max(abs(a - b) for a, b in zip(to_corners(texts, height, width), corners, strict=True))
        if error == 0:
            break
    return texts, error


def side_between(low: float, high: float) -> float:
    """Return the number that, added to `low`, gives `high`, or comes nearest where no float64 does."""
    side = high - low
    if low + side == high:
        return side
    beside = (side, math.nextafter(side, math.inf), math.nextafter(side, 0.0))
    return min(beside, key=lambda value: abs(low + value - high))


def _centre_and_side(low: Decimal, high: Decimal, length: int, decimals: int) -> tuple[Decimal, Decimal]:
    step = Decimal((0, (1,), -decimals))
    side = _SHARES.quantize(_SHARES.divide(_SHARES.subtract(high, low), length), step)
    if low == 0:
        return _SHARES.multiply(side, _HALF), side  # nothing less gives exactly zero
    return _SHARES.quantize(_SHARES.divide(_SHARES.add(low, high), 2 * length), step), side
