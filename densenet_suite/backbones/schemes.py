"""What the libraries that publish EfficientNets call their parts: timm, torchvision, lukemelas (smp) and Keras.

A name is never translated from another name. Each block of the table says which roles it has, and every scheme says how
it calls a role; so a tensor is found by what it does.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from densenet_suite.backbones.scaling import Block, EfficientNetSpec

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_BIASED = ("se.reduce", "se.expand", "route")  # layers with a bias and no norm


@dataclass(frozen=True)
class Unit:
    """A convolution with its norm, a squeeze-and-excitation layer or a router, by what it does.

    `flat` numbers the blocks through all stages, `order` the convolutions of a block, `child` its convolutions and its
    squeeze-and-excitation: schemes number one or the other.
    """

    role: str
    stage: int
    index: int
    flat: int
    order: int
    child: int
    block: Block
    v2: bool

    @property
    def place(self) -> str:
        """The block, by stage and index."""
        return f"{self.stage}.{self.index}"


@dataclass(frozen=True)
class Scheme:
    """How one library names the modules of a unit, and what of its files belongs to a head that a pyramid lacks.

    `fingerprint` is a tensor that every file of the scheme has.
    """

    title: str
    fingerprint: str
    stem: tuple[str, str]
    conv: Callable[[Unit], str]
    norm: Callable[[Unit], str]
    head: tuple[str, ...] = ()


def units(spec: EfficientNetSpec) -> Iterator[Unit]:
    """Yield what the blocks of a pyramid consist of."""
    flat = 0
    v2 = any(stage.kind == "fused" for stage in spec.stages) and not spec.edge_stem
    for s, stage in enumerate(spec.blocks()):
        for i, block in enumerate(stage):
            roles = ["fused"] if block.kind == "fused" else ["expand"] * block.expands + ["depthwise"]
            gate = len(roles)
            roles += ["project"] * bool(block.middle)
            for order, role in enumerate(roles):
                child = order + (role == "project" and block.squeezed > 0)
                yield Unit(role, s, i, flat, order, child, block, v2)
            for role in ("se.reduce", "se.expand") * bool(block.squeezed) + ("route",) * bool(block.experts):
                yield Unit(role, s, i, flat, -1, gate, block, v2)
            flat += 1


def _own_conv(unit: Unit) -> str:
    return f"stages.{unit.place}.{unit.role}" + ("" if unit.role in _BIASED else ".conv")


def _timm_conv(unit: Unit) -> str:
    widened = unit.block.kind == "fused" or unit.block.expands
    return (
        f"blocks.{unit.place}."
        + {
            "fused": "conv_exp" if unit.block.middle else "conv",
            "expand": "conv_pw",
            "depthwise": "conv_dw",
            "project": "conv_pwl" if widened else "conv_pw",
            "se.reduce": "se.conv_reduce",
            "se.expand": "se.conv_expand",
            "route": "routing_fn",
        }[unit.role]
    )


def _torchvision_block(unit: Unit) -> str:
    return f"features.{unit.stage + 1}.{unit.index}.block.{unit.child}"


# it has no fused blocks; their names here are in none of its files
_LUKEMELAS_NORM = {"fused": 0, "expand": 0, "depthwise": 1, "project": 2}


def _lukemelas_conv(unit: Unit) -> str:
    name = unit.role.replace(".", "_") if unit.role in _BIASED else f"{unit.role}_conv"
    return f"_blocks.{unit.flat}._{name}"


def _keras_block(unit: Unit) -> str:
    return f"block{unit.stage + 1}{chr(ord('a') + unit.index)}_"


def _keras_conv(unit: Unit) -> str:
    if unit.role == "depthwise":
        name = "dwconv2" if unit.v2 else "dwconv"
    elif unit.role == "fused":
        name = "expand_conv" if unit.block.middle else "project_conv"
    else:
        name = unit.role.replace(".", "_") if unit.role in _BIASED else f"{unit.role}_conv"
    return _keras_block(unit) + name


def _keras_norm(unit: Unit) -> str:
    role = {"depthwise": "", "fused": "expand_" if unit.block.middle else "project_"}.get(unit.role, f"{unit.role}_")
    return f"{_keras_block(unit)}{role}bn"


OWN = Scheme(
    title="densenet_suite",
    fingerprint="stem.conv.weight",
    stem=("stem.conv", "stem.norm"),
    conv=_own_conv,
    norm=lambda unit: f"stages.{unit.place}.{unit.role}.norm",
)
SCHEMES = {
    "densenet_suite": OWN,
    "lukemelas": Scheme(
        title="lukemelas / smp",
        fingerprint="_conv_stem.weight",
        stem=("_conv_stem", "_bn0"),
        conv=_lukemelas_conv,
        norm=lambda unit: f"_blocks.{unit.flat}._bn{_LUKEMELAS_NORM[unit.role]}",
        head=("_conv_head.", "_bn1.", "_fc."),
    ),
    "timm": Scheme(
        title="timm",
        fingerprint="conv_stem.weight",
        stem=("conv_stem", "bn1"),
        conv=_timm_conv,
        norm=lambda unit: f"blocks.{unit.place}.bn{unit.order + 1}",
        head=("conv_head.", "bn2.", "classifier."),
    ),
    "torchvision": Scheme(
        title="torchvision",
        fingerprint="features.0.0.weight",
        stem=("features.0.0", "features.0.1"),
        conv=lambda unit: _torchvision_block(unit) + {"se.reduce": ".fc1", "se.expand": ".fc2"}.get(unit.role, ".0"),
        norm=lambda unit: _torchvision_block(unit) + ".1",
        head=("features.{}.", "classifier."),
    ),
    "keras": Scheme(
        title="Keras",
        fingerprint="stem_conv.weight",
        stem=("stem_conv", "stem_bn"),
        conv=_keras_conv,
        norm=_keras_norm,
        head=("top_", "predictions.", "probs.", "normalization.", "rescaling"),
    ),
}


def foreign_names(spec: EfficientNetSpec, scheme: Scheme) -> dict[str, str]:
    """Map the names of a pyramid's tensors to those of a scheme."""
    modules = [((*OWN.stem,), (*scheme.stem,), False)]
    for unit in units(spec):
        biased = unit.role in _BIASED
        own = (OWN.conv(unit), "" if biased else OWN.norm(unit))
        modules.append((own, (scheme.conv(unit), "" if biased else scheme.norm(unit)), biased))
    mapping = {}
    for (conv, norm), (foreign_conv, foreign_norm), biased in modules:
        mapping[f"{conv}.weight"] = f"{foreign_conv}.weight"
        if biased:
            mapping[f"{conv}.bias"] = f"{foreign_conv}.bias"
        else:
            mapping |= {f"{norm}.{tensor}": f"{foreign_norm}.{tensor}" for tensor in _NORM}
    return mapping
