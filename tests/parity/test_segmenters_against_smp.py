"""State dicts of segmentation_models_pytorch give its numbers here, in evaluation and in training."""

import jaxtyping
import pytest
import segmentation_models_pytorch as smp
import torch
from peers import apart, randomize
from torch.nn import functional as F

from densenet_suite import create_segmenter

ENCODERS = {
    "efficientnet-b0": "efficientnet_b0",
    "tu-efficientnet_b0": "efficientnet_b0",
    "tu-tf_efficientnet_b0": "tf_efficientnet_b0",
    "tu-resnet18": "timm/resnet18",
    "resnet18": "timm/resnet18",
}


@pytest.fixture(autouse=True)
def _shapes_are_checked_elsewhere(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def peer(encoder, bands=3, architecture="Unet", **options):
    """Return smp's network in eval mode with random but live weights, and without stochastic depth."""
    model = randomize(
        getattr(smp, architecture)(encoder, encoder_weights=None, in_channels=bands, classes=4, **options)
    )
    if encoder == "efficientnet-b0":
        model.encoder._drop_connect_rate = 0.0
    return model.eval()


def ours(tensors, folder, backbone, bands=3, decoder="unet", **options):
    torch.save(tensors, folder / "smp.pth")
    given = {"backbone": backbone, "in_channels": bands, "weights": folder / "smp.pth", "drop_path": 0.0, **options}
    if given["backbone"].startswith("timm/"):
        del given["drop_path"]
    return create_segmenter(decoder, 4, **given).eval()


@pytest.mark.parametrize(
    ("encoder", "bands"), [*((encoder, 3) for encoder in ENCODERS), ("efficientnet-b0", 7), ("tu-efficientnet_b0", 7)]
)
def test_logits_are_smps(encoder, bands, tmp_path):
    theirs = peer(encoder, bands)
    own = ours(theirs.state_dict(), tmp_path, ENCODERS[encoder], bands).double()
    theirs.double()  # the same function, whatever order this machine adds up in
    odd = [] if encoder == "efficientnet-b0" else [(33, 47), (97, 130)]
    for size in [(64, 96), *odd]:
        images = torch.randn(1, bands, *size, dtype=torch.float64)
        with torch.no_grad():
            expected = theirs(images)
            assert expected.std() > 0.1  # the weights are alive
            assert apart(own.segment(images), expected) < 1e-12


def test_the_own_encoders_of_smp_pad_odd_maps_as_if_they_were_even(tmp_path):
    """Their padding is made for 224 pixels, so a map of 33 becomes 16 cells; ours has 17, as TensorFlow's."""
    theirs = peer("efficientnet-b0")
    images = torch.randn(1, 3, 33, 33)
    own = ours(theirs.state_dict(), tmp_path, "efficientnet_b0")
    with torch.no_grad():
        assert [features.shape[-1] for features in own.backbone(images)] == [17, 9, 5, 3, 2]
        assert [features.shape[-1] for features in theirs.encoder(images)[1:]] == [16, 8, 4, 2, 1]


def test_gates_are_smps(tmp_path):
    theirs = peer("tu-resnet18", decoder_attention_type="scse")
    own = ours(theirs.state_dict(), tmp_path, "timm/resnet18", attention="scse")
    for size in ((64, 96), (33, 47)):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            assert apart(own.segment(images), theirs(images)) < 1e-5


@pytest.mark.parametrize("decoder", ["UnetPlusPlus", "MAnet", "Linknet"])
def test_other_decoders_with_full_resolution_are_smps(decoder, tmp_path):
    theirs = peer("tu-resnet10t", architecture=decoder)
    own = ours(theirs.state_dict(), tmp_path, "timm/resnet10t", decoder=decoder.lower())
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        assert apart(own.segment(images), theirs(images)) < 1e-5


@pytest.mark.parametrize(
    ("encoder", "bands", "size", "options"),
    [
        ("efficientnet-b0", 3, (64, 64), {}),
        ("tu-efficientnet_b0", 7, (64, 64), {}),
        ("tu-resnet18", 3, (65, 94), {}),
        ("tu-resnet18", 3, (64, 64), {"attention": "scse"}),
    ],
)
def test_outputs_gradients_and_statistics_of_a_training_step_are_smps(encoder, bands, size, options, tmp_path):
    theirs = peer(encoder, bands, decoder_attention_type=options.get("attention")).double().train()
    own = ours(theirs.state_dict(), tmp_path, ENCODERS[encoder], bands, **options).double().train()
    images = torch.randn(3, bands, *size, dtype=torch.float64)
    masks = torch.randint(0, 4, (3, *size))
    inputs = [images.clone().requires_grad_() for _ in range(2)]
    logits, expected = own.segment(inputs[0]), theirs(inputs[1])
    assert apart(logits.detach(), expected.detach()) < 1e-10
    for output in (logits, expected):
        F.cross_entropy(output, masks).backward()
    assert apart(inputs[0].grad, inputs[1].grad) < 1e-8
    # their gradients and statistics come back through the map of names that their weights took
    gradients = {name: value.grad for name, value in theirs.named_parameters() if value.grad is not None}
    moved = ours({**theirs.state_dict(), **gradients}, tmp_path, ENCODERS[encoder], bands, **options).double()
    for (name, value), there in zip(own.named_parameters(), moved.parameters(), strict=True):
        torch.testing.assert_close(value.grad, there.detach(), rtol=1e-6, atol=1e-9, msg=name)
    if encoder != "efficientnet-b0":  # its momentum is TensorFlow's, and not a part of its weights
        for (name, value), there in zip(own.named_buffers(), moved.buffers(), strict=True):
            torch.testing.assert_close(value, there, rtol=1e-6, atol=1e-9, msg=name)
