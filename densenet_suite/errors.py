"""Errors for users: each says what is wrong, where, and what to do, and carries the exit code of the command line."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypeVar


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the value and the rule (`what`), the file or key (`where`), the remedy (`hint`)."""

    what: str
    where: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        line = self.what if self.where is None else f"{self.what}  ({self.where})"
        return line if self.hint is None else f"{line}\n  hint: {self.hint}"


class SuiteError(Exception):
    """A failure that the user can act on; the base of the others, and itself a run that failed (exit code 1)."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str | Sequence[Problem], *, where: str | None = None, hint: str | None = None):
        self.problems = (Problem(what, where, hint),) if isinstance(what, str) else tuple(what)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def at(self, place: str) -> Self:
        """Return the same error with a further place: what was being done when it came up."""
        problems = (replace(p, where=place if p.where is None else f"{p.where}; {place}") for p in self.problems)
        return _restored(type(self), tuple(problems))

    def __reduce__(self) -> Any:
        """Let it pass from one process to another whole."""
        return _restored, (type(self), self.problems), {"__notes__": getattr(self, "__notes__", [])}


E = TypeVar("E", bound=SuiteError)


def _restored(kind: type[E], problems: tuple[Problem, ...]) -> E:
    error = kind.__new__(kind)
    SuiteError.__init__(error, problems)
    return error


class ConfigError(SuiteError, ValueError):
    """A wrong argument, key, name or weight file (exit code 2)."""

    exit_code = 2


class DataError(SuiteError, ValueError):
    """A file of the dataset, or an image, that cannot be used as it is (exit code 3)."""

    exit_code = 3


class MissingExtraError(SuiteError, ImportError):
    """An optional dependency is not installed; the hint is the pip line that installs it (exit code 4)."""

    exit_code = 4

    def __init__(self, purpose: str, extra: str):
        super().__init__(
            f"{purpose} needs a package that is not installed", hint=f'pip install "densenet-suite[{extra}]"'
        )
