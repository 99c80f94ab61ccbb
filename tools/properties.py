"""Try every property of the test suite with any number of examples, others than those of the suite.

    python tools/properties.py --examples 20000
    python tools/properties.py --examples 20000 -k "overlaps or collate"
    python tools/properties.py --examples 20000 --seed 4711       # the same examples again

A property is a test with `@repeatable` of `tests/properties.py`. One process, one thread. Prints for each how many
examples it has passed, its CPU seconds and its outcome; a failure is printed with the smallest example of it that was
found. A property that stands for several, or is expensive, has its part of the number; one that has fewer examples than
were asked for has no others. The exit code is pytest's.
"""

import argparse
import functools
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import pytest

REPOSITORY = Path(__file__).parents[1]


class Tally:
    """Counts the examples of each property, and prints its line when it is over."""

    def __init__(self) -> None:
        self.total = 0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Function) -> Iterator[None]:
        """Count what the property passes."""
        passed = 0
        inner = item.obj.hypothesis.inner_test

        @functools.wraps(inner)
        def counted(*args: object, **kwargs: object) -> None:
            nonlocal passed
            inner(*args, **kwargs)
            passed += 1

        item.obj.hypothesis.inner_test = counted
        began, outcome = time.process_time(), "fails"
        try:
            yield
            outcome = "holds"
        finally:
            item.obj.hypothesis.inner_test = inner
            self.total += passed
            seconds = time.process_time() - began
            print(f"{passed:>8} examples {seconds:>8.1f} s  {outcome}  {item.nodeid}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=2000, help="of each property")
    parser.add_argument("--seed", type=int, help="of the examples; drawn and printed without it")
    parser.add_argument("-k", dest="names", default="", help="which properties, as pytest's -k")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    os.environ["DENSENET_SUITE_EXAMPLES"] = str(options.examples)
    print(f"{options.examples} examples, seed {seed}", flush=True)
    tally, began = Tally(), time.process_time()
    arguments = ["-m", "properties", "-k", options.names, f"--hypothesis-seed={seed}", "-p", "no:xdist"]
    quiet = ["-p", "no:cacheprovider", "-qq", "-rN", "-s", "--rootdir", str(REPOSITORY)]
    code = pytest.main([*arguments, *quiet, str(REPOSITORY / "tests")], plugins=[tally])
    print(f"{tally.total} examples in {time.process_time() - began:.0f} CPU seconds")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
