"""Exported files answer as their networks do, in onnxruntime and as programs of torch."""

import io
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from peers import apart, randomize
from segmenters import TINY_BACKBONE, tiny_segmenter
from torch import Tensor

from densenet_suite import EfficientDet, Postprocess, Segmenter, SuiteError, create_detector, create_segmenter
from densenet_suite.detection.anchors import anchor_boxes
from densenet_suite.detection.variants import detector_spec
from densenet_suite.errors import ConfigError
from densenet_suite.exporting import build
from densenet_suite.exporting.build import ExportFormat, ExportPlan, export_inputs, export_network
from densenet_suite.exporting.networks import ExportedDetector
from densenet_suite.exporting.onnx_file import OnnxNetwork
from densenet_suite.exporting.program_file import CARD, ProgramNetwork

SIZE = (96, 160)


def tiny_detector(name: str = "efficientdet_d0", backbone: str = TINY_BACKBONE, *, max_level: int = 5) -> EfficientDet:
    """Return a detector with one cell and one repeat, which has every kind of layer."""
    spec = detector_spec(name).with_numbers(channels=16, cells=1, repeats=1, max_level=max_level)
    return randomize(create_detector(spec, num_classes=3, backbone=backbone)).eval()  # type: ignore[return-value]


def a_segmenter(*arguments: Any, **options: Any) -> Segmenter:
    return randomize(tiny_segmenter(*arguments, **options)).eval()  # type: ignore[return-value]


def exported(
    model: EfficientDet | Segmenter,
    kind: ExportFormat = "onnx",
    size: tuple[int, int] = SIZE,
    *,
    dynamic: bool = False,
    batch: int | None = 1,
    pixels: Any = None,
    postprocess: Postprocess | None = None,
) -> bytes:
    inputs = export_inputs(model, size, dynamic=dynamic, batch=batch, pixels=pixels)
    return export_network(model, ExportPlan(kind, inputs, postprocess), "1.2.3", {"input_size": [96, 160]})


def pictures(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@torch.no_grad()
def assert_answers(found: dict[str, Tensor], model: EfficientDet | Segmenter, images: Tensor) -> None:
    if isinstance(model, Segmenter):
        logits = model(images)
        expected = {"probabilities": logits.sigmoid() if model.classes.multilabel else logits.softmax(1)}
    else:
        raw = model(images)
        expected = {"boxes": raw.boxes(), "scores": raw.class_logits.sigmoid()}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert apart(values, found[name]) < 2e-4


@pytest.mark.parametrize(
    ("name", "family"), [("tf_efficientdet_d0", "tf_efficientnet"), ("tf_efficientdet_lite0", "tf_efficientnet_lite")]
)
def test_onnx_detectors_with_same_padding(name: str, family: str) -> None:
    model, images = tiny_detector(name, f"{family}(width=0.25, depth=0.25)"), pictures(1, 3, 75, 131)
    assert_answers(OnnxNetwork(exported(model, size=(75, 131)))(images), model, images)


def test_an_onnx_segmenter_with_a_decoder_of_smp() -> None:
    model, images = a_segmenter("deeplabv3plus"), pictures(1, 3, *SIZE)
    assert_answers(OnnxNetwork(exported(model))(images), model, images)


def test_onnx_d0_has_fewer_nodes_than_effdets() -> None:
    model, images = randomize(create_detector("efficientdet_d0", num_classes=3)).eval(), pictures(1, 3, 128, 128)
    content = exported(model, size=(128, 128))
    assert_answers(OnnxNetwork(content)(images), model, images)
    assert len(onnx.load_from_string(content).graph.node) <= 627  # effdet's, with decoded boxes and scores, has 815


def test_onnx_unet_b0_has_few_nodes() -> None:
    model, images = randomize(create_segmenter("unet", num_classes=4)).eval(), pictures(1, 3, 64, 64)
    content = exported(model, size=(64, 64))
    assert_answers(OnnxNetwork(content)(images), model, images)
    nodes = onnx.load_from_string(content).graph.node
    assert len(nodes) <= 285  # smp's, which gives logits, has 266
    assert not [node.name for node in nodes if node.op_type in ("BatchNormalization", "ConvTranspose", "Softmax")]


def test_an_odd_size_may_be_fixed() -> None:
    model, images = a_segmenter(), pictures(2, 3, 75, 131)
    assert_answers(OnnxNetwork(exported(model, size=(75, 131), batch=2))(images), model, images)


def assert_open(network: OnnxNetwork | ProgramNetwork, model: EfficientDet | Segmenter) -> None:
    for shape in ((1, 3, 64, 96), (3, 3, 160, 64), (2, 3, 256, 320)):
        images = pictures(*shape)
        assert_answers(network(images), model, images)


def test_sizes_and_numbers_of_a_program_may_be_open() -> None:
    model = a_segmenter()
    assert_open(ProgramNetwork(exported(model, "torch", dynamic=True, batch=None), ["probabilities"]), model)


def test_sizes_and_numbers_of_an_onnx_segmenter_may_be_open() -> None:
    model = a_segmenter()
    assert_open(OnnxNetwork(exported(model, dynamic=True, batch=None)), model)


def test_a_program_of_torch_holds_its_card() -> None:
    model, images = tiny_detector(), pictures(1, 3, *SIZE)
    content, files = exported(model, "torch"), {CARD: ""}
    assert str(Path(build.__file__).parents[1]).encode() not in content  # torch notes where our code stands
    program = torch.export.load(io.BytesIO(content), extra_files=files)
    assert not [name for name in program.state_dict if "packed" in name]
    assert_answers(dict(zip(("boxes", "scores"), program.module()(images), strict=True)), model, images)
    card = json.loads(files[CARD])
    assert card["names"] == ["class 1", "class 2", "class 3"]
    assert card["outputs"] == {"boxes": ["batch", "anchors", "xyxy"], "scores": ["batch", "anchors", "classes"]}


def test_sizes_and_numbers_of_an_onnx_detector_may_be_open_and_the_file_says_so() -> None:
    model = tiny_detector()
    content = exported(model, dynamic=True, batch=None)
    assert_open(OnnxNetwork(content), model)
    file = onnx.load_from_string(content)
    onnx.checker.check_model(file)
    said = {entry.key: entry.value for entry in file.metadata_props}
    assert (said["task"], said["version"], file.producer_version) == ("detection", "1.2.3", "1.2.3")
    told = {key: json.loads(value) for key, value in said.items() if key not in ("task", "version", "producer")}
    normalization = told.pop("normalization")
    assert normalization["mean"] == list(model.preprocess.normalization.mean)
    assert told == {
        "images": {"shape": ["batch", 3, "height", "width"], "pixels": "uint8", "largest": 255.0, "multiple": 32},
        "fill": list(model.preprocess.normalization.fill),
        "names": ["class 1", "class 2", "class 3"],
        "class_ids": [1, 2, 3],
        "strides": [8, 16, 32],
        "input_size": [96, 160],
        "outputs": {"boxes": ["batch", "anchors", "xyxy"], "scores": ["batch", "anchors", "classes"]},
    }
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*file.graph.input, *file.graph.output)
    }
    assert shapes == {
        "images": ["batch", 3, "height", "width"],
        "boxes": ["batch", "anchors", 4],
        "scores": ["batch", "anchors", 3],
    }


