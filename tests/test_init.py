"""The public surface: what `import densenet_suite` promises and what it costs."""

import subprocess
import sys
from importlib import import_module

import pytest

import densenet_suite


def test_all_is_what_has_a_home():
    assert sorted(densenet_suite.__all__) == sorted([*densenet_suite._HOME, "__version__"])
    assert dir(densenet_suite) == sorted(densenet_suite.__all__)


@pytest.mark.parametrize("name", sorted(densenet_suite._HOME))
def test_every_public_name_is_that_of_its_home(name):
    home = import_module(f"densenet_suite.{densenet_suite._HOME[name]}")
    assert getattr(densenet_suite, name) is vars(home)[name]


@pytest.mark.parametrize("name", sorted(densenet_suite._HOME))
def test_every_public_name_is_documented(name):
    assert getattr(densenet_suite, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'densenet_suite' has no attribute 'trian'"):
        densenet_suite.trian  # noqa: B018


def test_importing_the_package_loads_nothing_heavy():
    heavy = ("torch", "lightning", "timm", "numpy", "pydantic", "PIL", "matplotlib")
    code = f"import densenet_suite, sys; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
