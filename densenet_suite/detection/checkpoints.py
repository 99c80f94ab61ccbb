"""Detector weights from files: effdet's (google/automl's, ported) and our own.

effdet's names follow its module tree; `effdet_names` maps our roles to them. Both layouts of the heads' batch norms are
read, training checkpoints by their averaged weights, and whatever wrapper a bench or DDP put in front. A bias before a
batch norm, which TensorFlow's weights have and which has no effect but on the running mean, is folded into that mean.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from densenet_suite.backbones.efficientnet import EfficientNet
from densenet_suite.backbones.keras_h5 import KERAS_SUFFIXES
from densenet_suite.backbones.timm_adapter import TimmBackbone
from densenet_suite.backbones.weights import WeightSource, load_efficientnet, load_timm
from densenet_suite.detection.bifpn import BiFPNCell, bifpn_graph
from densenet_suite.detection.coco import COCO_ROWS
from densenet_suite.detection.model import EfficientDet
from densenet_suite.errors import ConfigError
from densenet_suite.modelfile import read_card
from densenet_suite.weightfiles import LoadReport, read_tensors, under_prefix

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_PREDICT = "class_head.predict.pointwise"
_EFFDET_FINGERPRINT = "class_net.predict.conv_pw.weight"


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
        if self.scheme == "effdet" and len(self.tensors[_EFFDET_FINGERPRINT]) == anchors * len(COCO_ROWS):
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
    own = under_prefix(tensors, f"{_PREDICT}.weight")
    if own is not None:
        return DetectorFile(str(path), "densenet_suite", *own, card=read_card(path))
    effdet = under_prefix(tensors, _EFFDET_FINGERPRINT)
    return None if effdet is None else DetectorFile(str(path), "effdet", *effdet)


def load_detector(model: EfficientDet, source: DetectorFile, bands: Sequence[str] | None = None) -> LoadReport:
    """Fill a detector; class rows are moved by the classes' names where both sides name them.

    Raises:
        ConfigError: a tensor is missing or of another shape.
    """
    named = dict(source.tensors) if source.scheme == "densenet_suite" else _from_effdet(source.tensors, model)
    tensors = {name: tensor for name, tensor in named.items() if not name.startswith("backbone.")}
    report = _load_backbone(model, source, bands)
    report.left_out += source.beside
    state = model.state_dict()
    filled, wrong = {}, []
    _fit_classes(model, source, tensors, report)
    for name, current in state.items():
        if name.startswith("backbone."):
            continue
        tensor = tensors.pop(name, None)
        if tensor is None:
            if name.startswith(_PREDICT) or name.endswith("num_batches_tracked"):
                report.initialized.append(name)
            else:
                wrong.append(f"{name} is missing")
        elif tensor.shape != current.shape:
            wrong.append(f"{name} is {list(tensor.shape)}, the network takes {list(current.shape)}")
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
    backbone.load_state_dict(tensors)
    return LoadReport(source.where, loaded=len(tensors))


def _fit_classes(model: EfficientDet, source: DetectorFile, tensors: dict[str, Tensor], report: LoadReport) -> None:
    """Move the rows of the class prediction to where the model has their classes."""
    anchors = model.spec.anchors_per_cell
    weight, bias = tensors[f"{_PREDICT}.weight"], tensors[f"{_PREDICT}.bias"]
    given = len(bias) // anchors
    wanted = model.classes.names
    names = source.class_names(anchors)
    if names is None or list(names) == list(wanted):
        if given != len(wanted):
            report.left_out.append(f"{_PREDICT} for {given} classes without names")
            del tensors[f"{_PREDICT}.weight"], tensors[f"{_PREDICT}.bias"]
        elif names is None:
            report.adapted.append(f"{given} classes in the file's order, which it does not name")
        return
    rows = {name: row for row, name in enumerate(names)}
    known = [(label, rows[name]) for label, name in enumerate(wanted) if name in rows]
    fresh = model.class_head.predict.pointwise.state_dict()
    for part, values in (("weight", weight), ("bias", bias)):
        new = fresh[part].clone().unflatten(0, (anchors, len(wanted)))
        old = values.unflatten(0, (anchors, given))
        for label, row in known:
            new[:, label] = old[:, row]
        tensors[f"{_PREDICT}.{part}"] = new.flatten(0, 1)
    report.adapted.append(f"{len(known)} of {len(wanted)} classes by name")
    report.initialized += [f"class {name!r}" for name in wanted if name not in rows]


def _describe(tensors: Mapping[str, Tensor]) -> str:
    """Tell the size of the detector in a file, by our names or effdet's."""
    node = re.compile(r"(?:bifpn\.cells\.(\d+)\.nodes|fpn\.cell\.(\d+)\.fnode)\.0\..*(?:pointwise|conv_pw)\.weight")
    repeat = re.compile(r"class_(?:head\.convs|net\.conv_rep)\.\d+\..*(?:pointwise|conv_pw)\.weight")
    cells = [name for name in tensors if node.fullmatch(name)]
    repeats = [name for name in tensors if repeat.fullmatch(name)]
    channels = len(tensors[cells[0]]) if cells else 0
    return f"the file's detector has {channels} channels, {len(cells)} BiFPN cells and {len(repeats)} head repeats"


def _from_effdet(foreign: Mapping[str, Tensor], model: EfficientDet) -> dict[str, Tensor]:
    """Rename effdet's tensors to ours and fold away biases in front of batch norms; unknown names stay."""
    tensors = dict(foreign)
    level_first = not any(name.startswith("class_net.bn_rep.0.0.bn.") for name in foreign)
    renamed = {}
    for own, theirs, norms in _effdet_layers(model, level_first=level_first):
        for part in ("weight", "bias", *_NORM[2:]):
            if f"{theirs}.{part}" in tensors:
                renamed[f"{own}.{part}"] = tensors.pop(f"{theirs}.{part}")
        if norms and f"{own}.bias" in renamed:
            bias = renamed.pop(f"{own}.bias")
            for norm in norms:
                renamed[f"{norm}.running_mean"] = renamed[f"{norm}.running_mean"] - bias
    for c in range(model.spec.cells):
        for n in range(len(bifpn_graph(model.spec.levels))):
            edge = f"fpn.cell.{c}.fnode.{n}.combine.edge_weights"
            if edge in tensors:
                renamed[f"bifpn.cells.{c}.nodes.{n}.weights"] = tensors.pop(edge)
    return renamed | tensors


def _effdet_layers(model: EfficientDet, *, level_first: bool) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (our name, effdet's name, the norms behind it) of each layer; norms come before their convolutions."""
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
