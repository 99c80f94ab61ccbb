"""Transposed convolutions as plain ones, for onnxruntime, which multiplies and scatters where it could convolve.

With a kernel of 4x4, a stride of 2 and a padding of 1, each output cell sees 2x2 cells of the input: which ones, and
which taps of the kernel, depends on whether its row and its column are even or odd. So one convolution of 2x2, over
the input with one cell more on each side, gives all four kinds of cells as channels. DepthToSpace puts them side by
side with the odd ones first, and cutting off the border leaves them in their places.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

_ATTRIBUTES = {"strides": [2, 2], "pads": [1, 1, 1, 1], "dilations": [1, 1], "group": 1}
_TAPS = ((2, 0), (3, 1))  # of odd rows and columns, then of even ones, on the two input cells that they see


def replace_transposed(model: onnx.ModelProto) -> None:
    """Replace each transposed convolution of this kind whose kernel and bias are constants."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    replaced: set[str] = set()
    for node in graph.node:
        weights = [constants.get(name) for name in node.input[1:]]
        if _is_of_this_kind(node) and all(weights) and list(constants[node.input[1]].dims[2:]) == [4, 4]:
            nodes.extend(_convolved_and_mixed(graph, node, *(constants[name] for name in node.input[1:])))
            replaced.update(node.input[1:])
        else:
            nodes.append(node)
    unused = replaced - {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name not in unused]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)


def _is_of_this_kind(node: onnx.NodeProto) -> bool:
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return (
        node.op_type == "ConvTranspose"
        and all(given.get(name) == value for name, value in _ATTRIBUTES.items())
        and not any(given.get("output_padding", ()))
    )


def _convolved_and_mixed(
    graph: onnx.GraphProto, node: onnx.NodeProto, kernel: onnx.TensorProto, bias: onnx.TensorProto | None = None
) -> Iterator[onnx.NodeProto]:
    taps = numpy_helper.to_array(kernel).transpose(1, 0, 2, 3)  # [outputs inputs 4 4] as a convolution has it
    kinds = [taps[:, :, rows][..., columns] for rows in _TAPS for columns in _TAPS]
    weights = {"weight": np.concatenate(kinds)}
    if bias is not None:
        weights["bias"] = np.tile(numpy_helper.to_array(bias), len(kinds))
    crop = {"first": np.array([1, 1]), "last": np.array([-1, -1]), "axes": np.array([2, 3])}
    names = {part: f"{node.name}/{part}" for part in (*weights, *crop, "kinds", "mixed")}
    graph.initializer.extend(numpy_helper.from_array(values, names[part]) for part, values in (weights | crop).items())
    inputs = [node.input[0], *(names[part] for part in weights)]
    yield helper.make_node("Conv", inputs, [names["kinds"]], name=names["kinds"], pads=[1, 1, 1, 1])
    yield helper.make_node(
        "DepthToSpace", [names["kinds"]], [names["mixed"]], name=names["mixed"], blocksize=2, mode="DCR"
    )
    yield helper.make_node("Slice", [names["mixed"], *(names[part] for part in crop)], node.output, name=node.name)
