"""ONNX files, through torch's exporter, and onnxruntime to try them (the extra `onnx`)."""

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnxruntime
import torch
from onnx import helper
from onnxscript import optimizer
from torch import Tensor
from torch.export import ExportedProgram

from densenet_suite.exporting.upsampling import replace_transposed

OPSET = 18
_FOLDED = 2**26  # numbers in what is computed from constants: whole kernels, which the default leaves to every start


def onnx_model(program: ExportedProgram, outputs: Mapping[str, Sequence[str]]) -> onnx.ModelProto:
    """Return a program as an ONNX model of the input `images` and of outputs with the given names and axes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=list(outputs),
            optimize=False,
            verbose=False,
        )
    assert exported is not None
    optimizer.optimize(exported.model, onnx_shape_inference=False, input_size_limit=_FOLDED, output_size_limit=_FOLDED)
    model = exported.model_proto
    replace_transposed(model)
    _remove_traces(model)
    for output in model.graph.output:
        _name_axes(output, outputs[output.name])
    _name_axes(model.graph.input[0], ("batch", "bands", "height", "width"))
    return model


def onnx_bytes(model: onnx.ModelProto, card: Mapping[str, Any]) -> bytes:
    """Return the file of a model, with the outputs that its card names, and the card as its properties.

    Text stays as it is, all else is JSON.
    """
    final = onnx.ModelProto()
    final.CopyFrom(model)
    wanted = [output for output in model.graph.output if output.name in card["outputs"]]
    del final.graph.output[:]
    final.graph.output.extend(wanted)
    final.graph.name = final.producer_name = "densenet_suite"
    final.producer_version = card["version"]
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in card.items()}
    helper.set_model_props(final, texts)
    return final.SerializeToString()


class OnnxNetwork:
    """An ONNX model in onnxruntime, on the CPU.

    Args:
        content: the bytes of the file.
    """

    def __init__(self, content: bytes):
        self._session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Return the outputs by name."""
        found = self._session.run(self._outputs, {"images": images.numpy()})
        return {name: torch.from_numpy(values) for name, values in zip(self._outputs, found, strict=True)}


def _remove_traces(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes about our source code, and shapes in terms of numbers that it made up."""
    graph = model.graph
    del graph.value_info[:], graph.metadata_props[:], model.metadata_props[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""


def _name_axes(value: onnx.ValueInfoProto, names: Sequence[str]) -> None:
    for dimension, name in zip(value.type.tensor_type.shape.dim, names, strict=True):
        if dimension.dim_param:
            dimension.dim_param = name