def test_a_segmenter_of_overlapping_classes_and_what_its_file_says_and_does_not() -> None:
    model = a_segmenter(classes=2, multilabel=True, in_channels=4)
    content = exported(model, pixels="float32")
    images = torch.rand(1, 4, *SIZE) * 255
    assert_answers(OnnxNetwork(content)(images), model, images)
    said = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    assert json.loads(said["multilabel"]) is True
    assert json.loads(said["images"]) == {"shape": [1, 4, 96, 160], "pixels": "float32", "largest": 255.0}
    assert str(Path(build.__file__).parents[1]).encode() not in content  # the exporter notes where our code stands
    assert b"site-packages" not in content


def test_detections_are_chosen_inside() -> None:
    model = tiny_detector()
    with torch.no_grad():
        model.class_head.predict.pointwise.bias.normal_(0.0, 0.5)
    postprocess = Postprocess(score_threshold=0.5, max_detections=20)
    network = OnnxNetwork(exported(model, batch=3, postprocess=postprocess))
    images = pictures(3, 3, *SIZE)
    found = network(images)
    assert list(found) == ["boxes", "scores", "labels", "counts"]
    with torch.no_grad():
        expected = postprocess(model(images), torch.tensor([SIZE] * 3).float())
    for i, detections in enumerate(expected):
        count = int(found["counts"][i])
        assert count == len(detections.scores) > 0
        torch.testing.assert_close(found["boxes"][i, :count], detections.boxes, rtol=0, atol=1e-3)
        torch.testing.assert_close(found["scores"][i, :count], detections.scores, rtol=0, atol=1e-5)
        assert torch.equal(found["labels"][i, :count], detections.labels)


def test_more_detections_than_boxes_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_detections is 500, and they are chosen from 189 boxes"):
        exported(tiny_detector(), size=(32, 32), postprocess=Postprocess(max_detections=500))


@pytest.mark.parametrize("size", [(64, 96), (70, 333), (256, 129)])
def test_anchors_of_open_sizes_are_those_of_fixed_ones(size: tuple[int, int]) -> None:
    model = tiny_detector(max_level=7)
    images = pictures(1, 3, *size)
    with torch.no_grad():
        fixed, free = (ExportedDetector(model, given)(images)[0] for given in (size, None))
        raw = model(images)
    assert torch.equal(fixed, raw.boxes())
    torch.testing.assert_close(free, fixed, rtol=1e-6, atol=1e-4)
    spec = model.spec
    kept = ExportedDetector(model, size).anchors
    cells = [(-(-size[0] // 2**level), -(-size[1] // 2**level)) for level in range(3, 8)]
    assert torch.equal(kept, anchor_boxes(size, cells, spec.anchor_scale, spec.aspects))


def test_a_program_that_answers_differently_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrongly_fused(model: Any) -> Any:
        wrong = fuse(model)
        wrong.head.finest.bias += 1.0 * torch.arange(3.0)
        return wrong

    fuse = build.fuse
    monkeypatch.setattr(build, "fuse", wrongly_fused)
    with pytest.raises(SuiteError, match=r"probabilities of 1 images of 96x160 are .* of their largest value apart"):
        exported(a_segmenter(), "torch")


def test_what_torch_cannot_follow_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unfollowable(torch.nn.Module):
        outputs = ("probabilities",)

        def forward(self, images: Tensor) -> Tensor:
            return images * len([0] * int(images.sum()))

    monkeypatch.setattr(build, "_network", lambda fused, plan: Unfollowable())
    with pytest.raises(SuiteError, match="torch cannot export this network: ") as raised:
        exported(tiny_segmenter().eval(), dynamic=True)
    assert raised.value.problems[0].hint == "give a size and a number of images, in place of dynamic ones"
