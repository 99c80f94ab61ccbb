"""The whole network: any size, any dtype of pixels, compiled and exported."""

import jaxtyping
import pytest
import torch
from peers import randomize
from scenes import TINY, tiny_detector

from densenet_suite import ConfigError, EfficientDet
from densenet_suite.backbones.base import Backbone, Level
from densenet_suite.detection.structures import ClassTable
from densenet_suite.preprocess import Normalization, Preprocess


@pytest.fixture(scope="module")
def model():
    return randomize(tiny_detector(3)).eval()


@pytest.fixture
def _unchecked(monkeypatch):
    # the checks of shapes are Python that no graph holds
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def pixels(height=97, width=131, batch=1):
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)


def test_bytes_and_floats_of_the_same_pixels_give_the_same(model):
    images = pixels()
    with torch.no_grad():
        torch.testing.assert_close(model(images), model(images.float()))


def test_pixels_are_normalised_inside(model):
    images = pixels()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalized = (images / 255 - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(model(images), model.detect(normalized))


def test_images_of_a_batch_do_not_see_each_other(model):
    images = pixels(batch=2)
    with torch.no_grad():
        torch.testing.assert_close(model(images).class_logits[1:], model(images[1:]).class_logits)


def test_the_caller_keeps_its_images(model):
    images = pixels()
    before = images.clone()
    with torch.no_grad():
        model(images)
    assert torch.equal(images, before)


def test_a_new_detector_gives_every_class_one_percent():
    with torch.no_grad():
        scores = tiny_detector(3).eval()(pixels()).class_logits.sigmoid()
    assert float(scores.mean()) == pytest.approx(0.01, abs=0.002)


def test_every_parameter_learns(model):
    network = tiny_detector(3).train()
    raw = network(pixels(64, 96, batch=4))
    (raw.class_logits.sin().sum() + raw.box_deltas.sin().sum()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_half_precision_leaves_anchors_and_boxes_in_float32(model):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        raw = model(pixels())
    assert raw.class_logits.dtype == torch.bfloat16
    assert (raw.anchors.dtype, raw.boxes().dtype) == (torch.float32, torch.float32)


def test_channels_last_gives_the_same(model):
    images = pixels()
    with torch.no_grad():
        expected = model(images)
        model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


class Plain(Backbone):
    """A backbone without a pyramid."""

    def __init__(self):
        super().__init__((Level(16, 4, None, None),), 3, Normalization.imagenet())

    def forward(self, images):
        return [images.new_zeros(len(images), 4, -(-images.shape[2] // 16), -(-images.shape[3] // 16))]


def test_a_backbone_without_the_strides_is_refused():
    message = r"reads strides \(8, 16, 32\), the backbone gives \(16,\)(.|\n)*choose a backbone with a pyramid"
    with pytest.raises(ConfigError, match=message):
        EfficientDet(TINY, Plain(), Preprocess(Normalization.imagenet()), ClassTable.numbered(["a"]))


@pytest.mark.parametrize(("low", "high", "strides"), [(2, 5, (4, 8, 16, 32)), (3, 8, (8, 16, 32)), (4, 7, (16, 32))])
def test_other_levels_can_be_chosen(low, high, strides):
    network = tiny_detector(2, TINY.with_numbers(min_level=low, max_level=high)).eval()
    with torch.no_grad():
        raw = network(pixels(128, 128))
    cells = sum((-(-128 // 2**level)) ** 2 for level in range(low, high + 1))
    assert network.strides == strides
    assert raw.class_logits.shape == (1, 9 * cells, 2)


@pytest.mark.usefixtures("_unchecked")
def test_the_forward_pass_is_one_graph():
    network = randomize(tiny_detector(3)).eval()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    images = pixels()
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), network(images))


@pytest.mark.usefixtures("_unchecked")
def test_an_export_takes_images_of_any_height_and_width():
    network = randomize(tiny_detector(3)).eval()
    # from the size on where the coarsest map has two cells: PyTorch takes a side of 1 for a constant
    shapes = {2: torch.export.Dim("height", min=33, max=4096), 3: torch.export.Dim("width", min=33, max=4096)}
    exported = torch.export.export(network, (pixels(96, 160),), dynamic_shapes=(shapes,)).module()
    for size in ((97, 131), (64, 64), (333, 200)):
        images = pixels(*size)
        with torch.no_grad():
            torch.testing.assert_close(exported(images), network(images))
