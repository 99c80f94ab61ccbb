"""Detector weights from files: effdet's (google/automl's, ported) and our own.

effdet's names follow its module tree; `effdet_names` maps our roles to them. Both layouts of the heads' batch norms are
read, training checkpoints by their averaged weights, and whatever wrapper a bench or DDP put in front. A bias before a
batch norm, which TensorFlow's weights have and which has no effect but on the running mean, is folded into that mean.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from densenet_suite.backbones.efficientnet import EfficientNet
from densenet_suite.backbones.keras_h5 import KERAS_SUFFIXES
from densenet_suite.backbones.timm_adapter import TimmBackbone
from densenet_suite.backbones.weights import WeightSource, load_efficientnet, load_timm
from densenet_suite.bifpn import BiFPNCell, bifpn_graph
from densenet_suite.detection.coco import COCO_ROWS
from densenet_suite.detection.model import EfficientDet
from densenet_suite.errors import ConfigError
from densenet_suite.modelfile import read_card
from densenet_suite.weightfiles import LoadReport, read_tensors, under_prefix

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_PREDICT = "class_head.predict.pointwise"
# what gives a detector away; two, so that a file that lacks one is not taken for a backbone's
_FINGERPRINTS = (f"{_PREDICT}.weight", "box_head.predict.pointwise.weight")
_EFFDET_FINGERPRINTS = ("class_net.predict.conv_pw.weight", "box_net.predict.conv_pw.weight")


@dataclass(frozen=True)
class DetectorFile:
    """A file that holds a detector: its tensors without wrappers, and whose names they carry.

    `card` is that of our own files, `beside` what lies outside the network.
    """

    where: str
    scheme: Literal["densenet_suite", "effdet"]
    tensors: Mapping[str, Tensor]
    beside: Sequence[str]
    card: Mapping[str, Any] | None = None

    def class_names(self, anchors: int) -> Sequence[str] | None:
        """Return the name of each class row; None where the file does not tell."""
        if self.card is not None:
            return list(self.card["classes"]["names"])
        rows = self.tensors.get(_EFFDET_FINGERPRINTS[0])
        if self.scheme == "effdet" and rows is not None and len(rows) == anchors * len(COCO_ROWS):
            return COCO_ROWS
        return None


def open_detector(path: Path | str) -> DetectorFile | None:
    """Read a weight file; None where it holds no detector.

    Raises:
        ConfigError: the file cannot be read.
    """
    if Path(path).suffix in KERAS_SUFFIXES:
        return None
    tensors = read_tensors(path)
    for fingerprint in _FINGERPRINTS:
        own = under_prefix(tensors, fingerprint)
        if own is not None:
            return DetectorFile(str(path), "densenet_suite", *own, card=read_card(path))
    for fingerprint in _EFFDET_FINGERPRINTS:
        effdet = under_prefix(tensors, fingerprint)
        if effdet is not None:
            return DetectorFile(str(path), "effdet", *effdet)
    return None


def load_detector(model: EfficientDet, source: DetectorFile, bands: Sequence[str] | None = None) -> LoadReport:
    """Fill a detector; class rows are moved by the classes' names where both sides name them.

    Raises:
        ConfigError: a tensor is missing or of another shape.
    """
    foreign = _effdet_names(model, source.tensors) if source.scheme == "effdet" else {}
    named = _from_effdet(source, model, foreign) if source.scheme == "effdet" else dict(source.tensors)
    tensors = {name: tensor for name, tensor in named.items() if not name.startswith("backbone.")}
    report = _load_backbone(model, source, bands)
    report.left_out += source.beside
    state = model.state_dict()
    filled, wrong = {}, []
    fresh = _fit_classes(model, source, tensors, report)
    for name, current in state.items():
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
    wrong += [f"{name} has no place in the network" for name in tensors]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ConfigError(
            f"weights do not fit: {'; '.join(wrong[:3])}{more}", where=source.where, hint=_describe(named)
        )
    model.load_state_dict(filled, strict=False)
    report.loaded += len(filled)
    return report


def _load_backbone(model: EfficientDet, source: DetectorFile, bands: Sequence[str] | None) -> LoadReport:
    prefix = "backbone."
    tensors = {n.removeprefix(prefix): tensor for n, tensor in source.tensors.items() if n.startswith(prefix)}
    backbone = model.backbone
    if isinstance(backbone, EfficientNet):
        scheme = "timm" if source.scheme == "effdet" else "densenet_suite"
        return load_efficientnet(backbone, WeightSource(source.where, scheme, tensors), bands)
    if isinstance(backbone, TimmBackbone):
        tensors = {name.removeprefix("net."): tensor for name, tensor in tensors.items()}
        return load_timm(backbone, tensors, source.where, bands)
    try:
        backbone.load_state_dict(tensors)
    except RuntimeError as error:  # PyTorch names every tensor
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"weights do not fit the backbone: {reason} ...", where=source.where) from error
    return LoadReport(source.where, loaded=len(tensors))


def _fit_classes(
    model: EfficientDet, source: DetectorFile, tensors: dict[str, Tensor], report: LoadReport
) -> Collection[str]:
    """Move the rows of the class prediction to where the model has their classes; return what is left to chance."""
    anchors = model.spec.anchors_per_cell
    parts = {part: f"{_PREDICT}.{part}" for part in ("weight", "bias")}
    fresh = model.class_head.predict.pointwise.state_dict()
    values = {part: tensors[name] for part, name in parts.items() if name in tensors}
    given, rest = divmod(len(values.get("bias", ())), anchors)
    if rest or any(part not in values or values[part].shape[1:] != fresh[part].shape[1:] for part in parts):
        return ()  # the caller says what does not fit
    wanted = model.classes.names
    names = source.class_names(anchors)
    if names is None or list(names) == list(wanted):
        if given != len(wanted):
            report.left_out.append(f"{_PREDICT} for {given} classes without names")
            for name in parts.values():
                del tensors[name]
            return parts.values()
        if names is None:
            report.adapted.append(f"{given} classes in the file's order, which it does not name")
        return ()
    rows = {name: row for row, name in enumerate(names)}
    known = [(label, rows[name]) for label, name in enumerate(wanted) if name in rows]
    for part in parts:
        new = fresh[part].clone().unflatten(0, (anchors, len(wanted)))
        old = values[part].unflatten(0, (anchors, given))
        for label, row in known:
            new[:, label] = old[:, row]
        tensors[parts[part]] = new.flatten(0, 1)
    report.adapted.append(f"{len(known)} of {len(wanted)} classes by name")
    report.initialized += [f"class {name!r}" for name in wanted if name not in rows]
    return ()


def _describe(tensors: Mapping[str, Tensor]) -> str:
    """Tell the size of the detector in a file, by our names or effdet's."""
    node = re.compile(r"(?:bifpn\.cells\.(\d+)\.nodes|fpn\.cell\.(\d+)\.fnode)\.0\..*(?:pointwise|conv_pw)\.weight")
    repeat = re.compile(r"class_(?:head\.convs|net\.conv_rep)\.\d+\..*(?:pointwise|conv_pw)\.weight")
    cells = [name for name in tensors if node.fullmatch(name)]
    repeats = [name for name in tensors if repeat.fullmatch(name)]
    channels = len(tensors[cells[0]]) if cells else 0
    return f"the file's detector has {channels} channels, {len(cells)} BiFPN cells and {len(repeats)} head repeats"


