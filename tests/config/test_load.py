"""YAML and overrides to a checked config."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_suite.config.detection import DetectionConfig
from densenet_suite.config.load import config_from_values, dump_config, load_config, save_config
from densenet_suite.errors import ConfigError, Problem

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))

MINIMAL = """\
task: detection
name: first
model:
  architecture: efficientdet_d0
data:
  root: .
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def minimal(write):
    return write(MINIMAL)


def _problems(path, overrides=()):
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return caught.value.problems


def _only(problems):
    (problem,) = problems
    return problem


# what the issue promises


BAD = """\
task: detection
name: bad
model:
  architecture: efficientdet_d0
  backbone: efficientnet_b77
data:
  root: nowhere
train:
  epocs: 10
  batch: eight
"""


def test_all_problems_are_reported_together_in_under_a_second_without_torch(write):
    path = write(BAD)
    code = f"""
import sys, time
from densenet_suite.cli import main
try:
    main(["train", {str(path)!r}])
except SystemExit as stop:
    heavy = [name for name in ("torch", "lightning", "timm", "torchvision") if name in sys.modules]
    print(stop.code, heavy, time.process_time() < 1)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "2 [] True"
    lines = result.stderr.splitlines()
    root = path.parent / "nowhere"
    assert f"error: model.backbone: unknown backbone 'efficientnet_b77'  ({path}:5)" in lines
    assert f"error: train.epocs: unknown key  ({path}:9)" in lines
    assert "  hint: did you mean train.epochs?" in lines
    assert f"error: train.batch: should be a whole number of at least 1, or auto, got 'eight'  ({path}:10)" in lines
    assert f"error: data.root: there is no folder {root}  ({path}:7)" in lines
    assert sum(line.startswith("error:") for line in lines) == 4


# files


def test_a_minimal_file_is_a_whole_config(minimal, tmp_path):
    config = load_config(minimal)
    assert config == DetectionConfig(
        task="detection", name="first", model={"architecture": "efficientdet_d0"}, data={"root": str(tmp_path)}
    )


def test_an_unknown_task_is_reported_with_the_known_ones_and_all_else_that_is_wrong(write):
    path = write("task: segmentatoin\nname: a\ndata:\n  rot: .\n  crop: 4\n")
    messages = [str(problem) for problem in _problems(path)]
    assert 'task: there is no task "segmentatoin"' in messages[0]
    assert "known are detection, segmentation" in messages[0]
    assert any(message.startswith("data.rot: unknown key") for message in messages)
    assert any(message.startswith("data.crop: should be a whole number") for message in messages)


def test_a_config_without_a_task_says_that_it_needs_one(write):
    problem = _only(_problems(write("name: a\nmodel: {architecture: efficientdet_d0}\ndata: {root: .}\n")))
    assert problem.what == "task: this key is required"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_sound(path, tmp_path):
    config = load_config(path, [f"data.root={tmp_path}"])
    assert config.data.root == str(tmp_path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_header_of_a_shipped_config_is_the_command_that_runs_it(path):
    assert f"densenet-suite train configs/{path.name} data.root=" in path.read_text()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_resolved_config_loads_back_to_an_equal_one(path, tmp_path):
    config = load_config(path, [f"data.root={tmp_path}", "trainer.precision=bf16-mixed", "trainer.devices=[0, 1]"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert dump_config(load_config(tmp_path / "config.yaml")) == dump_config(config)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.floats(1e-12, 1e12),
    st.one_of(st.none(), st.integers(32, 10**6), st.tuples(st.integers(32, 4096), st.integers(32, 4096)).map(list)),
    st.dictionaries(st.sampled_from(["precision", "devices", "profiler", "strategy"]), st.text(max_size=8)),
)
def test_any_config_loads_back_to_an_equal_one(tmp_path_factory, text, lr, size, trainer):
    values = yaml.safe_load(MINIMAL)
    values["data"] |= {"size": size, "root": "/" + text, "train": {"annotations": text}}
    values |= {"train": {"optimizer": {"lr": lr}, "freeze": [text, "head.*"]}, "trainer": trainer}
    config = config_from_values(values, where="memory", check_paths=False)
    path = tmp_path_factory.mktemp("any") / "config.yaml"
    save_config(config, path)
    assert load_config(path, check_paths=False).model_dump(exclude={"data": {"root"}}) == config.model_dump(
        exclude={"data": {"root"}}
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1.0e-4", 1e-4), (".5", 0.5), ("5", 5.0), ("+1E2", 100.0), ("0.", None), ("-1", None)],
)
def test_numbers_are_those_of_yaml_1_2(minimal, text, value):
    if value is None:
        problem = _only(_problems(minimal, [f"train.optimizer.lr={text}"]))
        assert "should be greater than 0" in problem.what
    else:
        assert load_config(minimal, [f"train.optimizer.lr={text}"]).train.optimizer.lr == value


@pytest.mark.parametrize("text", ["no", "on", "12:30", "yes", "NULL_", "0x10", "1_000", "012x"])
def test_what_yaml_1_1_would_convert_stays_text(minimal, text):
    assert load_config(minimal, [f"output={text}"]).output == text


def test_octal_looking_numbers_are_decimal(minimal):
    assert load_config(minimal, ["train.epochs=012"]).train.epochs == 12


@pytest.mark.parametrize("text", [".inf", ".nan", "1e999", "-1e999"])
def test_a_number_is_finite(minimal, text):
    assert _only(_problems(minimal, [f"train.optimizer.lr={text}"])).what.startswith("train.optimizer.lr: ")


def test_a_relative_root_is_relative_to_the_file(write, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    path = write(MINIMAL.replace("root: .", "root: data"))
    monkeypatch.chdir("/")
    assert load_config(path).data.root == str(tmp_path / "data")


def test_a_relative_root_of_an_override_is_relative_to_the_working_folder(minimal, tmp_path, monkeypatch):
    (tmp_path / "here" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert load_config(minimal, ["data.root=data"]).data.root == str(tmp_path / "here" / "data")


@pytest.mark.parametrize("weights", ["imagenet", "coco"])
def test_named_weights_are_no_path(minimal, weights):
    assert load_config(minimal, [f"model.weights={weights}"]).model.weights == weights


def test_a_bom_is_no_matter(tmp_path):
    (tmp_path / "run.yaml").write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load_config(tmp_path / "run.yaml").name == "first"


def test_a_file_that_is_not_there_is_named(tmp_path):
    problem = _only(_problems(tmp_path / "nothing.yaml"))
    assert problem == Problem("there is no such config file", str(tmp_path / "nothing.yaml"), "configs/ holds some")


def test_a_folder_is_no_config(tmp_path):
    assert "cannot read the config file" in _only(_problems(tmp_path)).what


def test_a_file_of_another_encoding_is_refused(tmp_path):
    (tmp_path / "run.yaml").write_bytes("name: Straße".encode("utf-16"))
    assert "cannot read the config file" in _only(_problems(tmp_path / "run.yaml")).what


def test_a_file_of_more_than_a_megabyte_is_no_config(write):
    assert "larger than a megabyte" in _only(_problems(write("# " + "x" * 10**6))).what


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("task: detection\nmodel: [1, 2\nname: x\n", 3, "not valid YAML: "),
        ("task: detection\n\tname: x\n", 2, "not valid YAML: found character '\\t'"),
        ("a: 1\n---\nb: 2\n", 2, "not valid YAML: but found another document"),
    ],
)
def test_a_yaml_error_gives_file_and_line(write, text, line, what):
    path = write(text)
    problem = _only(_problems(path))
    assert problem.what.startswith(what)
    assert problem.where == f"{path}:{line}"


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text", "# nothing but a comment\n"])
def test_a_file_without_keys_is_refused(write, text):
    problem = _only(_problems(write(text)))
    assert problem.what == "a config file holds keys and values"
    assert problem.hint == "see configs/ for examples"


def test_a_control_character_is_refused(write):
    assert "not valid YAML" in _only(_problems(write("name: \x00"))).what


def test_a_bottomless_file_is_refused(write):
    assert "nested too deeply" in _only(_problems(write("a: " + "[" * 2_000))).what


def test_a_number_of_endless_digits_is_refused(write):
    path = write(MINIMAL + "seed: " + "9" * 5000)
    problem = _only(_problems(path))
    assert problem.where.endswith("7")


def test_aliases_are_refused(write):
    path = write(MINIMAL + "train: &a {}\naugment: *a\n")
    problem = _only(_problems(path))
    assert "YAML aliases are refused" in problem.what
    assert problem.where == f"{path}:7"
    assert problem.hint == "write the values out"


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.getcwd []", "!!python/name:os.system", "!mine 3"])
def test_a_tag_runs_nothing(write, tag):
    problem = _only(_problems(write(MINIMAL + f"seed: {tag}\n")))
    assert problem.what.endswith("is refused: a config holds plain values") or "seed: " in problem.what


def test_a_tag_on_a_value_is_refused_with_its_line(write):
    problem = _only(_problems(write(MINIMAL + "seed: !!python/name:os.system x\n")))
    assert problem.what == "tag tag:yaml.org,2002:python/name:os.system is refused: a config holds plain values"
    assert problem.where.endswith("7")


def test_a_key_that_stands_twice_is_refused_with_both_lines(write):
    path = write(MINIMAL + "seed: 1\nseed: 2\n")
    assert _only(_problems(path)) == Problem("seed: the key stands twice", f"{path}:8 and {path}:7", "keep one")


# overrides


@pytest.mark.parametrize(
    ("override", "place", "value"),
    [
        ("train.epochs=3", ("train", "epochs"), 3),
        ("train.batch=auto", ("train", "batch"), "auto"),
        ("--train.epochs=3", ("train", "epochs"), 3),
        ("train.optimizer.lr=1e-3", ("train", "optimizer", "lr"), 1e-3),
        ("data.size=[64, 96]", ("data", "size"), (64, 96)),
        ("data.size=64", ("data", "size"), 64),
        ("augment.scale=[0.1, 2]", ("augment", "scale"), (0.1, 2.0)),
        ("train.freeze=['backbone.*', head.bias]", ("train", "freeze"), ("backbone.*", "head.bias")),
        ("model.drop_path=null", ("model", "drop_path"), None),
        ("model.drop_path=~", ("model", "drop_path"), None),
        ("model.drop_path=", ("model", "drop_path"), None),
        ("model.checkpointing=true", ("model", "checkpointing"), True),
        ("model.backbone=timm/resnet18", ("model", "backbone"), "timm/resnet18"),
        ("model.backbone=efficientnet(phi=-1)", ("model", "backbone"), "efficientnet(phi=-1)"),
        ("trainer.devices=[0, 1]", ("trainer", "devices"), [0, 1]),
        ("output=a=b", ("output",), "a=b"),
        ("train.early_stop={patience: 3}", ("train", "early_stop", "patience"), 3),
    ],
)  # fmt: skip
def test_an_override_changes_its_key(minimal, override, place, value):
    found = load_config(minimal, [override])
    for part in place:
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value


def test_later_overrides_win(minimal):
    assert load_config(minimal, ["train.epochs=3", "train.epochs=4"]).train.epochs == 4


def test_an_override_wins_over_the_file(write):
    path = write(MINIMAL + "train:\n  epochs: 9\n  batch: 2\n")
    train = load_config(path, ["train.epochs=3"]).train
    assert (train.epochs, train.batch) == (3, 2)


def test_a_batch_that_is_left_to_be_chosen_comes_back_from_a_file(minimal, tmp_path):
    config = load_config(minimal, ["train.batch=auto"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("override", ["train.epochs", "=3", "epochs 3"])
def test_an_override_without_key_or_value_is_refused(minimal, override):
    assert _only(_problems(minimal, [override])) == Problem(
        f"cannot read {override!r}", "command line", "overrides have the form key.sub=value"
    )


def test_a_wrong_override_is_placed_on_the_command_line(minimal):
    problem = _only(_problems(minimal, ["train.epochs=many"]))
    assert problem.what == 'train.epochs: input should be a valid integer, got "many"'
    assert problem.where == "command line"


@pytest.mark.parametrize(
    ("override", "what", "hint"),
    [
        ("train.epocs=3", "train.epocs: unknown key", "did you mean train.epochs?"),
        ("tran.epochs=3", "tran: unknown key", "did you mean train or trainer?"),
        ("train.lr=3", "train.lr: unknown key", "did you mean train.optimizer.lr?"),
        ("epochs=3", "epochs: unknown key", "did you mean train.epochs?"),
        ("data.val.image=a", "data.val.image: unknown key", "did you mean data.val.images?"),
        ("train.early_stop.xyz=1", "train.early_stop.xyz: unknown key", "known here: patience, min_delta"),
    ],
)
def test_an_unknown_key_suggests_the_nearest(minimal, override, what, hint):
    problems = _problems(minimal, [override])
    assert Problem(what, "command line", hint) in problems


@pytest.mark.parametrize("override", ["train=5", "train.epochs.more=5", "model=efficientdet_d0"])
def test_a_section_that_is_no_section_is_refused(minimal, override):
    problems = _problems(minimal, [override])
    assert {problem.where for problem in problems} == {"command line"}


# problems


def test_missing_keys_are_all_named(write):
    problems = _problems(write("seed: 1\n"))
    assert [problem.what for problem in problems] == [
        f"{key}: this key is required" for key in ("task", "name", "model", "data")
    ]
    assert problems[2].hint == "write model: ... or pass model=..."


def test_a_missing_key_is_placed_at_its_section(write):
    path = write(MINIMAL.replace("  root: .", "  holdout: 0.1"))
    assert _only(_problems(path)) == Problem(
        "data.root: this key is required", f"{path}:5", "write data.root: ... or pass data.root=..."
    )


def test_a_missing_weight_file_is_named_with_what_can_be_given(minimal, tmp_path):
    problem = _only(_problems(minimal, [f"model.weights={tmp_path}/w.pth"]))
    assert problem.what == f"model.weights: there is no file or run folder {tmp_path}/w.pth"
    assert (problem.where, problem.hint) == ("command line", "a path, imagenet, coco, or null")


def test_missing_weights_are_reported_with_the_other_problems(minimal, tmp_path):
    problems = _problems(minimal, [f"model.weights={tmp_path}/w.pth", "train.epocs=3"])
    assert len(problems) == 2


def test_weights_may_be_a_run_folder(minimal, tmp_path):
    assert load_config(minimal, [f"model.weights={tmp_path}"]).model.weights == str(tmp_path)


def test_paths_need_not_exist_where_nothing_is_run(write, tmp_path):
    path = write(MINIMAL.replace("root: .", "root: nowhere\n") + "")
    assert load_config(path, check_paths=False).data.root == str(tmp_path / "nowhere")
    assert _only(_problems(path)).hint == "give the folder of the dataset"


def test_values_in_memory_are_checked_like_a_file(tmp_path):
    values = yaml.safe_load(MINIMAL.replace("root: .", f"root: {tmp_path}"))
    assert config_from_values(values, ["train.epochs=2"], where="model.safetensors").train.epochs == 2
    values["seed"] = -1
    with pytest.raises(ConfigError) as caught:
        config_from_values(values, where="model.safetensors")
    problem = _only(caught.value.problems)
    assert problem.what == "seed: input should be greater than or equal to 0, got -1"
    assert problem.where == "model.safetensors"


def test_values_in_memory_stay_as_they_are(tmp_path):
    values = yaml.safe_load(MINIMAL.replace("root: .", f"root: {tmp_path}"))
    before = json.dumps(values)
    config_from_values(values, ["train.epochs=2", "data.size=64"], where="memory")
    assert json.dumps(values) == before
