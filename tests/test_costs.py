"""What does not waver as times do: products, operations and memory of the networks, beside those of the peers.

The bounds are a little above what is reached, so that a gain that is lost is noticed. Speeds: tools/benchmark.py.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import jaxtyping
import pytest
import segmentation_models_pytorch as smp
import torch
from effdet import DetBenchTrain
from effdet_peer import effdet_model
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from densenet_suite import create_detector, create_segmenter, fuse, layers
from densenet_suite.detection.loss import detection_loss
from densenet_suite.segmentation.loss import segmentation_loss
from densenet_suite.segmentation.loss_terms import LossTerm

SIZE, BATCH, CLASSES = 128, 2, 90


@pytest.fixture(autouse=True)
def _shapes_are_checked_elsewhere(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


class Operations(TorchDispatchMode):
    """Counts what is computed: views and allocations are nothing that a device would run."""

    FREE = ("empty", "detach", "new_empty", "empty_like", "lift_fresh", "promote_types")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view and func.overloadpacket.__name__ not in self.FREE
        return func(*args, **(kwargs or {}))


def operations(run: Callable[[], Any]) -> int:
    with Operations() as mode:
        run()
    return mode.count


def saved_bytes(run: Callable[[], Any], *networks: nn.Module) -> int:
    """Return the bytes that are kept for the backward pass, without the parameters."""
    own = {value.untyped_storage().data_ptr() for network in networks for value in network.parameters()}
    kept: dict[int, int] = {}
    alive = []  # what is freed would leave its address to another

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(kept.values())


def objects():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(BATCH, 6, 2, generator=generator) * 80
    boxes = torch.cat([corners, corners + 40], 2)
    return boxes, torch.randint(CLASSES, (BATCH, 6), generator=generator)


def training_steps():
    """Return the loss of a batch by this package and by effdet, and the two networks."""
    boxes, labels = objects()
    ours = create_detector("tf_efficientdet_d0", num_classes=CLASSES).train().to(memory_format=torch.channels_last)
    theirs = effdet_model("tf_efficientdet_d0", (SIZE, SIZE), CLASSES).train()
    bench = DetBenchTrain(theirs, create_labeler=True).train()
    images = torch.randn(BATCH, 3, SIZE, SIZE)
    targets = {"bbox": boxes[..., [1, 0, 3, 2]], "cls": labels + 1.0}
    sides = (
        lambda: detection_loss(ours.detect(images), boxes, labels).total,
        lambda: bench(images, targets)["loss"],
    )
    return sides, (ours, theirs)


def test_a_training_step_keeps_less_than_three_fifths_of_what_effdet_keeps():
    sides, networks = training_steps()
    ours, theirs = (saved_bytes(side, *networks) for side in sides)
    assert ours < 0.57 * theirs


def test_a_training_step_has_fewer_operations_than_effdets(monkeypatch):
    monkeypatch.setattr(layers, "is_cheaper", lambda x: False)  # a CPU has small operations in place of long ones
    sides, _ = training_steps()
    sides[0]()  # anchors are made once
    ours, theirs = (operations(lambda side=side: side().backward()) for side in sides)
    assert ours < 0.85 * theirs


def detection_step():
    model = create_detector("efficientdet_d0", num_classes=CLASSES).train().to("meta")
    boxes, labels = (values.to("meta") for values in objects())
    return model, lambda images: detection_loss(model(images), boxes, labels).total


def segmentation_step():
    model = create_segmenter("unet", backbone="efficientnet_b0", num_classes=3).train().to("meta")
    masks = torch.empty(BATCH, SIZE, SIZE, dtype=torch.uint8, device="meta")
    terms = [LossTerm(name) for name in ("cross_entropy", "focal", "dice", "tversky", "lovasz")]
    return model, lambda images: segmentation_loss(model(images), masks, terms).total


@pytest.mark.parametrize("step", [detection_step, segmentation_step])
def test_the_host_never_waits_for_what_a_device_computes_in_a_step(step, monkeypatch):
    """On a device without values nothing can be asked for one. Of the losses only `boundary` computes on the host."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no such device
    model, loss = step()
    loss(torch.empty(BATCH, 3, SIZE, SIZE, dtype=torch.uint8, device="meta")).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@torch.inference_mode()
def test_inference_has_half_of_effdets_operations():
    peer = effdet_model("tf_efficientdet_d0", (SIZE, SIZE), CLASSES).eval()
    ours = fuse(create_detector("tf_efficientdet_d0", num_classes=CLASSES))
    images = torch.zeros(1, 3, SIZE, SIZE)
    ours(images)
    assert operations(lambda: ours(images)) < 0.52 * operations(lambda: peer(images))


@torch.inference_mode()
def test_inference_on_a_device_has_less_than_half_of_effdets_operations():
    peer = effdet_model("tf_efficientdet_d0", (SIZE, SIZE), CLASSES).eval().to("meta")
    ours = fuse(create_detector("tf_efficientdet_d0", num_classes=CLASSES)).to("meta")
    images = torch.empty(1, 3, SIZE, SIZE, device="meta")
    ours(images)  # anchors are made once
    assert operations(lambda: ours(images)) < 0.495 * operations(lambda: peer(images))


@torch.no_grad()
def test_a_compiler_is_given_two_fifths_of_effdets_operations():
    """What its seconds depend on, for it writes kernels of all but the convolutions and the operators of ours."""

    def given(network: nn.Module, images: Tensor) -> Counter[str]:
        found: Counter[str] = Counter()

        def count(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
            operators = (node.target for node in graph.graph.nodes if isinstance(node.target, torch._ops.OpOverload))
            found.update(str(operator.overloadpacket) for operator in operators if not operator.is_view)
            return make_boxed_func(graph.forward)

        torch.compile(network, fullgraph=True, backend=aot_autograd(fw_compiler=count))(images)
        return found

    peer = effdet_model("tf_efficientdet_d0", (SIZE, SIZE), CLASSES).eval()
    ours = fuse(create_detector("tf_efficientdet_d0", num_classes=CLASSES))
    found = given(ours, torch.zeros(BATCH, 3, SIZE, SIZE, dtype=torch.uint8))
    assert (found["densenet_suite.gated_conv"], found["densenet_suite.fused_features"]) == (16, 24)
    assert found.total() < 0.42 * given(peer, torch.zeros(BATCH, 3, SIZE, SIZE)).total()


def products(network: nn.Module, size: int) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() / 2e9


def test_efficientdet_d0_has_the_published_products():
    assert 2.4 < products(create_detector("efficientdet_d0", num_classes=90), 512) < 2.54


def test_a_unet_has_three_quarters_of_smps_products():
    ours = products(create_segmenter("unet", backbone="efficientnet_b0", num_classes=2), 256)
    assert ours < 0.75 * products(smp.Unet("efficientnet-b0", encoder_weights=None, classes=2), 256)
