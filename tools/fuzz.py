"""Feed mutated files of every kind to the readers, and say where one does anything but read or refuse them.

    python tools/fuzz.py --count 100000
    python tools/fuzz.py --count 20000 --only png --only tiff
    python tools/fuzz.py --only png --seed 4711 --count 1 --keep /tmp/cases    # one case again, its file kept
    python tools/fuzz.py --count 100000 --journal fuzz.jsonl                    # goes on where it was stopped

A case is its kind and its number; `tests/faults/fuzzing.py` makes its file and knows what must hold. Cases run in
forked children with little memory and an alarm each, so that a crash, a hang and a file that fills the memory are seen
and named too. Prints the counts of each kind and the first faults; the exit code is 1 where there is any.
"""

import argparse
import ctypes
import json
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from faults.fuzzing import KINDS, Case

MEMORY = 2 * 2**30  # bytes that a child may take beyond what it begins with
CPU_SECONDS, SECONDS = 20, 120  # of a case
CHUNK = 500  # cases of a child
SHOWN = 40

Result = tuple[str, int, str, str]  # kind, number, outcome, detail


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="cases in all")
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", action="append", choices=list(KINDS), help="kinds; all take turns without it")
    parser.add_argument("--journal", type=Path, help="file of what has been done, from which a later call goes on")
    parser.add_argument(
        "--keep", type=Path, help="folder for the files of faulty cases; of all where there is one case"
    )
    arguments = parser.parse_args()
    kinds = arguments.only or list(KINDS)
    cases = [(kinds[n % len(kinds)], n) for n in range(arguments.seed, arguments.seed + arguments.count)]
    done = _read_journal(arguments.journal)
    known = {(kind, number) for kind, number, _, _ in done}
    cases = [case for case in cases if case not in known]
    results = done
    with tempfile.TemporaryDirectory(dir=_fast_folder()) as folder:
        for first in range(0, len(cases), CHUNK):
            found = list(run_cases(cases[first : first + CHUNK], Path(folder)))
            results += found
            _write_journal(arguments.journal, found)
            faults = sum(outcome not in ("sound", "refused") for _, _, outcome, _ in results)
            print(f"\r{len(results)} cases, {faults} faults", end="", file=sys.stderr, flush=True)
        if arguments.keep:
            _keep(results, Path(folder), arguments.keep, everything=arguments.count == 1)
    print(file=sys.stderr)
    return report(results)


def run_cases(cases: list[tuple[str, int]], folder: Path) -> Iterator[Result]:
    """Play cases in children; one that dies is followed by another, which goes on behind the case that killed it."""
    while cases:
        played = 0
        for line in _in_child(cases, folder):
            yield (*cases[played], *line)
            played += 1
        cases = cases[played:]


def _in_child(cases: list[tuple[str, int]], folder: Path) -> Iterator[tuple[str, str]]:
    """Yield what becomes of cases up to the one that ends the child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 1
        try:
            _child(cases, folder, writing)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    answered = 0
    with os.fdopen(reading, encoding="utf-8") as lines:
        for line in lines:
            answered += 1
            outcome, detail = json.loads(line)
            yield outcome, detail
    _, status = os.waitpid(child, 0)
    if answered < len(cases):
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        name = signal.Signals(number).name if number else f"exit {os.waitstatus_to_exitcode(status)}"
        yield ("hang" if number in (signal.SIGPROF, signal.SIGALRM) else "crash"), name


def _child(cases: list[tuple[str, int]], folder: Path, writing: int) -> None:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX: each thread's own would take of the limit without being used
    places: dict[str, Case] = {}
    for kind, number in cases:
        if kind not in places:
            places[kind] = Case(kind, folder / kind)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        outcome, detail = _play(places[kind], number)
        os.write(writing, (json.dumps([outcome, detail]) + "\n").encode())


def _play(case: Case, number: int) -> tuple[str, str]:
    try:
        return case.play(number), ""
    except MemoryError:
        return "memory", _place_of_fault()
    except BaseException as error:
        return type(error).__name__, f"{str(error)[:300]} | {_place_of_fault()}"


def _place_of_fault() -> str:
    """Return the last lines of the package in the traceback."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    inside = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if "densenet_suite/" in frame.filename]
    return " > ".join(inside[-3:])


def report(results: list[Result]) -> int:
    """Print a table of the kinds and the faults; return the exit code."""
    outcomes = {kind: Counter[str]() for kind in KINDS}
    for kind, _, outcome, _ in results:
        outcomes[kind][outcome if outcome in ("sound", "refused") else "faults"] += 1
    print(f"{'kind':<12}{'cases':>8}{'sound':>8}{'refused':>9}{'faults':>8}")
    for kind, counts in outcomes.items():
        if counts:
            print(f"{kind:<12}{counts.total():>8}{counts['sound']:>8}{counts['refused']:>9}{counts['faults']:>8}")
    total = sum(outcomes.values(), Counter[str]())
    print(f"{'all':<12}{total.total():>8}{total['sound']:>8}{total['refused']:>9}{total['faults']:>8}")
    faults = [result for result in results if result[2] not in ("sound", "refused")]
    for kind, number, outcome, detail in faults[:SHOWN]:
        print(f"{kind} {number}: {outcome} {detail}")
    return 1 if faults else 0


def _keep(results: list[Result], folder: Path, target: Path, *, everything: bool) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for kind, number, outcome, _ in results:
        if everything or outcome not in ("sound", "refused"):
            place, data = Case(kind, folder / kind).bytes_of(number)
            (target / f"{kind}-{number}-{Path(place).name}").write_bytes(data)


def _read_journal(path: Path | None) -> list[Result]:
    if path is None or not path.is_file():
        return []
    entries: list[Any] = [json.loads(line) for line in path.read_text().splitlines()]
    return [(kind, number, outcome, detail) for kind, number, outcome, detail in entries]


def _write_journal(path: Path | None, results: list[Result]) -> None:
    if path is not None:
        with path.open("a") as file:
            file.writelines(json.dumps(result) + "\n" for result in results)


def _fast_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


if __name__ == "__main__":
    sys.exit(main())
