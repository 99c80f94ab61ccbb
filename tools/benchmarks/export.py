"""Exported models in onnxruntime and OpenVINO, against exports of the peers' networks with the same weights.

All files take pixels of 8 bits and normalise them. Ours are those of `densenet-suite export`; the peers' networks go
through torch.onnx.export. effdet's gives the maps of its heads, which are not yet boxes and scores, and smp's gives
logits: in both cases that is work that it is spared. In the rows "with ..." the peer's answer is made whole by its own
functions, or PyTorch's, within the file.

OpenVINO is not among the development packages, as its converter reports its use to its makers: `pip install openvino`.

Answers are held against each other in float32. In bfloat16, which OpenVINO may compute in, networks with random weights
keep little of them: there the row says how far each side is off its own answer in float32, in shares of the largest
value.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measuring import Comparison, Side
from benchmarks.models import CLASSES, effdet_network, our_detector, our_segmenter, pixels, rows_of, smp_network
from densenet_suite.exporting.build import ExportPlan, export_inputs, export_network
from densenet_suite.exporting.networks import ExportedDetector
from densenet_suite.preprocess import Preprocess

ROUNDS = 9
_EQUAL = 1e-4  # of the largest value of an answer

Answer = Mapping[str, Any]
Run = Callable[[], list[Any]]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--detector", default="efficientdet_d0")
    parser.add_argument("--encoder", default="efficientnet-b0", help="of the U-Net, a name of smp")
    parser.add_argument("--size", type=int, default=512, help="of the images, a multiple of 128")
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=list(MODELS))


class WithPixels(nn.Module):
    """A peer's network behind our normalisation."""

    def __init__(self, preprocess: Preprocess, network: nn.Module):
        super().__init__()
        self.preprocess = preprocess
        self.network = network

    def forward(self, images: Tensor) -> Any:
        """Normalise pixels and ask the network."""
        return self.network(self.preprocess(images))


