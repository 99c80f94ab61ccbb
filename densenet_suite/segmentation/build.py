"""`create_segmenter`: the one place that knows all parts of a segmenter; and its card for model files."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from densenet_suite.backbones.base import Backbone, BackboneCard
from densenet_suite.backbones.build import create_backbone, rebuild_backbone
from densenet_suite.backbones.efficientnet import EfficientNet
from densenet_suite.backbones.variants import check_backbone_name
from densenet_suite.drawing import class_colour
from densenet_suite.errors import ConfigError
from densenet_suite.modelfile import model_file, write_model_file
from densenet_suite.preprocess import Normalization, Preprocess
from densenet_suite.segmentation.checkpoints import SegmenterFile, load_segmenter, open_segmenter, spec_of_file
from densenet_suite.segmentation.decoders import SmpDecoder
from densenet_suite.segmentation.model import SegmentationHead, Segmenter, strides_in_use
from densenet_suite.segmentation.pyramid import BiFPNDecoder
from densenet_suite.segmentation.structures import MAX_CLASSES, MaskClasses
from densenet_suite.segmentation.unet import UnetDecoder
from densenet_suite.segmentation.variants import Attention, NormName, SegmenterSpec, decoder_spec, segmenter_spec

logger = logging.getLogger(__name__)


def create_segmenter(  # noqa: PLR0913  # the front door: what a user may choose, by name
    decoder: str = "unet",
    num_classes: int | None = None,
    *,
    classes: MaskClasses | Sequence[str] | None = None,
    backbone: str = "efficientnet_b0",
    in_channels: int = 3,
    weights: str | Path | None = None,
    bands: Sequence[str] | None = None,
    drop_path: float | None = None,
    checkpointing: bool = False,
    channels: Sequence[int] | None = None,
    attention: Attention | None = None,
    norm: NormName = "batch",
    deep_supervision: bool = False,
    normalization: Normalization | None = None,
    multilabel: bool = False,
) -> Segmenter:
    """Create a segmenter.

    Args:
        decoder: a name of `list_decoders`.
        num_classes: how many classes it tells apart, where their names do not matter.
        classes: their names, or the classes of a dataset, which travel with the model. A model file has its own.
        backbone: any name of `list_backbones` with the strides that the decoder needs.
        in_channels: bands of the images.
        weights: "imagenet" to fetch the backbone's weights, a path (a segmenter of ours, a run folder, an smp.Unet, or
            a backbone of any known kind; recognised by its content), or None.
        bands: what input bands are taken for when RGB weights meet others, as in `create_backbone`.
        drop_path: stochastic depth of the backbone; None for its own.
        checkpointing: keep less memory for the backward pass and compute the backbone's blocks again.
        channels: widths of the decoder, as in `segmenter_spec`; None for the usual ones.
        attention: "scse" for gates in the decoder (U-Net and U-Net++).
        norm: of the decoder; "group" does not depend on the batch, for batches of one to four.
        deep_supervision: whether coarser levels give logits of their own in training (U-Net).
        normalization: pixel statistics of the training data, which are kept with the model; None for those of the
            weights.
        multilabel: whether the named or numbered classes may overlap (a sigmoid for each).

    Raises:
        ConfigError: an unknown name, classes that contradict each other, a decoder that needs a stride that the
            backbone lacks, or weights that do not fit.
    """
    spec = segmenter_spec(decoder, channels=channels, attention=attention, norm=norm, deep_supervision=deep_supervision)
    check_backbone_name(backbone)
    file = _open(weights)
    table = _classes(num_classes, classes, file, multilabel=multilabel)
    trunk = create_backbone(
        backbone,
        in_channels,
        None if file else weights,
        bands=bands,
        drop_path=drop_path,
        checkpointing=checkpointing,
    )
    if file is not None:
        trunk = _as_in_file(trunk, file, checkpointing=checkpointing)
    if normalization is None:
        card = None if file is None else file.card
        normalization = trunk.normalization if card is None else Normalization.from_dict(card["normalization"])
    model = _assemble(spec, trunk, normalization, table)
    if file is not None:
        logger.info("%s", load_segmenter(model, file, bands))
    return model


def _open(weights: str | Path | None) -> SegmenterFile | None:
    if weights is None or weights == "imagenet":
        return None
    return open_segmenter(model_file(weights) if Path(weights).is_dir() else weights)


def _classes(
    number: int | None, classes: MaskClasses | Sequence[str] | None, file: SegmenterFile | None, *, multilabel: bool
) -> MaskClasses:
    if isinstance(classes, MaskClasses):
        if number not in (None, len(classes)):
            raise ConfigError(f"num_classes is {number}, and {len(classes)} classes are named")
        if multilabel and not classes.multilabel:
            raise ConfigError("multilabel is True, and the given classes exclude each other")
        return classes
    if classes is None and number is None:
        if file is None or file.card is None:
            raise ConfigError("no classes are given", hint="classes=['background', 'nucleus'], or num_classes=2")
        return MaskClasses.from_dict(file.card["classes"])
    names = tuple(f"class {i + 1}" for i in range(number or 0)) if classes is None else tuple(classes)
    if classes is not None and number not in (None, len(names)):
        raise ConfigError(f"num_classes is {number}, and {len(names)} classes are named")
    if len(set(names)) < len(names):
        raise ConfigError(f"classes {', '.join(names)} are not all different")
    if len(names) == 1 and not multilabel:
        raise ConfigError(
            "one class that excludes others leaves nothing to tell apart",
            hint="name the background too, or say multilabel=True for a yes or no at every pixel",
        )
    if not 1 <= len(names) <= MAX_CLASSES:
        raise ConfigError(f"{number if classes is None else len(names)} classes: a mask tells apart 1 to {MAX_CLASSES}")
    return MaskClasses(names, tuple(class_colour(i) for i in range(len(names))), multilabel)


def _as_in_file(backbone: Backbone, file: SegmenterFile, *, checkpointing: bool) -> Backbone:
    """Return the backbone with the padding, the epsilon and the taps that belong to the file's weights."""
    if not isinstance(backbone, EfficientNet) or backbone.card is None:
        return backbone
    spec = spec_of_file(backbone.spec, file)
    if spec == backbone.spec:
        return backbone
    rebuilt = rebuild_backbone(replace(backbone.card, spec=spec.to_dict()), checkpointing=checkpointing)
    rebuilt.normalization = backbone.normalization
    return rebuilt


