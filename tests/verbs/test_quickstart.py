from pathlib import Path

import pytest
from PIL import Image

from densenet_suite import cli
from densenet_suite.verbs import quickstart


def test_quickstart_trains_scores_draws_and_says_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quickstart, "_IMAGES", {"train": 16, "val": 6, "test": 3})
    for config in quickstart._CONFIGS.values():
        monkeypatch.setitem(config, "train", {**config["train"], "epochs": 2})
    with pytest.raises(SystemExit) as ended:
        cli.main(["quickstart", "--out", str(tmp_path / "quickstart")])
    assert not ended.value.code
    said = capsys.readouterr().out
    for name, drawings in (("quickstart-detect-001", "."), ("quickstart-segment-001", "overlays")):
        run = tmp_path / "quickstart" / "runs" / name
        assert (run / "report.html").is_file()
        assert (run / "weights" / "best.safetensors").is_file()
        drawn = sorted((run / "predictions" / drawings).glob("*.jpg"))
        assert len(drawn) == 3
        with Image.open(drawn[0]) as picture:
            assert max(picture.size) >= 480
    after = said.split("next:\n")[1].splitlines()
    assert [line.split()[:2] for line in after] == [
        ["densenet-suite", "predict"],
        ["densenet-suite", "predict"],
        ["densenet-suite", "train"],
    ]


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_the_config_that_is_left_trains_the_same_again(tmp_path: Path, task: str) -> None:
    from densenet_suite.config.load import config_from_values, dump_config, load_config

    (tmp_path / "data").mkdir()
    values = {
        **quickstart._CONFIGS[task],
        "data": {**quickstart._CONFIGS[task]["data"], "root": str(tmp_path / "data")},
    }
    config = config_from_values(values, where="quickstart")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config
