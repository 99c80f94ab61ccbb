"""Published checkpoints in and out, through one map from roles to the names of each library.

A backbone of which one tensor stays unfilled, or a file with a block too many, is refused. BN epsilon and padding
belong to the weights: `spec_for` gives them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from densenet_suite.backbones.bands import adapt_bands
from densenet_suite.backbones.efficientnet import EfficientNet
from densenet_suite.backbones.keras_h5 import KERAS_SUFFIXES, read_keras_h5
from densenet_suite.backbones.scaling import EfficientNetSpec
from densenet_suite.backbones.schemes import OWN, SCHEMES, foreign_names, units
from densenet_suite.backbones.timm_adapter import TimmBackbone
from densenet_suite.backbones.variants import PUBLISHED
from densenet_suite.errors import ConfigError
from densenet_suite.preprocess import RGB
from densenet_suite.weightfiles import LoadReport, read_tensors, under_prefix


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
