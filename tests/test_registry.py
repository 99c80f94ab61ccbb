import pytest

from densenet_suite.errors import ConfigError
from densenet_suite.registry import Registry, did_you_mean


@pytest.fixture
def registry():
    found = Registry("backbone")
    for name in ("resnet18", "resnet50", "efficientnet_b0"):
        found.register(name)(name.upper())
    return found


def test_what_is_registered_is_found_by_its_name(registry):
    assert registry["resnet50"] == "RESNET50"
    assert "resnet50" in registry
    assert list(registry) == ["resnet18", "resnet50", "efficientnet_b0"]


def test_the_decorator_gives_back_what_it_registers():
    @Registry("function").register("double")
    def double(value):
        return 2 * value

    assert double(4) == 8


def test_names_are_chosen_by_a_shell_pattern_in_the_order_of_registration(registry):
    assert registry.names("resnet*") == ["resnet18", "resnet50"]
    assert registry.names() == ["resnet18", "resnet50", "efficientnet_b0"]
    assert registry.names("RESNET*") == []


def test_a_name_is_registered_once(registry):
    with pytest.raises(ConfigError, match=r"backbone 'resnet18' is registered twice\n  hint: choose another name"):
        registry.register("resnet18")("another")
    assert registry["resnet18"] == "RESNET18"


def test_an_unknown_name_suggests_the_nearest(registry):
    with pytest.raises(ConfigError, match=r"unknown backbone 'resnet19'\n  hint: did you mean resnet18 or resnet50\?"):
        registry["resnet19"]


def test_an_unknown_name_near_to_nothing_has_no_hint(registry):
    with pytest.raises(ConfigError, match=r"^unknown backbone 'zzz'$"):
        registry["zzz"]


def test_did_you_mean_takes_any_iterable():
    assert did_you_mean("chanels", (name for name in ("channels", "repeats"))) == "did you mean channels?"
