"""Segmenter weights from files: segmentation_models_pytorch's and our own.

smp's U-Net is read by role, and so are its decoders whose output is as large as the image; the others enlarge their
logits in another way than here. `tu-` encoders are timm's. smp's own EfficientNets carry lukemelas' names, TensorFlow's
padding, and other taps: the stem for stride 2, and in B0 for stride 16 the first block of 112 channels instead of the
last. Their padding is made once, for the published image size, and here for the image at hand: so B0 gives the same
where no map has an odd size, and the others, whose published sizes lead to odd maps, differ by a cell in some layers.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from densenet_suite.backbones.efficientnet import EfficientNet
from densenet_suite.backbones.keras_h5 import KERAS_SUFFIXES
from densenet_suite.backbones.scaling import EfficientNetSpec
from densenet_suite.backbones.schemes import SCHEMES
from densenet_suite.backbones.timm_adapter import TimmBackbone
from densenet_suite.backbones.weights import WeightSource, load_efficientnet, load_timm, recognize, spec_for
from densenet_suite.errors import ConfigError
from densenet_suite.modelfile import read_card
from densenet_suite.segmentation.model import Segmenter
from densenet_suite.segmentation.unet import ScSE, UnetBlock, UnetDecoder
from densenet_suite.weightfiles import LoadReport, read_tensors, under_prefix

# what gives a segmenter away; its bias too, so that a file that lacks one is not taken for a backbone's
_OWN = ("head.finest.weight", "head.finest.bias")
_SMP = ("segmentation_head.0.weight", "segmentation_head.0.bias")
_B0_TAPS = (1, 3, 5, 11, 16)


@dataclass(frozen=True)
class SegmenterFile:
    """A file that holds a segmenter: its tensors without wrappers, and whose names they carry.

    `card` is that of our own files, `beside` what lies outside the network.
    """

    where: str
    scheme: Literal["densenet_suite", "smp"]
    tensors: Mapping[str, Tensor]
    beside: Sequence[str]
    card: Mapping[str, Any] | None = None


def open_segmenter(path: Path | str) -> SegmenterFile | None:
    """Read a weight file; None where it holds no segmenter.

    Raises:
        ConfigError: the file cannot be read.
    """
    if Path(path).suffix in KERAS_SUFFIXES:
        return None
    tensors = read_tensors(path)
    for fingerprint in _OWN:
        found = under_prefix(tensors, fingerprint)
        if found is not None:
            return SegmenterFile(str(path), "densenet_suite", *found, card=read_card(path))
    for fingerprint in _SMP:
        found = under_prefix(tensors, fingerprint)
        if found is not None:
            return SegmenterFile(str(path), "smp", *found)
    return None


def spec_of_file(spec: EfficientNetSpec, file: SegmenterFile) -> EfficientNetSpec:
    """Return the backbone's table with the padding, the BN epsilon and the taps that the file's weights were made with.

    Raises:
        ConfigError: an encoder of smp that is no EfficientNet.
    """
    if file.scheme == "smp":
        source = _encoder(file)
        fitting = spec_for(spec, source)
        if source.scheme != "lukemelas":
            return fitting
        taps = spec.block_taps()
        return replace(fitting, tap_blocks=(0, 3, 5, 9, 16) if taps == _B0_TAPS else (0, *taps[1:]))
    table = file.card["backbone"]["spec"] if file.card is not None else None
    if table is None:
        return spec
    given = EfficientNetSpec.from_dict(table)
    if [len(stage) for stage in given.blocks()] != [len(stage) for stage in spec.blocks()]:
        return spec  # another network, which loading refuses by the names of its tensors
    return replace(spec, padding=given.padding, bn_eps=given.bn_eps, tap_blocks=given.tap_blocks)


def load_segmenter(model: Segmenter, file: SegmenterFile, bands: Sequence[str] | None = None) -> LoadReport:
    """Fill a segmenter; class rows are moved by the classes' names where both sides name them.

    Raises:
        ConfigError: a tensor is missing, of another shape, or has no place in the network.
    """
    foreign = _smp_names(model, file) if file.scheme == "smp" else {}
    tensors = {name: tensor for name, tensor in file.tensors.items() if not name.startswith(("backbone.", "encoder."))}
    for own, theirs in foreign.items():
        if theirs in tensors:
            tensors[own] = tensors.pop(theirs)
    report = _load_backbone(model, file, bands)
    report.left_out += file.beside
    if file.scheme == "smp":
        report.left_out += _take_out_unused(model, tensors)
        if f"encoder.{SCHEMES['lukemelas'].fingerprint}" in file.tensors:
            report.adapted.append("padding to the size of each image")
    fresh = _fit_heads(model, file, tensors, report)
    filled, wrong = {}, []
    for name, current in model.state_dict().items():
        if name.startswith("backbone."):
            continue
        tensor = tensors.pop(name, None)
        title = foreign.get(name, name)
        if tensor is None:
            if name in fresh or name.endswith("num_batches_tracked"):
                report.initialized.append(name)
            else:
                wrong.append(f"{title} is missing")
        elif tensor.shape != current.shape:
            wrong.append(f"{title} is {list(tensor.shape)}, the network takes {list(current.shape)}")
        else:
            filled[name] = tensor
    wrong += [f"{foreign.get(name, name)} has no place in the network" for name in tensors]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ConfigError(
            f"weights do not fit: {'; '.join(wrong[:3])}{more}",
            where=file.where,
            hint=f"the model is a {model.spec.decoder} with channels {list(model.spec.channels)}",
        )
    model.load_state_dict(filled, strict=False)
    report.loaded += len(filled)
    return report


def _encoder(file: SegmenterFile) -> WeightSource:
    """Return the backbone in a file, under its own names."""
    for prefix in ("backbone.", "encoder.model.", "encoder."):
        tensors = {name.removeprefix(prefix): value for name, value in file.tensors.items() if name.startswith(prefix)}
        if tensors:
            return recognize(tensors, file.where)
    raise ConfigError("holds a segmentation head and no encoder", where=file.where)


def _load_backbone(model: Segmenter, file: SegmenterFile, bands: Sequence[str] | None) -> LoadReport:
    backbone = model.backbone
    if isinstance(backbone, EfficientNet):
        return load_efficientnet(backbone, _encoder(file), bands)
    prefixes = ("backbone.net.", "backbone.", "encoder.model.", "encoder.")
    prefix = next((prefix for prefix in prefixes if any(name.startswith(prefix) for name in file.tensors)), "backbone.")
    tensors = {name.removeprefix(prefix): value for name, value in file.tensors.items() if name.startswith(prefix)}
    if isinstance(backbone, TimmBackbone):
        report = load_timm(backbone, tensors, file.where, bands)
        if report.left_out:
            raise ConfigError(
                f"weights do not fit: {prefix}{report.left_out[0]} has no place in the network",
                where=file.where,
                hint=f"the file's encoder is larger than timm/{backbone.name}",
            )
        return report
    try:
        backbone.load_state_dict(tensors)
    except RuntimeError as error:  # PyTorch names every tensor
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"weights do not fit the backbone: {reason} ...", where=file.where) from error
    return LoadReport(file.where, loaded=len(tensors))


def _fit_heads(
    model: Segmenter, file: SegmenterFile, tensors: dict[str, Tensor], report: LoadReport
) -> Collection[str]:
    """Move the rows of the heads to where the model has their classes; return what is left to chance."""
    fresh = {f"head.{name}": value for name, value in model.head.state_dict().items()}
    given = [name for name in tensors if name.startswith("head.")]
    for name in given:
        if name not in fresh:  # a coarser level's, which the model does not use
            report.left_out.append(name)
            del tensors[name]
    coarser = [name for name in fresh if name not in given and name not in _OWN]
    wanted, names = model.classes.names, None if file.card is None else tuple(file.card["classes"]["names"])
    if names is None:
        rows = len(tensors.get(_OWN[0], tensors.get(_OWN[1], ())))
        if rows == len(wanted):
            report.adapted.append(f"{rows} classes in the file's order, which it does not name")
            return coarser
        report.left_out.append(f"the head, for {rows} classes without names")
        for name in fresh:
            tensors.pop(name, None)
        return fresh
    if names != wanted:
        known = [(label, names.index(name)) for label, name in enumerate(wanted) if name in names]
        for name in fresh.keys() & tensors.keys():
            if tensors[name].shape[1:] == fresh[name].shape[1:]:  # otherwise the caller says what does not fit
                new = fresh[name].clone()
                for label, row in known:
                    new[label] = tensors[name][row]
                tensors[name] = new
        report.adapted.append(f"{len(known)} of {len(wanted)} classes by name")
        report.initialized += [f"class {name!r}" for name in wanted if name not in names]
    return coarser


def _smp_names(model: Segmenter, file: SegmenterFile) -> dict[str, str]:
    """Map our names of the decoder's and the head's tensors to smp's."""
    if model.row.stride > 1:
        raise ConfigError(
            f"weights of segmentation_models_pytorch are not read for decoder {model.row.name}: "
            "it enlarges the logits in another way",
            where=file.where,
            hint="they are read for unet, unetplusplus, manet and linknet",
        )
    names = {f"head.finest.{part}": f"segmentation_head.0.{part}" for part in ("weight", "bias")}
    if not isinstance(model.decoder, UnetDecoder):
        return names | {f"decoder.{name}": f"decoder.{name[4:]}" for name in model.decoder.state_dict()}  # "net."
    for own, theirs, module in _unet_modules(model.decoder):
        names |= {f"decoder.{own}.{part}": f"decoder.{theirs}.{part}" for part in module.state_dict()}
    return names


