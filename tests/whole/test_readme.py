"""Every command and every line of Python in the README runs as it stands, on small data and with a short schedule."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import REPOSITORY
from PIL import Image

from densenet_suite import synthetic
from densenet_suite.cli import main

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
# appended to what trains, so that it takes seconds and knows the classes that are there
SHORT = ["train.epochs=1", "train.batch=4", "train.recalibrate=8"]
OF_TASK = {
    "detect": ["data.size=64"],
    "segment": [
        "data.crop=64",
        "data.crops_per_image=1",
        "data.classes={background: 0, disc: 1, square: 2, triangle: 3, star: 4}",
    ],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(program)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as the README supposes it: the configs, my-data/ and photos/."""
    root = tmp_path_factory.mktemp("readme")
    (root / "configs").symlink_to(REPOSITORY / "configs")
    data = synthetic.write_synthetic(root / "my-data", {"train": 8, "val": 3}, size=(64, 96))
    boxes = synthetic.write_synthetic(root / "boxes", {"train": 10}, size=(64, 96))  # what `data` is told of
    shutil.rmtree(boxes / "masks")
    (root / "photos").mkdir()
    Image.open(data / "images" / "val" / "val_0000.jpg").save(root / "photos" / "one.png")
    return root


def run(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code in (0, None)


def test_every_command_of_the_readme_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    given = commands("densenet-suite")
    verbs = {command[1] for command in given}
    assert verbs == {"train", "evaluate", "predict", "export", "data", "config", "models", "doctor"}
    for command in given:
        if command[1] == "data":
            command = ["boxes" if part == "my-data" else part for part in command]
        short = [*SHORT, *OF_TASK[Path(command[2]).stem.partition("_")[0]]] if command[1] == "train" else []
        run(command[1:] + short)
    assert (folder / "found" / "predictions.csv").is_file()
    assert (folder / "out" / "Annotations").is_dir()
    assert list((folder / "sheets").glob("*.png"))
    assert (folder / "segmented" / "masks" / "one.png").is_file()


def test_the_python_of_the_readme_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    (block,) = blocks("python")
    short = ", ".join(f'"{override}"' for override in [*SHORT, *OF_TASK["detect"]])
    shortened = block.replace('"train.epochs=50"', short)
    assert shortened != block
    exec(compile(shortened, "README.md", "exec"), {})
    assert "torch.Size([2, " in capsys.readouterr().out


def test_every_make_target_of_the_readme_exists() -> None:
    targets = [command[1] for command in commands("make")]
    assert targets == ["quickstart", "test"]
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=REPOSITORY, check=True, capture_output=True)


def test_the_run_folder_is_as_the_readme_draws_it(trained_run) -> None:
    drawing = re.search(r"^runs/mine-001/\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert drawing is not None
    names = [name for line in drawing[1].splitlines() for name in re.findall(r"^  (.{27})", line)[0].split()]
    assert len(names) > 10
    for name in names:
        assert (trained_run.dir / name).exists(), name


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(path: str) -> None:
    assert (REPOSITORY / path).exists()


def test_configs_that_are_named_anywhere_exist() -> None:
    texts = [
        path
        for kind in ("*.md", "tools/**/*.py", "tools/*.md", "docs/*.md", "configs/*.yaml")
        for path in REPOSITORY.glob(kind)
    ]
    named = {name for path in texts for name in re.findall(r"\bconfigs/\w+\.yaml", path.read_text(encoding="utf-8"))}
    assert "configs/detect_coco_d0.yaml" in named
    assert [name for name in sorted(named) if not (REPOSITORY / name).is_file()] == []
