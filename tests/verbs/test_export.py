from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from loaded import loaded_by
from peers import randomize
from segmenters import TINY_BACKBONE, tiny_segmenter

from densenet_suite import ConfigError, MissingExtraError, SuiteError, cli, create_detector, export, load
from densenet_suite.detection.build import save_detector
from densenet_suite.detection.variants import detector_spec
from densenet_suite.exporting import build
from densenet_suite.segmentation.build import save_segmenter


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return ended.value.code or 0


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a detector."""
    spec = detector_spec("efficientdet_d0").with_numbers(channels=16, cells=1, repeats=1, max_level=5)
    model = randomize(create_detector(spec, classes=["cat", "dog"], backbone=TINY_BACKBONE)).eval()
    place = tmp_path_factory.mktemp("detector")
    (place / "weights").mkdir()
    save_detector(place / "weights" / "best.safetensors", model, (64, 96))  # type: ignore[arg-type]
    return place


@pytest.fixture
def segmenter(tmp_path: Path) -> Path:
    """Return the model file of a segmenter."""
    path = tmp_path / "masks.safetensors"
    save_segmenter(path, randomize(tiny_segmenter()).eval(), (64, 96))  # type: ignore[arg-type]
    return path


def test_a_run_becomes_an_onnx_file_beside_its_model(detectors: Path) -> None:
    path = export(detectors, size=(96, 64), batch=2)
    assert path == detectors / "weights" / "best.onnx"
    images = torch.randint(0, 256, (2, 3, 96, 64), dtype=torch.uint8)
    boxes, scores = onnxruntime.InferenceSession(path).run(["boxes", "scores"], {"images": images.numpy()})
    with torch.no_grad():
        raw = load(detectors)(images)
    np.testing.assert_allclose(boxes, raw.boxes(), atol=1e-2)
    np.testing.assert_allclose(scores, raw.class_logits.sigmoid(), atol=1e-4)


def test_a_model_file_becomes_a_program_of_the_training_size(segmenter: Path, tmp_path: Path) -> None:
    path = export(segmenter, "torch", out=tmp_path / "new" / "masks.pt2")
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        (probabilities,) = torch.export.load(path).module()(images)
        torch.testing.assert_close(probabilities, load(segmenter)(images).softmax(1), rtol=0, atol=1e-4)


def test_the_command_writes_detections(detectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.onnx"
    options = ["--size", 64, 64, "--pixels", "float32", "--nms", "--score-threshold", 0.1, "--max-detections", 7]
    assert run("export", detectors, "onnx", "--out", out, *options) == 0
    assert capsys.readouterr().out.startswith(f"{out}  0.")
    session = onnxruntime.InferenceSession(out)
    found = session.run(None, {"images": np.random.default_rng(0).random((1, 3, 64, 64), np.float32) * 255})
    assert [values.shape for values in found] == [(1, 7, 4), (1, 7), (1, 7), (1,)]
    assert '"score_threshold": 0.1' in session.get_modelmeta().custom_metadata_map["postprocess"]


def test_a_file_that_would_answer_differently_is_not_written(segmenter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrongly_fused(model: torch.nn.Module) -> torch.nn.Module:
        wrong = fuse(model)
        wrong.head.finest.bias += torch.arange(3.0)
        return wrong

    fuse = build.fuse
    kept = segmenter.with_suffix(".onnx")
    kept.write_bytes(b"an older one")
    monkeypatch.setattr(build, "fuse", wrongly_fused)
    with pytest.raises(SuiteError, match="answers differently: probabilities"):
        export(segmenter)
    assert kept.read_bytes() == b"an older one"
    assert sorted(path.name for path in segmenter.parent.iterdir()) == ["masks.onnx", "masks.safetensors"]


def test_a_missing_extra_is_said_with_the_line_that_installs_it(detectors: Path, monkeypatch) -> None:
    from densenet_suite.verbs import export as verb

    monkeypatch.setattr(verb, "is_installed", lambda package: package != "onnxscript")
    with pytest.raises(MissingExtraError, match="exporting to ONNX needs a package that is not installed") as raised:
        export(detectors)
    assert raised.value.problems[0].hint == 'pip install "densenet-suite[onnx]"'


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onxx"}, "unknown format 'onxx'\n  hint: did you mean onnx?"),
        ({"size": (0, 64)}, "size is 0 64, it is a height and a width of at least one pixel\n  hint: such as 64 96"),
        ({"size": (64,)}, "size is 64, it is a height and a width"),
        ({"size": (64, 64), "dynamic": True}, "size and dynamic exclude each other"),
        ({"batch": 0}, "batch is 0, it is a number of images from 1 on, or dynamic"),
        ({"batch": "many"}, "batch is many, it is a number of images"),
        ({"pixels": "float16"}, "unknown type of pixels 'float16'\n  hint: uint8 or float32"),
        ({"out": "model.pt"}, "out is model.pt, and the file's name ends in .onnx\n  hint: such as model.onnx"),
        ({"format": "torch", "nms": True}, "nms is a part of ONNX files, and format is torch"),
        ({"score_threshold": 0.5}, "score_threshold means nothing without nms"),
        ({"max_detections": 5}, "max_detections means nothing without nms"),
        ({"nms": True, "score_threshold": 30}, "score_threshold is 30, a score is between 0 and 1"),
        ({"nms": True, "max_detections": 0}, "max_detections is 0, it is at least 1"),
    ],
)
def test_a_wrong_argument_is_refused(detectors: Path, options: dict, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        export(detectors, **options)
    assert message in str(raised.value)


def test_nms_means_nothing_to_a_segmenter(segmenter: Path) -> None:
    with pytest.raises(ConfigError, match="nms means nothing to a model of segmentation"):
        export(segmenter, nms=True)


def test_a_missing_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such run folder or model file"):
        export(tmp_path / "missing")


def test_a_wrong_argument_is_said_before_torch_is_loaded(detectors: Path) -> None:
    command = ["export", str(detectors), "onnx", "--batch", "0"]
    assert loaded_by(command, ["torch", "onnx", "onnxruntime"]) == (2, [])
