"""How slopes are found, by works that take no time; and one small curve as it is."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture(autouse=True)
def _tools_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))


def run(monkeypatch, *arguments):
    import scaling

    monkeypatch.setattr(sys, "argv", ["scaling.py", "--rounds", "1", *map(str, arguments)])
    scaling.main()


@pytest.mark.parametrize("power", [0, 1, 2])
def test_the_slope_is_the_exponent_of_the_upper_half(monkeypatch, power):
    import scaling

    def work(size):  # its answer is its time, which rises only from the middle on
        return lambda: 5.0 * max(size, 4) ** power

    panel = scaling.PANELS["batch"]
    panel = replace(panel, points=(1, 2, 4, 8, 16), curves={"work": work})
    monkeypatch.setitem(scaling.PANELS, "batch", panel)
    monkeypatch.setattr(scaling, "cpu_seconds", lambda run, calls: run())
    curve = scaling.measure_curve("batch", "work", rounds=3)
    assert curve.times() == [1.0, 1.0, 1.0, 2.0**power, 4.0**power]
    assert curve.slope() == pytest.approx(power)


def test_a_cost_is_held_against_pixels_not_against_sides():
    import scaling

    assert scaling.PANELS["size"].amount(256) == 256 * 256


def test_every_curve_has_a_colour():
    import scaling

    assert {name for panel in scaling.PANELS.values() for name in panel.curves} == set(scaling.COLOURS)


def test_curves_are_printed_drawn_and_kept(monkeypatch, capsys, tmp_path):
    import scaling
    from benchmarks import curves

    monkeypatch.setattr(curves, "ANCHORED", 128)
    name = "assignment and loss"
    panel = replace(scaling.PANELS["objects"], points=(1, 3), curves={name: curves.assign})
    monkeypatch.setitem(scaling.PANELS, "objects", panel)
    figure, rows = tmp_path / "figure.svg", tmp_path / "curves.jsonl"
    run(monkeypatch, "--only", "objects", "--figure", figure, "--json", rows)
    assert name in capsys.readouterr().out
    (row,) = map(json.loads, rows.read_text().splitlines())
    assert (row["panel"], row["name"], row["points"]) == ("objects", name, [1, 3])
    assert row["rounds"][0][0] == 1.0
    assert "</svg>" in figure.read_text()
