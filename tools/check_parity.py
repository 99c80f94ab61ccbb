"""Hold the variants that are too large for the test suite against their peers, one after the other.

    python tools/check_parity.py                                # all of them: three minutes, 5 GB
    python tools/check_parity.py efficientnet_b5 "tf_efficientnetv2_*"

Backbones are held against timm, detectors against effdet: parameters, and the outputs in float64 and eval mode for
random weights and random batch-norm statistics that the peer writes to a file and this package reads. One line for
each: name, parameters, the largest difference relative to the largest value of its map, and ok or FAILED. The exit code
is 1 where one fails.
"""

import argparse
import math
import sys
import tempfile
import time
from fnmatch import fnmatchcase
from pathlib import Path

import effdet
import timm
import torch
from torch import Tensor, nn

from densenet_suite import create_backbone, create_detector

SIZE = (97, 130)
SQUARE = (128, 128)  # effdet takes multiples of its coarsest stride
LIMIT = 1e-7  # reading folds biases of detectors into statistics of float32
BACKBONES = [
    prefix + name
    for name in (
        *(f"efficientnet_b{i}" for i in range(5, 9)),
        "efficientnetv2_l",
        "efficientnetv2_xl",
        "efficientnet_l2",
    )
    for prefix in ("", "tf_")
]
DETECTORS = [
    "efficientdet_d5",
    *(f"tf_efficientdet_d{number}" for number in ("5", "6", "7", "7x")),
    "tf_efficientdet_d5_ap",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=["*"], help="shell patterns of names")
    patterns = parser.parse_args().patterns
    names = [name for name in BACKBONES + DETECTORS if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not names:
        parser.error(f"no name matches {' '.join(patterns)}; there are {' '.join(BACKBONES + DETECTORS)}")
    agrees = [check(name) for name in names]
    sys.exit(0 if all(agrees) else 1)


def check(name: str) -> bool:
    """Compare one network, print its line, and say whether it agrees."""
    started = time.process_time()
    kind = "detector" if name in DETECTORS else "backbone"
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        compare = compare_detector if kind == "detector" else compare_backbone
        parameters, expected, difference = compare(name, Path(folder) / "peer.pth")
    agrees = parameters == expected and difference < LIMIT
    count = f"{parameters:,} parameters" if parameters == expected else f"{parameters:,} parameters, not {expected:,}"
    seconds = time.process_time() - started
    print(f"{name:24} {count:24} {difference:9.1e}  {'ok' if agrees else 'FAILED'}  {seconds:.0f} s", flush=True)
    return agrees


def compare_backbone(name: str, path: Path) -> tuple[int, int, float]:
    """Return our parameters, timm's, and how far the features lie apart."""
    images = torch.randn(1, 3, *SIZE, dtype=torch.float64)
    peer = randomized(timm.create_model(name, features_only=True))
    torch.save(peer.state_dict(), path)
    expected = peer.double()(images)
    theirs = parameters_of(peer)
    del peer  # the largest have four gigabytes
    ours = create_backbone(name, weights=path).eval().double()
    return parameters_of(ours), theirs, apart(ours(images), expected)


def compare_detector(name: str, path: Path) -> tuple[int, int, float]:
    """Return our parameters, effdet's without the biases that ours folds away, and how far the outputs lie apart."""
    images = torch.randn(1, 3, *SQUARE, dtype=torch.float64)
    config = effdet.get_efficientdet_config(name)
    config.image_size = SQUARE
    lean = config.copy()
    lean.redundant_bias = False
    peer = randomized(effdet.EfficientDet(config, pretrained_backbone=False))
    torch.save(peer.state_dict(), path)
    classes, boxes = peer.double()(images)
    del peer
    with torch.device("meta"):
        theirs = parameters_of(effdet.EfficientDet(lean, pretrained_backbone=False))
    ours = create_detector(name, num_classes=config.num_classes, weights=path).eval().double()
    raw = ours.detect(images)
    expected = [flat(classes, config.num_classes), flat(boxes, 4)]
    return parameters_of(ours), theirs, apart([raw.class_logits, raw.box_deltas], expected)


def randomized(network: nn.Module) -> nn.Module:
    """Give norms and biases random values, as training would, and set the network to eval mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.2, 0.2)
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            module.bias.uniform_(-0.2, 0.2)
    return network.eval()


def flat(levels: list[Tensor], columns: int) -> Tensor:
    """Return one head's maps as [b n columns]."""
    return torch.cat([level.permute(0, 2, 3, 1).reshape(len(level), -1, columns) for level in levels], 1)


def apart(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Return the largest difference relative to the largest value of its map; infinite where maps are not finite."""
    differences = [float((own - peer).abs().max() / peer.abs().max()) for own, peer in zip(ours, theirs, strict=True)]
    return max((d if math.isfinite(d) else float("inf")) for d in differences)


def parameters_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


if __name__ == "__main__":
    main()
