"""What an exported file says of itself: all that someone needs who has nothing but the file."""

from dataclasses import asdict
from typing import Any

from densenet_suite.detection.model import EfficientDet
from densenet_suite.exporting.inputs import ExportInputs
from densenet_suite.segmentation.model import Segmenter


def export_card(model: EfficientDet | Segmenter, inputs: ExportInputs, version: str) -> dict[str, Any]:
    """Return plain values by name.

    `images` is the input: its shape, with names for sides that are open, the type of its pixels and the largest value.
    `multiple` is what open sides are multiples of, and `fill` the pixel with which a smaller picture is filled up at
    the right and at the bottom. `normalization` is done inside of the network.
    """
    normalization = model.preprocess.normalization
    images = {"shape": inputs.shape, "pixels": inputs.pixels, "largest": inputs.value_range}
    if inputs.size is None:
        images["multiple"] = inputs.multiple
    card = {
        "producer": "densenet_suite",
        "version": version,
        "images": images,
        "fill": normalization.fill,
        "normalization": normalization.to_dict(),
        "names": model.classes.names,
    }
    if isinstance(model, EfficientDet):
        return {**card, "task": "detection", "class_ids": model.classes.ids, "strides": model.spec.strides}
    classes = asdict(model.classes)
    shown = {"colours": classes["colours"], "multilabel": classes["multilabel"]}
    return {**card, "task": "segmentation", **shown, "strides": model.strides}