def _assemble(spec: SegmenterSpec, backbone: Backbone, normalization: Normalization, classes: MaskClasses) -> Segmenter:
    row = decoder_spec(spec.decoder)
    strides = strides_in_use(row, backbone)
    widths = dict(zip(backbone.strides, backbone.channels, strict=True))
    in_channels = [widths[stride] for stride in strides]
    decoder: UnetDecoder | BiFPNDecoder | SmpDecoder
    if spec.decoder == "unet":
        decoder = UnetDecoder(in_channels, spec.channels, spec.attention)
    elif spec.decoder == "bifpn":
        decoder = BiFPNDecoder(in_channels, spec.channels[0])
    else:
        decoder = SmpDecoder(spec, strides, in_channels)
    if spec.norm == "group":
        _group_norms(decoder)
    levels = decoder.channels if spec.deep_supervision else decoder.channels[:1]
    head = SegmentationHead(levels, len(classes), row.head_kernel)
    return Segmenter(spec, backbone, decoder, head, Preprocess(normalization), classes)


def _group_norms(module: nn.Module) -> None:
    """Replace batch norms by group norms of about 16 channels a group.

    Reference: Wu & He, Group Normalization, arXiv:1803.08494, section 4.1. Norms of a single channel stay: theirs would
    normalise every image to the same mean.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d) and child.num_features > 1:
            channels = child.num_features
            groups = next(n for n in range(max(1, channels // 16), 0, -1) if channels % n == 0)
            setattr(module, name, nn.GroupNorm(groups, channels))
        else:
            _group_norms(child)


def save_segmenter(
    path: Path | str,
    model: Segmenter,
    input_size: tuple[int, int],
    provenance: Mapping[str, Any] | None = None,
    *,
    scale: float = 1.0,
) -> None:
    """Write a model file: weights, architecture, classes, pixel statistics, and the size it was trained at.

    Args:
        path: of the file.
        model: what is written.
        input_size: (height, width) of the training crops.
        provenance: where the weights come from.
        scale: pixels of the network per pixel of the files.

    Raises:
        ConfigError: the backbone cannot be built again from a name.
    """
    if model.backbone.card is None:
        raise ConfigError("the segmenter's backbone has no card", hint="make it with create_backbone")
    card = {
        "task": "segmentation",
        "segmenter": asdict(model.spec),
        "backbone": asdict(model.backbone.card),
        "classes": asdict(model.classes),
        "normalization": model.preprocess.normalization.to_dict(),
        "input_size": list(input_size),
        "scale": scale,
        "provenance": dict(provenance or {}),
    }
    write_model_file(path, model.state_dict(), card)


def load_model(path: Path | str) -> tuple[Segmenter, dict[str, Any]]:
    """Build the segmenter of a model file and fill it; nothing else is needed. Returns it with the file's card.

    Raises:
        ConfigError: the file is damaged, or not a segmenter's model file.
    """
    file = open_segmenter(path)
    if file is None or file.card is None:
        raise ConfigError(
            "not a model file of a segmenter",
            where=str(path),
            hint="foreign weights load through create_segmenter",
        )
    card = dict(file.card)
    model = _assemble(
        SegmenterSpec.from_dict(card["segmenter"]),
        rebuild_backbone(BackboneCard(**card["backbone"])),
        Normalization.from_dict(card["normalization"]),
        MaskClasses.from_dict(card["classes"]),
    )
    load_segmenter(model, file)
    return model.eval(), card
