import pytest

from densenet_suite.errors import DataError, Problem
from densenet_suite.findings import FaultError, Findings


def test_faults_of_one_kind_are_counted_together():
    findings = Findings("a.json")
    for i in range(12):
        findings.warning("clipped", f"box {i}")
    (found,) = findings
    assert (found.check, found.severity, found.count) == ("clipped", "warning", 12)
    assert str(found) == "box 0 and 11 more"


def test_the_first_ten_places_are_kept():
    findings = Findings("a.json")
    for i in range(12):
        findings.warning("clipped", f"box {i}")
    assert findings.to_list() == [
        {
            "check": "clipped",
            "severity": "warning",
            "count": 12,
            "examples": [f"box {i}" for i in range(10)],
            "hint": None,
        }
    ]


def test_warnings_do_not_stop_a_run():
    findings = Findings("a.json")
    findings.warning("clipped", "box 0")
    findings.raise_errors()


def test_errors_stop_a_run_with_one_problem_for_each_kind():
    findings = Findings("a.json")
    findings.error("nan", "box 0 is NaN", "export again")
    findings.warning("clipped", "box 1")
    findings.error("nan", "box 2 is NaN", "export again")
    findings.error("id", "id 'x'")
    with pytest.raises(DataError) as caught:
        findings.raise_errors()
    assert caught.value.problems == (
        Problem("box 0 is NaN and 1 more", "a.json", "export again"),
        Problem("id 'x'", "a.json", None),
    )


def test_several_at_once_are_counted_and_the_first_described():
    findings = Findings("a.json")
    findings.several("warning", "tiny", 500, [f"box {i}" for i in range(20)], "look")
    findings.several("warning", "none", 0, [])
    (found,) = findings
    assert (found.count, len(found.examples), found.hint) == (500, 10, "look")
    assert "tiny" in findings
    assert "none" not in findings


def test_a_note_is_no_fault():
    findings = Findings("a.json")
    findings.note("grey", "a.png is grey")
    assert [found.severity for found in findings] == ["note"]
    findings.raise_errors()


def test_an_error_is_recorded_as_a_fault_of_its_own_kind_or_else_of_the_kind_given():
    findings = Findings("a.json", stops=False)
    findings.record(FaultError("mask-size", "too small", where="a.png", hint="export again"), "other")
    findings.record(DataError([Problem("empty", "b.png"), Problem("gone")]), "other")
    assert [(f.check, f.count, f.examples, f.hint) for f in findings] == [
        ("mask-size", 1, ["too small: a.png"], "export again"),
        ("other", 2, ["empty: b.png", "gone"], None),
    ]


def test_a_check_goes_on_after_errors():
    findings = Findings("a.json", stops=False)
    findings.error("nan", "box 0 is NaN")
    findings.raise_errors()
    assert [found.check for found in findings] == ["nan"]
