"""keras.applications' EfficientNets, on Keras' PyTorch backend, from the files that Keras writes."""

import os

import jaxtyping
import pytest
import torch
from backbone_peers import SIZE, farthest

from densenet_suite import ConfigError, create_backbone

os.environ.setdefault("KERAS_BACKEND", "torch")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras 3.15 on NumPy 2.4
PEERS = {
    "tf_efficientnet_b0": (
        "EfficientNetB0",
        {},
        255,  # of the built-in scaling, an untrained network does only the division
        ["block1a_project_bn", "block2b_add", "block3b_add", "block5c_add", "block7a_project_bn"],
    ),
    "tf_efficientnetv2_b0": (
        "EfficientNetV2B0",
        {"include_preprocessing": False},
        1,
        ["block1a_project_activation", "block2b_add", "block3b_add", "block5e_add", "block6h_add"],
    ),
}


@pytest.fixture(autouse=True)
def _shapes_are_checked_elsewhere(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module", params=PEERS)
def peer(request):
    """Return our name of it, and Keras' model of its features with live weights."""
    keras = pytest.importorskip("keras")
    builder, arguments, _, layers = PEERS[request.param]
    model = getattr(keras.applications, builder)(weights=None, include_top=False, input_shape=(*SIZE, 3), **arguments)
    keras.utils.set_random_seed(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            low = {"gamma": 0.5, "beta": -0.2, "moving_mean": -0.2, "moving_variance": 0.5}
            layer.set_weights(
                [keras.random.uniform(w.shape, low[w.name], abs(low[w.name]) + 0.5) for w in layer.weights]
            )
    return request.param, model, keras.Model(model.inputs, [model.get_layer(name).output for name in layers])


@pytest.mark.parametrize("twin", ["tf_", ""])
@torch.no_grad()
def test_features_are_kerass(peer, twin, tmp_path):
    name, model, features = peer
    path = tmp_path / "named.h5"
    model.save(path)
    ours = create_backbone(twin + name.removeprefix("tf_"), weights=path).eval()
    pixels = torch.rand(1, 3, *SIZE)
    maps = features(pixels.permute(0, 2, 3, 1) * PEERS[name][2], training=False)
    assert farthest(ours(pixels), [level.permute(0, 3, 1, 2) for level in maps]) < 1e-5


@pytest.mark.parametrize("suffix", ["weights.h5", "keras"])
def test_a_file_that_numbers_its_layers_is_refused_with_the_way_out(peer, suffix, tmp_path):
    name, model, _ = peer
    path = tmp_path / f"numbered.{suffix}"
    (model.save_weights if suffix == "weights.h5" else model.save)(path)
    with pytest.raises(
        ConfigError, match=r"numbers its layers instead of naming them(.|\n)*model\.save\(\"named\.h5\"\)"
    ):
        create_backbone(name, weights=path)