def _from_effdet(source: DetectorFile, model: EfficientDet, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Rename effdet's tensors to ours and fold away biases in front of batch norms; unknown names stay.

    Raises:
        ConfigError: some of those biases are there, but not all, and the rest cannot be told from zero.
    """
    tensors = dict(source.tensors)
    renamed = {own: tensors.pop(theirs) for own, theirs in names.items() if theirs in tensors}
    layers = _effdet_layers(model, source.tensors)
    folded = [(own, norms) for own, _, norms in layers if norms and f"{own}.weight" in renamed]
    without = [names[f"{own}.bias"] for own, _ in folded if f"{own}.bias" not in renamed]
    if 0 < len(without) < len(folded):
        raise ConfigError(
            f"weights do not fit: {without[0]} is missing, and the other biases are there", where=source.where
        )
    for own, norms in folded:
        bias = renamed.pop(f"{own}.bias", None)
        for mean in (f"{norm}.running_mean" for norm in norms):
            if bias is not None and mean in renamed:
                renamed[mean] = renamed[mean] - bias
    return renamed | tensors


def _effdet_names(model: EfficientDet, foreign: Collection[str]) -> dict[str, str]:
    """Map our names of the neck's and the heads' tensors to effdet's."""
    layers = _effdet_layers(model, foreign)
    names = {f"{own}.{part}": f"{theirs}.{part}" for own, theirs, _ in layers for part in _NORM}
    for c in range(model.spec.cells):
        for n in range(len(bifpn_graph(model.spec.levels))):
            names[f"bifpn.cells.{c}.nodes.{n}.weights"] = f"fpn.cell.{c}.fnode.{n}.combine.edge_weights"
    return names


def _effdet_layers(model: EfficientDet, foreign: Collection[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (our name, effdet's name, the norms behind it) of each layer of a file with these names."""
    level_first = not any(name.startswith("class_net.bn_rep.0.0.bn.") for name in foreign)
    extra = f"fpn.resample.{len(model.strides)}.conv"
    yield "bifpn.extra.norm", f"{extra}.bn", []
    yield "bifpn.extra.conv", f"{extra}.conv", ["bifpn.extra.norm"]
    for c, cell in enumerate(model.bifpn.cells):
        assert isinstance(cell, BiFPNCell)
        for key in cell.laterals:
            node, source = key.split("_")
            own, theirs = (
                f"bifpn.cells.{c}.laterals.{key}",
                f"fpn.cell.{c}.fnode.{node}.combine.resample.{source}.conv",
            )
            yield f"{own}.norm", f"{theirs}.bn", []
            yield f"{own}.conv", f"{theirs}.conv", [f"{own}.norm"]
        for n in range(len(cell.nodes)):
            own, theirs = f"bifpn.cells.{c}.nodes.{n}", f"fpn.cell.{c}.fnode.{n}.after_combine.conv"
            yield f"{own}.norm", f"{theirs}.bn", []
            yield f"{own}.conv.depthwise", f"{theirs}.conv_dw", []
            yield f"{own}.conv.pointwise", f"{theirs}.conv_pw", [f"{own}.norm"]
    for own, theirs in (("class_head", "class_net"), ("box_head", "box_net")):
        for r in range(model.spec.repeats):
            norms = [f"{own}.norms.{r}.{level}" for level in range(model.spec.levels)]
            for level, norm in enumerate(norms):
                yield norm, f"{theirs}.bn_rep.{f'{level}.{r}' if level_first else f'{r}.{level}.bn'}", []
            yield f"{own}.convs.{r}.depthwise", f"{theirs}.conv_rep.{r}.conv_dw", []
            yield f"{own}.convs.{r}.pointwise", f"{theirs}.conv_rep.{r}.conv_pw", norms
        yield f"{own}.predict.depthwise", f"{theirs}.predict.conv_dw", []
        yield f"{own}.predict.pointwise", f"{theirs}.predict.conv_pw", []
