"""The command line: exit codes, what goes to which stream, and what light verbs do not load."""

import json
from pathlib import Path

import pytest
import typer
from loaded import loaded_by

from densenet_suite import cli
from densenet_suite.errors import DataError, MissingExtraError, Problem, SuiteError


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return ended.value.code or 0


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch):
    """Return a function that makes `models list` raise an error."""

    def raises(error: Exception) -> None:
        def fail(pattern: str) -> None:
            raise error

        monkeypatch.setattr(cli, "list_models", fail)

    return raises


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SuiteError("the loss is not finite"), 1),
        (ZeroDivisionError("division by zero"), 1),
        (DataError("image file is empty", where="a.jpg"), 3),
        (MissingExtraError("reading Keras weight files", "keras"), 4),
    ],
)
def test_an_error_decides_the_exit_code(broken, error: Exception, code: int) -> None:
    broken(error)
    assert run("models", "list") == code


def test_success_is_0() -> None:
    assert run("models", "list", "efficientdet_d0") == 0


@pytest.mark.parametrize("arguments", [["nonsense"], ["train"], ["models", "list", "--nonsense"], ["predict", "run"]])
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    assert run(*arguments) == 2


def test_a_wrong_config_is_2(tmp_path: Path) -> None:
    assert run("train", tmp_path / "missing.yaml") == 2


def test_a_faulty_dataset_is_3(tiny_config: Path, tmp_path: Path) -> None:
    assert run("train", tiny_config, f"data.root={tmp_path}", f"output={tmp_path}") == 3


def test_a_run_that_fails_is_1(tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", tiny_config, f"output={tmp_path}", "trainer.devices=nonsense") == 1
    assert "log.txt" in capsys.readouterr().err
    assert "Traceback" in (tmp_path / "tiny-001" / "log.txt").read_text()


def test_every_problem_is_a_line_on_standard_error(broken, capsys: pytest.CaptureFixture[str]) -> None:
    broken(
        DataError([Problem("box is inverted", "train.json", "swap its corners"), Problem("image is empty", "b.jpg")])
    )
    run("models", "list")
    said = capsys.readouterr()
    assert said.out == ""
    expected = ["error: box is inverted  (train.json)", "  hint: swap its corners", "error: image is empty  (b.jpg)"]
    assert said.err.splitlines() == expected


def test_a_traceback_only_with_debug(broken, capsys: pytest.CaptureFixture[str]) -> None:
    broken(SuiteError("the loss is not finite"))
    run("models", "list")
    assert "Traceback" not in capsys.readouterr().err
    run("--debug", "models", "list")
    assert "Traceback" in capsys.readouterr().err


def test_an_unexpected_error_says_its_kind_and_where_to_look(broken, capsys: pytest.CaptureFixture[str]) -> None:
    broken(KeyError("boxes"))
    run("models", "list")
    said = capsys.readouterr().err
    assert "KeyError: 'boxes'" in said
    assert "--debug" in said


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(option) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    "verb", ["train", "resume", "evaluate", "predict", "export", "quickstart", "models", "config", "doctor"]
)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(verb, "--help") == 0
    assert len(capsys.readouterr().out.splitlines()) > 3


def test_these_are_all_verbs() -> None:
    command = typer.main.get_command(cli.app)
    known = {"train", "resume", "evaluate", "predict", "export", "quickstart", "models", "config", "data", "doctor"}
    assert set(command.commands) == known  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["models", "list"],
        ["config", "show", "configs/detect_coco_d0.yaml"],
        ["config", "validate", "configs/detect_coco_d0.yaml", "data.root=."],
        ["train", "missing.yaml"],
        ["evaluate", "missing-run"],
        ["predict", "missing-run", "photos"],
        ["export", "missing-run"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_light_work_does_not_load_torch(arguments: list[str]) -> None:
    _, loaded = loaded_by(arguments, ["torch", "lightning", "timm", "matplotlib"])
    assert loaded == []


def test_models_list_shows_detectors_backbones_and_timm(capsys: pytest.CaptureFixture[str]) -> None:
    run("models", "list", "--json")
    found = json.loads(capsys.readouterr().out)
    assert "efficientdet_d0" in found["detectors"]
    assert "efficientnetv2_s" in found["backbones"]
    run("models", "list", "timm/resnet1*")
    assert "timm/resnet18" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "parameters"),
    # timm's count without the classifier's head; effdet's without the biases that the batch norm behind them cancels
    [("efficientnet_b0", 5_288_548 - 1_693_160), ("efficientdet_d0", 3_880_067 - 8_154)],
)
def test_models_info_counts_parameters(name: str, parameters: int, capsys: pytest.CaptureFixture[str]) -> None:
    run("models", "info", name, "--json")
    assert json.loads(capsys.readouterr().out)["parameters"] == parameters


def test_models_info_suggests_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "info", "efficentdet_d0") == 2
    assert "did you mean efficientdet_d0" in capsys.readouterr().err


def test_config_show_prints_a_config_that_loads(tiny_config: Path, tmp_path: Path, capsys) -> None:
    from densenet_suite.config.load import load_config

    run("config", "show", tiny_config, "train.epochs=7")
    shown = tmp_path / "shown.yaml"
    shown.write_text(capsys.readouterr().out)
    assert load_config(shown) == load_config(tiny_config, ["train.epochs=7"])


def test_config_validate_says_that_all_is_well(tiny_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "validate", tiny_config) == 0
    assert "no problem found" in capsys.readouterr().out


def test_doctor_tells_versions_devices_and_extras(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["torch"]
    assert "cpu" in found["devices"]
    assert set(found["extras"]) == {"fast-eval", "geo", "tensorboard", "keras", "onnx", "ray"}
