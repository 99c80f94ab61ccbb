"""What a check finds in a dataset: errors that stop a run, faults that are mended, counted and shown, and notes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from densenet_suite.errors import DataError, Problem

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_EXAMPLES = 10


class FaultError(DataError):
    """Something that cannot be used as it is; `check` names the kind of fault in a report."""

    def __init__(self, check: str, what: str, *, where: str | None = None, hint: str | None = None):
        super().__init__(what, where=where, hint=hint)
        self.check = check


@dataclass
class Finding:
    """One kind of fault: how many of it, and the first few places."""

    check: str
    severity: Severity
    hint: str | None
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        more = f" and {self.count - 1} more" if self.count > 1 else ""
        return self.examples[0] + more

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "check": self.check,
            "severity": self.severity,
            "count": self.count,
            "examples": self.examples,
            "hint": self.hint,
        }


class Findings:
    """Collects faults by kind, so that a user sees all kinds at once and none a thousand times.

    Args:
        where: the file or folder that they are in.
        stops: whether `raise_errors` raises; a check of the data goes on to see what else there is.
    """

    def __init__(self, where: str, *, stops: bool = True):
        self.where = where
        self.stops = stops
        self._found: dict[str, Finding] = {}

    def error(self, check: str, what: str, hint: str | None = None) -> None:
        """Record a fault that stops the run."""
        self.several("error", check, 1, [what], hint)

    def warning(self, check: str, what: str, hint: str | None = None) -> None:
        """Record a fault that has been mended, or that a run suffers from."""
        self.several("warning", check, 1, [what], hint)

    def note(self, check: str, what: str, hint: str | None = None) -> None:
        """Record what is no fault, and good to know."""
        self.several("note", check, 1, [what], hint)

    def several(
        self, severity: Severity, check: str, count: int, examples: Sequence[str], hint: str | None = None
    ) -> None:
        """Record `count` faults of one kind, of which the first are described; nothing where there are none."""
        if count == 0:
            return
        finding = self._found.setdefault(check, Finding(check, severity, hint))
        finding.count += count
        finding.examples += examples[: _EXAMPLES - len(finding.examples)]

    def record(self, error: DataError, check: str) -> None:
        """Record what an error says, as a fault of its own kind, or else of the kind `check`."""
        kind = error.check if isinstance(error, FaultError) else check
        for problem in error.problems:
            place = f": {problem.where}" if problem.where else ""
            self.error(kind, problem.what + place, problem.hint)

    def raise_errors(self) -> None:
        """Stop where there are errors.

        Raises:
            DataError: with one problem for each kind of error.
        """
        errors = [finding for finding in self if finding.severity == "error"]
        if errors and self.stops:
            raise DataError([Problem(str(finding), self.where, finding.hint) for finding in errors])

    def __contains__(self, check: object) -> bool:
        return check in self._found

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._found.values())

    def to_list(self) -> list[dict[str, Any]]:
        """Return plain values for `data_report.json`."""
        return [finding.to_dict() for finding in self]