def _take_out_unused(model: Segmenter, tensors: dict[str, Tensor]) -> list[str]:
    """Remove smp's auxiliary classifier, and the gates that its U-Net has but never applies; return their names."""
    unused = ["classification_head."]
    if model.spec.decoder == "unet" and model.spec.attention:
        unused += [
            f"decoder.blocks.{i}.attention1." for i, block in enumerate(_blocks(model.decoder)) if not block.gate1
        ]
    names = [name for name in tensors if name.startswith(tuple(unused))]
    for name in names:
        del tensors[name]
    return names


def _unet_modules(decoder: UnetDecoder) -> Iterator[tuple[str, str, Any]]:
    """Yield (our name, smp's name, the module) of each layer."""
    for i, block in enumerate(_blocks(decoder)):
        for n, conv, norm, gate in (
            (1, block.conv1, block.norm1, block.gate1),
            (2, block.conv2, block.norm2, block.gate2),
        ):
            yield f"blocks.{i}.conv{n}", f"blocks.{i}.conv{n}.0", conv
            yield f"blocks.{i}.norm{n}", f"blocks.{i}.conv{n}.1", norm
            if isinstance(gate, ScSE):
                scse = f"blocks.{i}.attention{n}.attention"
                yield f"blocks.{i}.gate{n}.reduce", f"{scse}.cSE.1", gate.reduce
                yield f"blocks.{i}.gate{n}.expand", f"{scse}.cSE.3", gate.expand
                yield f"blocks.{i}.gate{n}.spatial", f"{scse}.sSE.0", gate.spatial


def _blocks(decoder: nn.Module) -> list[UnetBlock]:
    return [block for block in decoder.modules() if isinstance(block, UnetBlock)]