class BoxesAndScores(nn.Module):
    """effdet's network with what its bench does before it chooses detections."""

    def __init__(self, network: Any):
        super().__init__()
        from effdet.anchors import Anchors

        self.network = network
        self.register_buffer("anchors", Anchors.from_config(network.config).boxes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the boxes of all anchors and their scores."""
        from effdet.anchors import decode_box_outputs

        classes, boxes = self.network(images)
        deltas = rows_of(boxes, 4)
        decoded = [decode_box_outputs(deltas[i], self.anchors, output_xyxy=True) for i in range(deltas.shape[0])]
        return torch.stack(decoded), rows_of(classes, CLASSES).sigmoid()


class Exported:
    """A file as bytes, with the number of its nodes and the CPU seconds that it took to make it."""

    def __init__(self, make: Callable[[], bytes]):
        import onnx

        started = time.process_time()
        self.content = make()
        seconds = time.process_time() - started
        self.figures = {"nodes": len(onnx.load_from_string(self.content).graph.node), "export s": seconds}


class Model:
    """A network of ours and the peer's, exported once for all runtimes.

    Args:
        title: in rows.
        ours: the network.
        peers: modules with the same weights, by name, and what makes our answer of theirs.
        size: of the images.
    """

    def __init__(
        self, title: str, ours: Any, peers: Mapping[str, tuple[nn.Module, Callable[[list[Any]], list[Any]]]], size: int
    ):
        self.title, self.peers = title, peers
        self.images = pixels(1, size).contiguous()
        inputs = export_inputs(ours, (size, size), dynamic=False, batch=1, pixels=None)
        _warm_exporter(self.images)
        self.ours = Exported(lambda: export_network(ours, ExportPlan("onnx", inputs), "benchmark", {}))
        self._of_peers: dict[str, Exported] = {}

    def side(self, load: Callable[[bytes, Tensor], Run], exact: Callable[[bytes, Tensor], Run]) -> Side:
        """Return our side; `exact` loads a file so that it computes in float32."""
        return self._side(self.ours, load, exact, lambda: None)

    def peer_side(self, name: str, load: Callable[[bytes, Tensor], Run], exact: Callable[[bytes, Tensor], Run]) -> Side:
        """Return a peer's side, whose answer in float32 must be ours."""
        network, whole = self.peers[name]
        if name not in self._of_peers:
            self._of_peers[name] = Exported(lambda: _peer_file(network, self.images))
        theirs = self._of_peers[name]

        def check() -> None:
            expected = exact(self.ours.content, self.images)()
            for ours, answer in zip(expected, whole(exact(theirs.content, self.images)()), strict=True):
                assert _off(answer, ours) < _EQUAL, "answers differ by more than rounding"

        return self._side(theirs, load, exact, check)

    def _side(
        self,
        file: Exported,
        load: Callable[[bytes, Tensor], Run],
        exact: Callable[[bytes, Tensor], Run],
        check: Callable[[], None],
    ) -> Side:
        run = load(file.content, self.images)
        figures = dict(file.figures)
        if load is not exact:
            figures["off"] = max(map(_off, run(), exact(file.content, self.images)()))
        return Side(run, check, figures)


def detector(options: argparse.Namespace) -> Model:
    """Return the detectors."""
    theirs = effdet_network(options.detector, options.size)
    ours = our_detector(theirs, options.detector)
    decoder = ExportedDetector(ours, (options.size, options.size))

    def whole(maps: list[Any]) -> list[Any]:
        from effdet.anchors import decode_box_outputs

        levels = [torch.from_numpy(values) for values in maps]
        classes, boxes = levels[: len(levels) // 2], levels[len(levels) // 2 :]
        anchors = decoder.anchors[:, [1, 0, 3, 2]]
        decoded = decode_box_outputs(rows_of(boxes, 4)[0], anchors, output_xyxy=True)[None]
        return [decoded.numpy(), rows_of(classes, CLASSES).sigmoid().numpy()]

    peers = {
        "effdet": (WithPixels(ours.preprocess, theirs), whole),
        "effdet, with boxes and scores": (WithPixels(ours.preprocess, BoxesAndScores(theirs)), list),
    }
    return Model(f"{options.detector} {options.size}", ours, peers, options.size)


def segmenter(options: argparse.Namespace) -> Model:
    """Return the segmenters."""
    theirs = smp_network(options.encoder, options.size)
    ours = our_segmenter(theirs, options.encoder)
    peers = {
        "smp": (WithPixels(ours.preprocess, theirs), lambda logits: [torch.from_numpy(logits[0]).softmax(1).numpy()]),
        "smp, with softmax": (WithPixels(ours.preprocess, nn.Sequential(theirs, nn.Softmax(1))), list),
    }
    return Model(f"U-Net {options.encoder} {options.size}", ours, peers, options.size)


MODELS = {"detector": detector, "segmenter": segmenter}


def onnxruntime_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    for model in _models(options):
        yield _comparison(model, "onnxruntime", in_onnxruntime, in_onnxruntime)


def openvino_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    for model in _models(options):
        yield _comparison(model, "openvino", in_openvino, in_openvino)
        yield _comparison(model, "openvino bf16", in_openvino_bf16, in_openvino)


PARTS = {"onnxruntime": onnxruntime_comparisons, "openvino": openvino_comparisons}


def in_onnxruntime(content: bytes, images: Tensor) -> Run:
    """Return a call of a file in onnxruntime, on one thread."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    given = {"images": images.numpy()}
    return lambda: session.run(None, given)


def in_openvino(content: bytes, images: Tensor) -> Run:
    """Return a call of a file in OpenVINO, in float32."""
    return _in_openvino(content, images, "f32")


def in_openvino_bf16(content: bytes, images: Tensor) -> Run:
    """Return a call of a file in OpenVINO, in bfloat16 wherever that is quicker."""
    return _in_openvino(content, images, "bf16")


def _in_openvino(content: bytes, images: Tensor, precision: str) -> Run:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = core.compile_model(core.read_model(content), "CPU", settings).create_infer_request()
    given = images.numpy()

    def run() -> list[Any]:
        found = request.infer([given])
        return [values.copy() for values in found.values()]

    return run


def _comparison(
    model: Model, runtime: str, load: Callable[[bytes, Tensor], Run], exact: Callable[[bytes, Tensor], Run]
) -> Comparison:
    peers = {name: partial(model.peer_side, name, load, exact) for name in model.peers}
    return Comparison(f"{model.title}, {runtime}", model.side(load, exact), peers)


def _models(options: argparse.Namespace) -> Iterator[Model]:
    for name in options.models:
        yield MODELS[name](options)


def _peer_file(network: nn.Module, images: Tensor) -> bytes:
    program = torch.onnx.export(
        network.eval(), (images,), dynamo=True, opset_version=18, input_names=["images"], verbose=False
    )
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def _warm_exporter(images: Tensor) -> None:
    """Import what the first export would pay for."""
    _peer_file(nn.Conv2d(3, 4, 3), images.float())


def _off(answer: Any, expected: Any) -> float:
    return float(np.abs(answer - expected).max() / np.abs(expected).max())
