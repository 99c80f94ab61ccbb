"""ImageNet weights by name: the only code of the backbones that asks the network, and only when told "imagenet"."""

from collections.abc import Mapping

import timm
import torchvision
from torch import Tensor

from densenet_suite.errors import ConfigError
from densenet_suite.preprocess import Normalization

# where timm has none of its own, torchvision may
_TORCHVISION = {f"efficientnet_b{i}": f"efficientnet_b{i}" for i in range(8)} | {
    f"efficientnetv2_{size}": f"efficientnet_v2_{size}" for size in "sml"
}


def fetch_imagenet(name: str) -> tuple[Mapping[str, Tensor], str, Normalization]:
    """Download (or find in the hub's cache) the published weights of a backbone.

    Args:
        name: ours, or timm's with its tag, without "timm/".

    Returns:
        the state dict of the whole classifier, where it is from, and the pixel statistics it was trained with.

    Raises:
        ConfigError: nothing is published under the name, or the hub cannot be reached.
    """
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    try:
        if config is not None and config.has_weights:
            model = timm.create_model(name, pretrained=True)
            where = f"timm/{config.architecture}.{config.tag}"
            return model.state_dict(), where, Normalization(tuple(config.mean), tuple(config.std))
        if name in _TORCHVISION:
            entry = torchvision.models.get_model_weights(_TORCHVISION[name]).DEFAULT
            transforms = entry.transforms()
            state = entry.get_state_dict(progress=False, check_hash=True)
            return state, f"torchvision {entry}", Normalization(tuple(transforms.mean), tuple(transforms.std))
    except (OSError, RuntimeError) as error:  # what the hub clients raise without a connection
        raise ConfigError(
            f"cannot fetch the ImageNet weights of {name}: {str(error).splitlines()[0]}",
            hint="where there is no network, download the file elsewhere and give its path as weights",
        ) from error
    twin = f"tf_{name}"
    has_twin = timm.is_model(twin) and timm.get_pretrained_cfg(twin).has_weights
    raise ConfigError(
        f"no ImageNet weights are published for {name}",
        hint=f"they are for {twin}" if has_twin else "train from scratch (weights: null), or give a path",
    )
