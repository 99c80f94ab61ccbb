"""The quick checks of shapes and types refuse what the plain ones refuse."""

import inspect
import re
from typing import NamedTuple

import jaxtyping
import pytest
import torch
import typeguard
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float, TypeCheckError, jaxtyped
from quick_checks import QuickMemo, quick_check_type, quick_signature
from torch import Tensor

from densenet_suite.detection.boxes import box_area


def every_kind(first, /, second, third=3, *rest, fourth, fifth=5, **more):
    return None


def places_and_names(first, second, third=3, *, fourth, fifth=5):
    return None


def places(first, second=2):
    return None


@given(
    st.sampled_from([every_kind, places_and_names, places]),
    st.lists(st.integers(), max_size=4),
    st.dictionaries(st.sampled_from(["first", "second", "third", "fourth", "fifth", "sixth"]), st.integers()),
)
def test_arguments_get_the_names_that_inspect_gives_them(function, args, kwargs):
    try:
        theirs = inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        with pytest.raises(TypeError, match=re.escape(str(error))):
            quick_signature(function).bind(*args, **kwargs)
        return
    ours = quick_signature(function).bind(*args, **kwargs)
    for _ in range(2):
        assert list(ours.arguments.items()) == list(theirs.arguments.items())
        assert (ours.args, ours.kwargs) == (theirs.args, theirs.kwargs)
        ours.apply_defaults()
        theirs.apply_defaults()


class Pair(NamedTuple):
    left: Float[Tensor, "n"]
    right: Float[Tensor, "n"]


@jaxtyped(typechecker=typeguard.typechecked)
def checked(
    images: Float[Tensor, "n c"], names: list[str], number: int | None = None, *, pair: Pair | None = None
) -> Float[Tensor, "n"]:
    return images.sum(1)[: 1 if number == 1 else None]


IMAGES = torch.zeros(3, 2)


def test_they_are_in_the_place_of_the_plain_ones():
    assert typeguard._CallMemo is QuickMemo
    assert typeguard.check_type is quick_check_type
    assert jaxtyping.check_type_orig is not quick_check_type
    assert box_area(torch.zeros(3, 4)).shape == (3,)
    for wrong in (torch.zeros(3, 5), [1, 2, 3, 4]):
        with pytest.raises(TypeCheckError):
            box_area(wrong)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((torch.zeros(3), []), {}),
        ((torch.zeros(3, 2, dtype=torch.int32), []), {}),
        ((IMAGES, ["a", 1]), {}),
        ((IMAGES,), {"names": [1]}),
        ((IMAGES, [], "1"), {}),
        ((IMAGES, []), {"number": 1.5}),
        ((IMAGES, [], 1), {}),  # one row is returned, where there are three
        ((IMAGES, []), {"pair": (torch.zeros(3), torch.zeros(3))}),
        ((IMAGES, []), {"pair": Pair(torch.zeros(3), torch.zeros(4))}),
    ],
)
def test_a_wrong_call_is_refused(args, kwargs):
    for _ in range(2):  # what is kept of the first call serves the second
        with pytest.raises(TypeCheckError):
            checked(*args, **kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((IMAGES, []), {}),
        ((IMAGES, ["a"], 5), {}),
        ((), {"names": [], "images": IMAGES}),
        ((IMAGES, []), {"pair": Pair(torch.zeros(3), torch.zeros(3)), "number": None}),
    ],
)
def test_a_right_call_is_not(args, kwargs):
    for _ in range(2):
        assert checked(*args, **kwargs).shape == (3,)


def test_a_call_that_lacks_an_argument_says_which():
    with pytest.raises(TypeError, match="missing a required argument: 'names'"):
        checked(IMAGES)
