import inspect
import sys

import lightning as L
import pytest
import timm

from densenet_suite import installed
from densenet_suite.installed import is_installed, timm_names, trainer_arguments


@pytest.fixture
def fresh():
    """Forget what was read, before the test and after."""
    for function in (timm_names, trainer_arguments):
        function.cache_clear()
    yield
    for function in (timm_names, trainer_arguments):
        function.cache_clear()


def test_timm_names_are_those_that_timm_lists():
    assert timm_names() == set(timm.list_models())


def test_trainer_arguments_are_those_of_lightnings_trainer():
    assert trainer_arguments() == set(inspect.signature(L.Trainer).parameters)


@pytest.mark.usefixtures("fresh")
def test_without_timm_and_lightning_there_are_no_names(monkeypatch):
    monkeypatch.setattr(installed, "find_spec", lambda package: None)
    assert timm_names() == trainer_arguments() == frozenset()


@pytest.mark.parametrize(("package", "there"), [("torch", True), ("no_such_package_anywhere", False)])
def test_is_installed(package, there):
    assert is_installed(package) is there


def test_is_installed_imports_nothing():
    assert "this" not in sys.modules
    assert is_installed("this")
    assert "this" not in sys.modules
