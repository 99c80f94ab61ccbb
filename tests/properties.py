"""How many examples each property is tried with: 200 in the suite, the same ones every time.

`tools/properties.py` tries any number of others: it sets DENSENET_SUITE_EXAMPLES, and the seed.
"""

import os
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import settings

EXAMPLES = int(os.environ.get("DENSENET_SUITE_EXAMPLES", 200))
_RANDOM = "DENSENET_SUITE_EXAMPLES" in os.environ

Test = TypeVar("Test", bound=Callable[..., object])


def repeatable(test: Test) -> Test:
    """Try a property with the full number of examples."""
    return repeatable_in_part(1)(test)


def repeatable_in_part(divisor: int) -> Callable[[Test], Test]:
    """Try a property with a part of the number: its examples are expensive, or it stands for several."""

    def mark(test: Test) -> Test:
        most = max(1, EXAMPLES // divisor)
        tried = settings(max_examples=most, deadline=None, derandomize=not _RANDOM, database=None)(test)
        return pytest.mark.properties(tried)

    return mark
