import pytest

from densenet_suite.errors import DataError, Problem
from densenet_suite.findings import Findings


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
