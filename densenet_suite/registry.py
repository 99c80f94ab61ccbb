"""Names to things: a dict, a decorator that refuses duplicates, and an error that suggests the nearest name."""

import difflib
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

from densenet_suite.errors import ConfigError

T = TypeVar("T")


def did_you_mean(name: str, names: Iterable[str]) -> str | None:
    """Return "did you mean ...?" with the nearest of `names`, or None where nothing is near."""
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else None


class Registry(Generic[T]):
    """What can be asked for by name; `noun` says in messages what the names stand for."""

    def __init__(self, noun: str):
        self.noun = noun
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers under `name`.

        Raises:
            ConfigError: the name is taken.
        """

        def add(entry: T) -> T:
            if name in self._entries:
                raise ConfigError(f"{self.noun} {name!r} is registered twice", hint="choose another name")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            raise ConfigError(f"unknown {self.noun} {name!r}", hint=did_you_mean(name, self._entries)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def names(self, pattern: str = "*") -> list[str]:
        """Return the names that match a shell pattern, in the order of registration."""
        return [name for name in self._entries if fnmatchcase(name, pattern)]
