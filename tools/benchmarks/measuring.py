"""Several ways to one answer, measured in turn in one process, on one thread."""

import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SHORTEST = 0.05  # seconds; what is quicker is called several times for one measurement

Work = Callable[[], Any]


@dataclass(frozen=True)
class Side:
    """One way to the answer.

    Attributes:
        run: makes the answer once.
        check: raises AssertionError where the answer is not ours; our own side needs none.
        figures: what was counted of it beside its time, such as {"saved MiB": 812.0}.
    """

    run: Work
    check: Callable[[], None] = lambda: None
    figures: Mapping[str, float] = field(default_factory=dict)


def cpu_seconds(run: Work, calls: int) -> float:
    """Return the CPU seconds of this process for one call."""
    started = time.process_time()
    for _ in range(calls):
        run()
    return max(time.process_time() - started, 1e-9) / calls


def child_seconds(run: Work, calls: int) -> float:
    """Return the CPU seconds of the child processes that end in one call."""
    started = _of_children()
    for _ in range(calls):
        run()
    return max(_of_children() - started, 1e-9) / calls


def _of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@dataclass(frozen=True)
class Comparison:
    """What is measured: our way, and those of peers or variants.

    Attributes:
        name: what it is, with whatever tells it from other rows (size, batch, dtype).
        ours: our side.
        peers: functions that make the other sides, by name; one that raises ImportError is skipped.
        items: how many a call makes (samples, steps), by which the time is divided.
        seconds: measures the seconds of one call; given the work and how often it is called.
        beyond: report the milliseconds that ours takes beyond the peer, in the place of the ratio.
    """

    name: str
    ours: Side
    peers: Mapping[str, Callable[[], Side]]
    items: int = 1
    seconds: Callable[[Work, int], float] = cpu_seconds
    beyond: bool = False


class Skipped(NamedTuple):
    """A peer that is not installed."""

    name: str
    peer: str
    reason: str


class Unequal(NamedTuple):
    """A peer whose answer is not ours: there is nothing to compare."""

    name: str
    peer: str
    reason: str


class Measured(NamedTuple):
    """Seconds per item of both sides, round by round."""

    comparison: Comparison
    peer: str
    side: Side
    ours_s: list[float]
    peer_s: list[float]

    @property
    def name(self) -> str:
        """The comparison's name."""
        return self.comparison.name

    @property
    def unit(self) -> str:
        """What `values` are: "ms" or "x"."""
        return "ms" if self.comparison.beyond else "x"

    def values(self) -> tuple[float, float, float]:
        """Return minimum, median and maximum over the rounds of the peer's time over ours, or of the milliseconds."""
        pairs = zip(self.ours_s, self.peer_s, strict=True)
        each = [1e3 * (ours - peer) if self.comparison.beyond else peer / ours for ours, peer in pairs]
        return min(each), statistics.median(each), max(each)


Outcome = Skipped | Unequal | Measured


def compare(comparison: Comparison, rounds: int) -> Iterator[Outcome]:
    """Check every peer against ours, then measure those that agree."""
    sides = {}
    for peer, make in comparison.peers.items():
        try:
            side = make()
            side.check()
        except ImportError as error:
            yield Skipped(comparison.name, peer, missing(error))
        except AssertionError as error:
            yield Unequal(comparison.name, peer, " ".join(str(error).split()))
        else:
            sides[peer] = side
    if not sides:
        return
    runs = [side.run for side in (comparison.ours, *sides.values())]
    ours_s, *others = measure(runs, rounds, comparison.seconds)
    for (peer, side), peer_s in zip(sides.items(), others, strict=True):
        both = ([seconds / comparison.items for seconds in each] for each in (ours_s, peer_s))
        yield Measured(comparison, peer, side, *both)


def missing(error: ImportError) -> str:
    """Return what is not installed.

    Raises:
        ImportError: it is a part of this package, and so a fault.
    """
    if error.name and error.name.partition(".")[0] in ("densenet_suite", "benchmarks"):
        raise error
    return str(error)


def measure(runs: Sequence[Work], rounds: int, seconds: Callable[[Work, int], float]) -> list[list[float]]:
    """Return the seconds of a call, for each side and round; every round begins with another side."""
    calls = [max(1, round(SHORTEST / seconds(run, 1))) for run in runs]
    times: list[list[float]] = [[] for _ in runs]
    order = list(range(len(runs)))
    for number in range(rounds):
        first = number % len(runs)
        for side in order[first:] + order[:first]:
            times[side].append(seconds(runs[side], calls[side]))
    return times
