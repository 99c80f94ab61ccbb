import pytest

from densenet_suite.errors import ConfigError, DataError, MissingExtraError, Problem, SuiteError


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("size is 3"), "size is 3"),
        (Problem("size is 3", "a.yaml:4"), "size is 3  (a.yaml:4)"),
        (Problem("size is 3", hint="take 32"), "size is 3\n  hint: take 32"),
        (Problem("size is 3", "a.yaml:4", "take 32"), "size is 3  (a.yaml:4)\n  hint: take 32"),
    ],
)
def test_a_problem_reads_as_what_where_and_hint(problem, text):
    assert str(problem) == text


@pytest.mark.parametrize(
    ("error", "code", "builtin"),
    [
        (SuiteError("the run failed"), 1, Exception),
        (ConfigError("no such key"), 2, ValueError),
        (DataError("no such file"), 3, ValueError),
        (MissingExtraError("TensorBoard", "tensorboard"), 4, ImportError),
    ],
)
def test_an_error_has_an_exit_code_and_a_builtin_base(error, code, builtin):
    assert error.exit_code == code
    assert isinstance(error, builtin)
    assert isinstance(error, SuiteError)


def test_an_error_of_one_line_has_one_problem():
    error = ConfigError("no such key", where="a.yaml:1", hint="remove it")
    assert error.problems == (Problem("no such key", "a.yaml:1", "remove it"),)
    assert str(error) == "no such key  (a.yaml:1)\n  hint: remove it"


def test_an_error_shows_all_its_problems():
    error = DataError([Problem("one"), Problem("two", "b.json")])
    assert str(error) == "one\ntwo  (b.json)"


def test_a_missing_extra_says_how_to_install_it():
    error = MissingExtraError("hotcoco's metric", "fast-eval")
    assert str(error).startswith("hotcoco's metric needs a package that is not installed")
    assert 'pip install "densenet-suite[fast-eval]"' in str(error)
