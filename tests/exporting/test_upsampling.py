"""Transposed convolutions as plain ones: onnxruntime gives the same for both."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from densenet_suite.exporting.upsampling import replace_transposed


def model(kernel: int, stride: int, padding: int, *, bias: bool = True, group: int = 1) -> onnx.ModelProto:
    weights = [numpy_helper.from_array(np.random.default_rng(0).normal(size=(6, 8 // group, kernel, kernel)), "weight")]
    if bias:
        weights.append(numpy_helper.from_array(np.arange(8.0), "bias"))
    node = helper.make_node(
        "ConvTranspose",
        ["x", *(tensor.name for tensor in weights)],
        ["y"],
        name="up",
        strides=[stride] * 2,
        pads=[padding] * 4,
        dilations=[1, 1],
        group=group,
    )
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", None, "h", "w"]) for name in "xy"]
    weights = [numpy_helper.from_array(numpy_helper.to_array(t).astype(np.float32), t.name) for t in weights]
    graph = helper.make_graph([node], "up", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def answer(network: onnx.ModelProto, x: torch.Tensor) -> np.ndarray:
    onnx.checker.check_model(network)
    return onnxruntime.InferenceSession(network.SerializeToString()).run(None, {"x": x.numpy()})[0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 1)])
def test_a_plain_convolution_gives_the_same(size: tuple[int, int], bias: bool) -> None:
    before, after = model(4, 2, 1, bias=bias), model(4, 2, 1, bias=bias)
    replace_transposed(after)
    assert [node.op_type for node in after.graph.node] == ["Conv", "DepthToSpace", "Slice"]
    assert "weight" not in [tensor.name for tensor in after.graph.initializer]
    x = torch.randn(2, 6, *size)
    np.testing.assert_allclose(answer(after, x), answer(before, x), atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "group"), [(2, 2, 0, 1), (4, 2, 1, 2), (4, 1, 1, 1), (3, 2, 1, 1)]
)
def test_other_kinds_stay(kernel: int, stride: int, padding: int, group: int) -> None:
    network = model(kernel, stride, padding, group=group)
    before = network.SerializeToString()
    replace_transposed(network)
    assert network.SerializeToString() == before
