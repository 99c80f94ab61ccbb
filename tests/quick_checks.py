"""The checks of shapes and types, the same ones, in a third of their time.

Half of a small run's time went into finding out, anew at every call, which argument has which name: jaxtyping and
typeguard 2 ask `inspect` four times a call, and for each part of an annotation once more. What belongs to the signature
is found once here; a call that is anything but plain goes the long way. `test_quick_checks.py` holds both against each
other.
"""

import inspect
import types
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import jaxtyping
import typeguard
from jaxtyping import _decorator

_SINGLE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class QuickArguments(inspect.BoundArguments):
    """Arguments whose defaults cost nothing where none is missing."""

    __slots__ = ()

    def apply_defaults(self) -> None:
        if len(self.arguments) < len(self.signature.parameters):
            super().apply_defaults()


class QuickSignature(inspect.Signature):
    """A signature that binds what is given in full by the names alone."""

    __slots__ = ("_by_place", "_names", "_plain")

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        parameters = self.parameters.values()
        self._names = tuple(self.parameters)
        self._by_place = sum(p.kind in _SINGLE[:2] for p in parameters)
        self._plain = all(p.kind in _SINGLE[1:] for p in parameters)

    def bind(self, /, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        names = self._names
        if self._plain and len(args) <= self._by_place and len(args) + len(kwargs) == len(names):
            arguments = dict(zip(names, args, strict=False))
            for name in names[len(args) :]:
                if name not in kwargs:
                    break
                arguments[name] = kwargs[name]
            else:
                return QuickArguments(self, arguments)
        return super().bind(*args, **kwargs)


def quick_signature(function: Any) -> QuickSignature:
    found = inspect.signature(function)
    return QuickSignature(tuple(found.parameters.values()), return_annotation=found.return_annotation)


class QuickMemo(typeguard._CallMemo):
    """What typeguard knows of a call; what it knows of the function is kept."""

    __slots__ = ()
    known: ClassVar[WeakKeyDictionary] = WeakKeyDictionary()

    def __init__(self, func: Any, frame_locals: Any = None, args: Any = None, kwargs: Any = None, **options: Any):
        if args is None or kwargs is None or func not in self.known:
            super().__init__(func, frame_locals, args, kwargs, **options)
            self.known[func] = (quick_signature(func), self.func_name, self.is_generator, self.type_hints)
            return
        self.globals, self.locals, self.func = func.__globals__, frame_locals, func
        signature, self.func_name, self.is_generator, self.type_hints = self.known[func]
        self.arguments = signature.bind(*args, **kwargs).arguments


def quick_check_type(
    argname: str, value: Any, expected_type: Any, memo: Any = None, *, globals: Any = None, locals: Any = None
) -> None:
    """Check unions written as `a | b` too, as jaxtyping teaches typeguard."""
    if type(expected_type) is types.UnionType:
        typeguard.check_union(argname, value, expected_type, memo)
    else:
        jaxtyping.check_type_orig(argname, value, expected_type, memo, globals=globals, locals=locals)


def install() -> None:
    """Put these in the place of what they are quicker than; before a module is imported whose calls are checked."""
    quick = types.ModuleType("inspect")
    quick.__dict__.update(vars(inspect), signature=quick_signature)
    _decorator.inspect = quick
    typeguard._CallMemo = QuickMemo
    typeguard.check_type = quick_check_type
