"""Published checkpoints in and out: one map from roles to the names of timm, torchvision, lukemelas (smp) and Keras.

A name is never translated from another name. Each block of the table says which roles it has, and every scheme says how
it calls a role; so a tensor is found by what it does, and a backbone of which one tensor stays unfilled, or a file with
a block too many, is refused. BN epsilon and padding belong to the weights: `spec_for` gives them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from densenet_suite.backbones.efficientnet import EfficientNet
from densenet_suite.backbones.keras_h5 import KERAS_SUFFIXES, read_keras_h5
from densenet_suite.backbones.scaling import Block, EfficientNetSpec
from densenet_suite.backbones.timm_adapter import TimmBackbone
from densenet_suite.backbones.variants import PUBLISHED
from densenet_suite.errors import ConfigError
from densenet_suite.preprocess import BANDS, RGB, default_bands
from densenet_suite.weightfiles import LoadReport, read_tensors, under_prefix

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


@dataclass(frozen=True)
class WeightSource:
    """Tensors of a backbone from one file, and whose names they carry."""

    where: str
    scheme: str
    tensors: Mapping[str, Tensor]
    beside: Sequence[str] = ()


def read_source(path: Path | str) -> WeightSource:
    """Read a weight file and recognise its scheme by its content.

    Raises:
        ConfigError: the file cannot be read, or is of no known scheme.
    """
    path = Path(path)
    tensors = read_keras_h5(path) if path.suffix in KERAS_SUFFIXES else read_tensors(path)
    return recognize(tensors, str(path))


def recognize(tensors: Mapping[str, Tensor], where: str) -> WeightSource:
    """Find whose names the tensors carry, under whatever prefix.

    Raises:
        ConfigError: of no known scheme.
    """
    for key, scheme in SCHEMES.items():
        found = under_prefix(tensors, scheme.fingerprint)
        if found is not None:
            return WeightSource(where, key, *found)
    raise ConfigError(
        f"holds no EfficientNet that is known: its tensors are named like {next(iter(tensors), 'nothing')!r}",
        where=where,
        hint=f"known are the names of {', '.join(scheme.title for scheme in SCHEMES.values())}",
    )


def spec_for(spec: EfficientNetSpec, source: WeightSource) -> EfficientNetSpec:
    """Return the table with the padding and the BN epsilon that the weights were made with."""
    if source.scheme in ("lukemelas", "keras"):
        return replace(spec, padding="same", bn_eps=1e-3)
    if source.scheme == "torchvision":  # torchvision gives TensorFlow's epsilon to b5..b7 and V2, its own to the others
        ported = (
            spec.width >= PUBLISHED["efficientnet_b5"].width or len(spec.stages) != 7 or spec.stages[0].kind == "fused"
        )
        return replace(spec, padding="symmetric", bn_eps=1e-3 if ported else 1e-5)
    return spec


def load_efficientnet(backbone: EfficientNet, source: WeightSource, bands: Sequence[str] | None = None) -> LoadReport:
    """Fill an EfficientNet from a source; `bands` says how a first convolution of other bands is made.

    Raises:
        ConfigError: a tensor is missing or of another shape, or the file holds blocks that the network has not.
    """
    scheme = SCHEMES[source.scheme]
    report = LoadReport(f"{source.where} ({scheme.title} names)", left_out=list(source.beside))
    mapping = foreign_names(backbone.spec, scheme)
    state = backbone.state_dict()
    filled, wrong = {}, []
    for own, foreign in mapping.items():
        tensor = source.tensors.get(foreign)
        if tensor is None:
            if own.endswith("num_batches_tracked"):  # counts steps; Keras and old PyTorch have none
                report.initialized.append(own)
            else:
                wrong.append(f"{foreign} is missing")
            continue
        if own == "stem.conv.weight" and _meets_other_bands(tensor, backbone.in_channels, bands, source):
            tensor = adapt_bands(tensor, backbone.in_channels, bands, source.where)
            report.adapted.append(f"{own} to {backbone.in_channels} bands")
        if tensor.shape != state[own].shape:
            wrong.append(f"{foreign} is {list(tensor.shape)}, the network takes {list(state[own].shape)}")
            continue
        filled[own] = tensor
    known = set(mapping.values())
    last = len(backbone.spec.stages) + 1
    head = tuple(prefix.format(last) for prefix in scheme.head)
    for name in sorted(source.tensors.keys() - known):
        if name.startswith(head) if head else False:
            report.left_out.append(name)
        else:
            wrong.append(f"{name} has no place in the network")
    if wrong:
        raise _refusal(source, wrong)
    backbone.load_state_dict(filled, strict=False)
    report.loaded = len(filled)
    report.left_out.sort()
    return report


def _meets_other_bands(weight: Tensor, in_channels: int, bands: Sequence[str] | None, source: WeightSource) -> bool:
    if weight.ndim != 4 or weight.shape[1] != in_channels:
        return weight.ndim == 4
    # a file of ours has the bands it was trained with; all others are of RGB
    return in_channels == 3 and source.scheme != "densenet_suite" and tuple(bands or RGB) != RGB


def load_timm(
    backbone: TimmBackbone, source: Mapping[str, Tensor], where: str, bands: Sequence[str] | None
) -> LoadReport:
    """Fill a timm backbone from the state dict of the whole timm network or of its feature extractor.

    timm flattens names ("layer1.0" to "layer1_0") and adds prefixes; with dots and underscores made equal they agree.

    Raises:
        ConfigError: a tensor of the backbone is missing or of another shape.
    """
    report = LoadReport(f"{where} (timm names)")
    by_name = {_flat(name): name for name in source}
    state = backbone.net.state_dict()
    filled, wrong = {}, []
    for own, current in state.items():
        name = by_name.get(_flat(own)) or by_name.get(_flat(own).removeprefix("model_"))
        if name is None:
            wrong.append(f"{own} is missing")
            continue
        tensor = source[name]
        if tensor.shape != current.shape and tensor.ndim == 4 and current.shape[1] == backbone.in_channels:
            tensor = adapt_bands(tensor, backbone.in_channels, bands, where)
            report.adapted.append(f"{own} to {backbone.in_channels} bands")
        if tensor.shape != current.shape:
            wrong.append(f"{name} is {list(tensor.shape)}, the network takes {list(current.shape)}")
            continue
        filled[own] = tensor
        by_name.pop(_flat(name))
    if wrong:
        raise ConfigError(_count(wrong), where=where, hint=f"the file is not one of timm/{backbone.name}")
    backbone.net.load_state_dict(filled)
    report.loaded = len(filled)
    report.left_out = sorted(by_name.values())
    return report


def export_tensors(backbone: EfficientNet, scheme: str) -> dict[str, Tensor]:
    """Return the backbone's tensors under the names of another scheme; Keras' are written by `keras_h5`."""
    state = backbone.state_dict()
    mapping = foreign_names(backbone.spec, SCHEMES[scheme])
    return {foreign: state[own].detach().clone() for own, foreign in mapping.items()}


def check_bands(bands: Sequence[str], in_channels: int) -> None:
    """Raise ConfigError where `bands` does not say of each input band what it is taken for."""
    if len(bands) != in_channels or not set(bands) <= set(BANDS):
        raise ConfigError(
            f"bands {tuple(bands)} do not describe {in_channels} input channels",
            hint=f"give each of them one of {', '.join(BANDS)}",
        )


def adapt_bands(weight: Tensor, in_channels: int, bands: Sequence[str] | None, where: str | None = None) -> Tensor:
    """Make the first convolution of an RGB network one for other bands.

    "red", "green" and "blue" take the kernel of that colour; "grey" takes the sum of the three, shared among the grey
    bands, so that a grey image gives what its three equal channels gave; "new" starts at zero and learns, so the answer
    is that of the other bands alone.

    Raises:
        ConfigError: the weights are not for RGB, or `bands` does not fit.
    """
    bands = tuple(bands) if bands is not None else default_bands(in_channels)
    if weight.shape[1] != 3:
        raise ConfigError(f"weights are for {weight.shape[1]} bands, the network takes {in_channels}", where=where)
    check_bands(bands, in_channels)
    red, green, blue = weight.unbind(1)
    grey = (red + green + blue) / max(1, bands.count("grey"))
    kernels = {"red": red, "green": green, "blue": blue, "grey": grey, "new": torch.zeros_like(red)}
    return torch.stack([kernels[band] for band in bands], 1)


def _refusal(source: WeightSource, wrong: list[str]) -> ConfigError:
    fits = _fitting_variants(source)
    hint = f"the file fits {' or '.join(fits)}" if fits else "the file is damaged or of another network"
    return ConfigError(_count(wrong), where=source.where, hint=hint)


def _fitting_variants(source: WeightSource) -> list[str]:
    """Name the published variants whose stem, depth and widths are those of the file."""
    fits = []
    for name, spec in PUBLISHED.items():
        mapping = foreign_names(spec, SCHEMES[source.scheme])
        own_widths = {"stem.conv.weight": spec.stem_channels} | {
            f"{OWN.conv(unit)}.weight": unit.block.out_channels
            for unit in units(spec)
            if unit.role == "project" and not unit.block.experts
        }
        same_blocks = all(
            foreign in source.tensors for own, foreign in mapping.items() if not own.endswith("num_batches_tracked")
        )
        same_widths = all(
            mapping[own] in source.tensors and source.tensors[mapping[own]].shape[0] == width
            for own, width in own_widths.items()
        )
        if same_blocks and same_widths:
            fits.append((len(mapping), name))
    deepest = max((count for count, _ in fits), default=0)
    return [name for count, name in fits if count == deepest]


def _count(wrong: list[str]) -> str:
    more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return f"weights do not fit: {'; '.join(wrong[:3])}{more}"


def _flat(name: str) -> str:
    return name.replace(".", "_")
