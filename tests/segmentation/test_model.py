"""The whole network: any dtype of pixels, tiles that agree, deep supervision, compiled and exported."""

import jaxtyping
import pytest
import torch
from peers import apart, randomize
from segmenters import Convolutions, tiny_segmenter
from torch import nn

from densenet_suite.preprocess import Preprocess
from densenet_suite.segmentation.model import SegmentationHead, Segmenter
from densenet_suite.segmentation.structures import MaskClasses
from densenet_suite.segmentation.unet import UnetDecoder
from densenet_suite.segmentation.variants import segmenter_spec

RED_AND_GREEN = MaskClasses(("red", "green"), ((255, 0, 0), (0, 255, 0)))


@pytest.fixture(scope="module")
def model():
    return randomize(tiny_segmenter()).eval()


@pytest.fixture
def _unchecked(monkeypatch):
    # the checks of shapes are Python that no graph holds
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def pixels(height=97, width=130, batch=1):
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)


def test_bytes_and_floats_of_the_same_pixels_give_the_same(model):
    images = pixels()
    with torch.no_grad():
        torch.testing.assert_close(model(images), model(images.float()))


def test_pixels_are_normalised_inside(model):
    images = pixels()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        torch.testing.assert_close(
            model(images), model.segment((images / 255 - mean.view(-1, 1, 1)) / std.view(-1, 1, 1))
        )


def test_images_of_a_batch_do_not_see_each_other(model):
    images = pixels(batch=2)
    with torch.no_grad():
        torch.testing.assert_close(model(images)[1:], model(images[1:]))


def test_the_caller_keeps_its_images(model):
    images = pixels()
    before = images.clone()
    with torch.no_grad():
        model(images)
    assert torch.equal(images, before)


def test_channels_last_gives_the_same(model):
    images = pixels()
    with torch.no_grad():
        expected = model(images)
        found = model.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    assert apart(found, expected) < 1e-5


def test_bf16_autocast_is_finite_and_near(model):
    images = pixels()
    with torch.no_grad():
        expected = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(images)
    assert apart(found.float(), expected) < 0.1


def local_segmenter():
    """Return a U-Net on a backbone without global pooling."""
    backbone, widths = Convolutions((4, 8, 16, 32)), (8, 8, 8, 8, 8)
    decoder = UnetDecoder(backbone.channels, widths)
    head = SegmentationHead(widths[:1], 2, 3)
    preprocess = Preprocess(backbone.normalization)
    spec = segmenter_spec("unet", channels=widths)
    return randomize(Segmenter(spec, backbone, decoder, head, preprocess, RED_AND_GREEN))


@pytest.mark.usefixtures("_unchecked")
def test_tiles_agree_with_the_whole_where_their_origin_is_a_multiple_of_the_stride():
    """A tile that begins elsewhere sees its pixels in other places of the grid, and gives them other logits."""
    model = local_segmenter().eval()
    scene = pixels(416, 416)
    with torch.no_grad():
        whole = model(scene)[..., 192:224, 192:224]
        assert apart(model(scene[..., 64:352, 64:352])[..., 128:160, 128:160], whole) < 1e-5
        assert apart(model(scene[..., 67:355, 64:352])[..., 125:157, 128:160], whole) > 1e-2


class Ramp(nn.Module):
    """Stands for a decoder: the number of the column, in cells of stride 4."""

    def forward(self, features, size):
        rows, columns = -(-size[0] // 4), -(-size[1] // 4)
        return [torch.arange(columns, dtype=torch.float32).expand(1, 1, rows, columns)]


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("width", [32, 37, 40])
def test_logits_of_cells_stay_where_the_cells_are(width):
    backbone = Convolutions((4, 8, 16, 32))
    head = SegmentationHead((1,), 2, 1)
    nn.init.ones_(head.finest.weight)
    spec = segmenter_spec("bifpn")
    segmenter = Segmenter(spec, backbone, Ramp(), head, Preprocess(backbone.normalization), RED_AND_GREEN)
    with torch.no_grad():
        logits = segmenter(pixels(33, width))
    inside = torch.arange(4, width - 6)
    torch.testing.assert_close(logits[0, 0, 0, inside], (inside + 0.5) / 4 - 0.5)


def test_without_deep_supervision_there_is_one_level(model):
    images = pixels()
    with torch.no_grad():
        (logits,) = model.deep_logits(images)
        torch.testing.assert_close(logits, model(images))


@pytest.mark.parametrize("size", [(64, 96), (97, 130), (20, 7)])
def test_deep_supervision_gives_logits_of_every_level(size):
    model = tiny_segmenter(deep_supervision=True).train()
    images = pixels(*size, batch=2)
    levels = model.deep_logits(images)
    assert [tuple(level.shape) for level in levels] == [
        (2, 3, -(-size[0] // s), -(-size[1] // s)) for s in (1, 2, 4, 8, 16)
    ]
    sum(level.sin().sum() for level in levels).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_deep_supervision_leaves_the_finest_logits_alone():
    model = tiny_segmenter(deep_supervision=True).eval()
    images = pixels()
    with torch.no_grad():
        torch.testing.assert_close(model.deep_logits(images)[0], model(images))


def test_origins_of_tiles_are_multiples_of_the_coarsest_stride(model):
    assert model.stride == 32


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(("training", "size"), [(False, (33, 47)), (True, (64, 96))])
def test_compiles_as_one_graph(training, size):
    model = local_segmenter().train(training)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    images = pixels(*size, batch=2)
    torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("_unchecked")
def test_exports_for_every_multiple_of_the_stride():
    model = tiny_segmenter(channels=(16, 16, 8, 8, 8)).eval()
    rows, columns = torch.export.Dim("rows", max=64), torch.export.Dim("columns", max=64)
    shapes = {"images": {0: torch.export.Dim("batch"), 2: 32 * rows, 3: 32 * columns}}
    exported = torch.export.export(model, (pixels(96, 160, 2),), dynamic_shapes=shapes).module()
    for images in (pixels(64, 64), pixels(128, 224, 3)):
        with torch.no_grad():
            torch.testing.assert_close(exported(images), model(images))
