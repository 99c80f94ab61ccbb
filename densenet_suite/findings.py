"""What a check finds in a dataset: errors that stop a run, and faults that are mended, counted and shown."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from densenet_suite.damaged import DAMAGE_HINT, too_many
from densenet_suite.errors import DataError, Problem

_EXAMPLES = 10


@dataclass
class Finding:
    """One kind of fault: how many of it, and the first few places."""

    check: str
    severity: Literal["error", "warning"]
    hint: str | None
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        more = f" and {self.count - 1} more" if self.count > 1 else ""
        return self.examples[0] + more


class Findings:
    """Collects faults by kind, so that a user sees all kinds at once and none a thousand times.

    Attributes:
        damaged: pictures that cannot be decoded and are left out: the file, and why.
    """

    def __init__(self, where: str):
        self.where = where
        self.damaged: list[dict[str, str]] = []
        self._found: dict[str, Finding] = {}

    def error(self, check: str, what: str, hint: str | None = None) -> None:
        """Record a fault that stops the run."""
        self._add(check, "error", what, hint)

    def warning(self, check: str, what: str, hint: str | None = None) -> None:
        """Record a fault that has been mended."""
        self._add(check, "warning", what, hint)

    def leave_out(self, path: Path, why: str) -> None:
        """Record a picture that cannot be decoded."""
        self.damaged.append({"file": str(path), "why": why})
        self.warning("image-damaged", f"{path} is left out: {why}")

    def check_damaged(self, images: int) -> None:
        """Record an error where more of the pictures are damaged than may be left out."""
        problem = too_many(len(self.damaged), images)
        if problem:
            self.error("images-damaged", problem, DAMAGE_HINT)

    def raise_errors(self) -> None:
        """Stop where there are errors.

        Raises:
            DataError: with one problem for each kind of error.
        """
        errors = [finding for finding in self if finding.severity == "error"]
        if errors:
            raise DataError([Problem(str(finding), self.where, finding.hint) for finding in errors])

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._found.values())

    def to_list(self) -> list[dict[str, Any]]:
        """Return plain values for `data_report.json`."""
        return [{"check": f.check, "severity": f.severity, "count": f.count, "examples": f.examples} for f in self]

    def _add(self, check: str, severity: Literal["error", "warning"], what: str, hint: str | None) -> None:
        finding = self._found.setdefault(check, Finding(check, severity, hint))
        finding.count += 1
        if len(finding.examples) < _EXAMPLES:
            finding.examples.append(what)
