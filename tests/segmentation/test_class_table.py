"""What a user writes about the values of masks."""

import numpy as np
import pytest

from densenet_suite.errors import ConfigError
from densenet_suite.segmentation.class_table import (
    check_names,
    colour_name,
    name_classes,
    pack_colours,
    parse_table,
)
from densenet_suite.segmentation.structures import MaskClasses


def test_a_class_has_one_value_or_several():
    found = parse_table({"ground": 0, "water": [3, 7], "road": (9,)}, [255, -1], multilabel=False)
    assert found.values == {"ground": (0,), "water": (3, 7), "road": (9,)}
    assert (found.ignored, found.coloured) == ((255, -1), False)


def test_colours_are_packed():
    found = parse_table({"a": "#102030", "b": ["#FFFFFF", "#abcdef"]}, ["#000000"], multilabel=False)
    assert found.values == {"a": (0x102030,), "b": (0xFFFFFF, 0xABCDEF)}
    assert (found.ignored, found.coloured) == ((0,), True)
    assert colour_name(0xABCDEF) == "#ABCDEF"


@pytest.mark.parametrize(
    ("table", "ignore", "multilabel", "what", "hint"),
    [
        (
            {"a": 0, "b": "#000000"},
            [],
            False,
            "the class table has numbers and colours",
            "masks are read by one of them: numbers such as 3, or colours such as '#804080'",
        ),
        (
            {"a": "#000000", "b": "#000001"},
            [255],
            False,
            "the class table has numbers and colours",
            "masks are read by one of them: numbers such as 3, or colours such as '#804080'",
        ),
        ({"a": "red", "b": "#000000"}, [], False, "'red' is no colour", "write '#RRGGBB', in quotes"),
        ({"a": "#00000g", "b": "#000000"}, [], False, "'#00000g' is no colour", "write '#RRGGBB', in quotes"),
        ({"a": 0, "b": []}, [], False, "class 'b' has no value", "{b: 1}"),
        ({"a": 0, "b": [1, 0]}, [], False, "the value 0 is of a and of b", "each value has one meaning"),
        ({"a": 0, "b": 5}, [5], False, "the value 5 is of ignore and of b", "each value has one meaning"),
        (
            {"a": "#0000FF", "b": "#0000ff"},
            [],
            False,
            "the value #0000FF is of a and of b",
            "each value has one meaning",
        ),
        (
            {"a": 0, "b": 1},
            [],
            True,
            "class 'a' has the value 0, which says no where classes may overlap",
            "leave the background out: it is where no class is",
        ),
    ],
)
def test_contradictions_are_refused(table, ignore, multilabel, what, hint):
    with pytest.raises(ConfigError) as caught:
        parse_table(table, ignore, multilabel)
    (problem,) = caught.value.problems
    assert (problem.what, problem.hint) == (what, hint)


def test_overlapping_classes_may_say_yes_alike():
    assert parse_table({"a": 255, "b": 255}, [], multilabel=True).values == {"a": (255,), "b": (255,)}


def test_classes_are_drawn_in_their_own_colours():
    own = name_classes(["a", "b"], False, {"a": (0x102030,), "b": (0xFFFFFF,)})
    assert own == MaskClasses(("a", "b"), ((16, 32, 48), (255, 255, 255)))
    others = name_classes(["background", "b", "c"], False)
    assert others.colours[0] == (0, 0, 0)
    assert len(set(others.colours)) == 3
    assert name_classes(["vessel"], True).multilabel


def test_a_single_class_that_excludes_nothing_is_refused():
    with pytest.raises(ConfigError, match="1 classes, a mask holds 2 to 255") as caught:
        name_classes(["road"], False)
    assert caught.value.problems[0].hint == (
        "background is a class of its own; a single class needs data.multilabel=true"
    )


def test_the_names_are_those_of_the_model():
    given = MaskClasses(("road", "water"), ((0, 0, 0), (1, 1, 1)))
    check_names(("water", "road"), given)
    with pytest.raises(
        ConfigError, match="the class table lacks road and has roads, which the model has not"
    ) as caught:
        check_names(("roads", "water"), given)
    assert caught.value.problems[0].hint == "did you mean roads?"
    with pytest.raises(ConfigError, match="the class table has sea, which the model has not") as caught:
        check_names(("road", "water", "sea"), given)
    assert caught.value.problems[0].hint == "the model has road, water"


def test_packed_colours_tell_all_colours_apart():
    colours = np.array([[[1, 2, 3], [255, 255, 255]], [[0, 0, 0], [3, 2, 1]]], np.uint8)
    assert pack_colours(colours).tolist() == [[0x010203, 0xFFFFFF], [0, 0x030201]]
