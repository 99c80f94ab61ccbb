"""How sides are measured in turn, and what is said of them; by comparisons that take no time."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture(autouse=True)
def _tools_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))


def comparison(peers, seconds=None, **options):
    """Return a comparison of sides that are their own time: the n-th call of a side takes so many seconds."""
    from benchmarks.measuring import Comparison, Side

    ours = Side(iter([1.0] * 99).__next__, figures={"saved MiB": 50.0})
    return Comparison("addition", ours, peers, seconds=seconds or (lambda run, calls: run()), **options)


def peer(*times, check=lambda: None):
    """Return what makes a side whose calls take these times; the first is that of warming up."""
    from benchmarks.measuring import Side

    return lambda: Side(iter(times).__next__, check, {"saved MiB": 200.0})


def not_installed():
    raise ImportError("No module named 'effdet'", name="effdet")


def another_answer():
    raise AssertionError("3 is not\n 4")


def reported(capsys, *comparisons, rounds=3, **given):
    """Return whether all was equal, and the printed table."""
    from benchmarks.reporting import report

    options = Namespace(only=["sums"], rounds=rounds, json=None, against=None, size=512, **given)
    equal = report("arithmetic", {"sums": lambda options: iter(comparisons)}, options)
    return equal, capsys.readouterr().out


def test_every_round_begins_with_another_side():
    from benchmarks.measuring import measure

    order = []
    runs = [lambda name=name: order.append(name) for name in "abc"]

    def seconds(run, calls):
        run()
        return 1.0

    assert measure(runs, 4, seconds) == [[1.0] * 4] * 3
    assert "".join(order) == "abc" + "abc" + "bca" + "cab" + "abc"  # once to warm up


def test_what_is_quick_is_called_often():
    from benchmarks.measuring import SHORTEST, measure

    asked = []

    def seconds(run, calls):
        asked.append(calls)
        return run()

    measure([lambda: SHORTEST / 20, lambda: 3 * SHORTEST], 1, seconds)
    assert asked == [1, 1, 20, 1]


def test_a_ratio_is_of_times_of_the_same_round():
    from benchmarks.measuring import compare

    (measured,) = compare(comparison({"theirs": peer(1.0, 2.0, 9.0, 4.0)}, items=2), rounds=3)
    assert measured.values() == (2.0, 4.0, 9.0)
    assert measured.ours_s == [0.5] * 3
    assert measured.peer_s == [1.0, 4.5, 2.0]


def test_several_peers_share_the_measurements_of_ours():
    from benchmarks.measuring import compare

    first, second = compare(comparison({"a": peer(*[2.0] * 3), "b": peer(*[3.0] * 3)}), rounds=2)
    assert (first.values()[1], second.values()[1]) == (2.0, 3.0)
    assert first.ours_s is not second.ours_s
    assert first.ours_s == second.ours_s


def test_times_beyond_the_peers_are_milliseconds(capsys):
    equal, text = reported(capsys, comparison({"loop": peer(1.0, 0.75, 0.5, 0.25)}, beyond=True))
    assert equal
    assert "250.000 / 500.000 / 750.000 ms beyond" in text


def test_the_table_has_the_ratios_and_what_was_counted(capsys):
    equal, text = reported(capsys, comparison({"theirs": peer(1.0, 2.0, 9.0, 4.0)}))
    assert equal
    assert "2.00 / 4.00 / 9.00; saved MiB 50 against 200 (0.25 of it)" in text


def test_another_answer_gives_no_ratio_and_is_told(capsys):
    wrong = comparison({"wrong": peer(check=another_answer), "right": peer(*[2.0] * 4)})
    equal, text = reported(capsys, wrong)
    assert not equal
    lines = {line.split()[1]: line for line in text.splitlines() if line.startswith("addition")}
    assert "NOT EQUAL: 3 is not 4" in lines["wrong"]
    assert "2.00 / 2.00 / 2.00" in lines["right"]
    assert len([line for line in text.splitlines() if line.startswith("{")]) == 1


def test_a_peer_that_is_missing_is_skipped(capsys):
    equal, text = reported(capsys, comparison({"effdet": not_installed, "other": peer(*[2.0] * 4)}))
    assert equal
    assert "skipped: No module named 'effdet'" in text
    assert "2.00 / 2.00 / 2.00" in text


def test_a_part_whose_peer_is_missing_is_skipped(capsys):
    from benchmarks.reporting import report

    def part(options):
        not_installed()
        yield

    assert report("arithmetic", {"sums": part}, Namespace(only=["sums"], rounds=1, json=None, against=None))
    assert "skipped" in capsys.readouterr().out


def test_a_part_of_this_package_that_is_missing_is_a_fault():
    from benchmarks.measuring import compare

    def broken():
        raise ImportError("cannot import name 'fuse'", name="densenet_suite.fusing")

    with pytest.raises(ImportError, match="fuse"):
        list(compare(comparison({"effdet": broken}), rounds=1))


def test_rows_are_held_against_those_of_an_earlier_run(capsys, tmp_path):
    from benchmarks.reporting import report

    file = tmp_path / "rows.jsonl"

    def run(options, *times):
        parts = {"sums": lambda _: iter([comparison({"theirs": peer(*times)})])}
        report("arithmetic", parts, Namespace(only=["sums"], rounds=1, **options))
        return capsys.readouterr().out

    assert "[" not in run({"json": file, "against": None, "size": 512}, 1.0, 2.0)
    again = run({"json": file, "against": file, "size": 512}, 1.0, 3.0)
    assert "[was 2.00, +50%]" in again
    assert "[was 3.00, -67%]" in run({"json": None, "against": file, "size": 512}, 1.0, 1.0)  # the last of equal rows
    assert "[no earlier row]" in run({"json": None, "against": file, "size": 640}, 1.0, 3.0)
    chosen = {"json": None, "against": file, "size": 512, "batches": [1, 8]}  # of the rows that there are
    assert "[was 3.00" in run(chosen, 1.0, 3.0)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["median"] for row in rows] == [2.0, 3.0]
    assert rows[0]["options"] == {"size": 512}
    assert rows[0]["versions"].keys() >= {"python", "torch"}
    assert rows[0]["figures"] == {"ours": {"saved MiB": 50.0}, "peer": {"saved MiB": 200.0}}


@pytest.mark.parametrize(("check", "code"), [(lambda: None, 0), (another_answer, 1)])
def test_the_exit_code_tells_of_another_answer(monkeypatch, check, code):
    command = Namespace(
        __doc__="Sums.",
        ROUNDS=1,
        PARTS={"sums": lambda options: iter([comparison({"theirs": peer(1.0, 2.0, check=check)})])},
        add_options=lambda parser: None,
    )
    monkeypatch.setitem(sys.modules, "benchmarks.arithmetic", command)
    import benchmark

    monkeypatch.setitem(benchmark.COMMANDS, "sum", ("arithmetic", "sums"))
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "sum", "--only", "sums"])
    with pytest.raises(SystemExit) as stopped:
        benchmark.main()
    assert stopped.value.code == code


def test_a_gpu_that_is_not_there_is_refused(monkeypatch, capsys):
    import benchmark
    import torch
    from benchmarks import backbone

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for option in (["--device", "cuda"], ["--graph"]):
        with pytest.raises(SystemExit):
            benchmark.parse("backbone", backbone, option)
        assert "finds no CUDA device here" in capsys.readouterr().err


def test_saved_memory_is_what_backward_needs():
    import torch
    from benchmarks.counting import saved_mib
    from torch import nn

    class Keeps(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.own = x.new_ones(2**18)  # 1 MiB that hooks do not see
            return x.sum()

        @staticmethod
        def backward(ctx, upstream):
            return upstream * ctx.own

    layer = nn.Linear(4, 4, bias=False)
    images = torch.ones(2**16, 4)  # 1 MiB
    assert saved_mib(lambda: layer(images).sum(), layer) == 1
    assert saved_mib(lambda: layer(images).relu().sum(), layer) == 2
    assert saved_mib(lambda: Keeps.apply(torch.ones(2**18, requires_grad=True)), layer) == 1


def test_views_and_allocations_are_no_operations():
    import torch
    from benchmarks.counting import operations

    x = torch.ones(4, 4)
    assert operations(lambda: torch.empty(3).fill_(0)) == 1
    assert operations(lambda: x.t().reshape(16)[2:] + 1) == 2  # the reshape copies
    assert operations(lambda: x.view(16).unsqueeze(0)) == 0
