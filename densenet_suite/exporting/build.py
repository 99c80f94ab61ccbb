"""`export_network`: from a trained network to the bytes of a file that has been run and found equal."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch.export import ExportedProgram

from densenet_suite.detection.model import EfficientDet
from densenet_suite.detection.postprocess import Postprocess
from densenet_suite.errors import ConfigError
from densenet_suite.exporting.card import export_card
from densenet_suite.exporting.inputs import ExportInputs, PixelType, dynamic_size
from densenet_suite.exporting.networks import ExportedCandidates, ExportedDetector, ExportedSegmenter
from densenet_suite.exporting.parity import Network, check_answers, check_detections
from densenet_suite.exporting.program_file import ProgramNetwork, program_bytes, trace
from densenet_suite.fusing import fuse
from densenet_suite.segmentation.model import Segmenter

logger = logging.getLogger(__name__)

ExportFormat = Literal["onnx", "torch"]
Exported = ExportedDetector | ExportedCandidates | ExportedSegmenter
Outputs = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class ExportPlan:
    """What file is wanted.

    Attributes:
        kind: of the file.
        inputs: which images it takes.
        postprocess: chooses the final detections inside of an ONNX file; None for all boxes with all their scores.
    """

    kind: ExportFormat
    inputs: ExportInputs
    postprocess: Postprocess | None = None


def export_inputs(
    model: EfficientDet | Segmenter,
    size: tuple[int, int],
    *,
    dynamic: bool,
    batch: int | None,
    pixels: PixelType | None,
) -> ExportInputs:
    """Return which images the exported network is to take.

    Args:
        model: the network.
        size: (height, width) of the images, or one of several where sizes are open.
        dynamic: whether they are: any multiple of the network's largest stride.
        batch: number of images; None for any.
        pixels: type of the pixel values; None for bytes where they go up to 255, and else float32.
    """
    normalization = model.preprocess.normalization
    multiple = max(model.spec.strides) if isinstance(model, EfficientDet) else model.stride
    return ExportInputs(
        bands=len(normalization.mean),
        pixels=pixels or ("uint8" if normalization.value_range == 255 else "float32"),
        value_range=normalization.value_range,
        batch=batch,
        size=None if dynamic else size,
        multiple=multiple,
        usual=dynamic_size(size, multiple),
    )


def export_network(model: EfficientDet | Segmenter, plan: ExportPlan, version: str, facts: Mapping[str, Any]) -> bytes:
    """Return the file of a network.

    Args:
        model: the network, in evaluation.
        plan: what file.
        version: of this package, for the file's card.
        facts: more for the card.

    Raises:
        SuiteError: the network cannot be followed, or the file gives other answers than the network.
    """
    network = _network(fuse(model), plan)
    program = trace(network, plan.inputs)
    card = {**export_card(model, plan.inputs, version), **facts}
    write = _program_file if plan.kind == "torch" else _onnx_file
    content, file = write(program, network.outputs, plan, card)
    distance = check_answers(file, model, plan.inputs, network.outputs)
    if plan.postprocess is not None:
        check_detections(file, plan.inputs, plan.postprocess)
    logger.info("the file's answers are within %.1g of the network's, in units of the largest", distance)
    return content


def _network(fused: EfficientDet | Segmenter, plan: ExportPlan) -> Exported:
    if isinstance(fused, Segmenter):
        return ExportedSegmenter(fused)
    fused.packed_heads = None  # a program has all weights of its network, in use or not
    detector = ExportedDetector(fused, plan.inputs.size)
    if plan.postprocess is None:
        return detector
    most = plan.postprocess.max_candidates
    if detector.anchors is not None:
        most = min(most, len(detector.anchors))
    if plan.postprocess.max_detections > most:
        raise ConfigError(
            f"max_detections is {plan.postprocess.max_detections}, and they are chosen from {most} boxes",
            hint="lower it, or export for larger images",
        )
    return ExportedCandidates(detector)


def _program_file(
    program: ExportedProgram, outputs: Outputs, plan: ExportPlan, card: Mapping[str, Any]
) -> tuple[bytes, Network]:
    """Return a file, and what runs it."""
    content = program_bytes(program, {**card, "outputs": outputs})
    return content, ProgramNetwork(content, outputs)


def _onnx_file(
    program: ExportedProgram, outputs: Outputs, plan: ExportPlan, card: Mapping[str, Any]
) -> tuple[bytes, Network]:
    """Return a file, and what runs it, with the outputs that detections are chosen from, which the file does not have.

    So the choice is held against the same candidates, and these against the network's.
    """
    from densenet_suite.exporting.onnx_file import OnnxNetwork, onnx_bytes, onnx_model

    onnx = onnx_model(program, outputs)
    if plan.postprocess is None:
        content = onnx_bytes(onnx, {**card, "outputs": outputs})
        return content, OnnxNetwork(content)
    from densenet_suite.exporting.suppression import OUTPUTS, with_suppression

    onnx = with_suppression(onnx, plan.postprocess)
    content = onnx_bytes(onnx, {**card, "outputs": OUTPUTS, "postprocess": asdict(plan.postprocess)})
    return content, OnnxNetwork(onnx.SerializeToString())
