"""A small network and samples for it."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ptq_opt.ir.tensor import Array

Feeds = dict[str, Array]


def small_model(**weights: Array) -> onnx.ModelProto:
    """Two convolutions with a shortcut, pooling and a classifier; `weights` replaces some."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (32, 3, 3, 3), "b1": (32,), "w2": (32, 32, 3, 3), "w3": (32, 5), "b3": (5,)}
    data = {
        name: weights.get(name, 0.2 * rng.standard_normal(shape).astype(np.float32))
        for name, shape in shapes.items()
    }
    pads: dict[str, Any] = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "first", **pads),
        helper.make_node("Relu", ["c1"], ["r1"], "relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "second", **pads),
        helper.make_node("Add", ["r1", "c2"], ["sum"], "shortcut"),
        helper.make_node("GlobalAveragePool", ["sum"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["y"], "classifier"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(array, name) for name, array in data.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def make_samples(count: int) -> list[Feeds]:
    rng = np.random.default_rng(1)
    """Noise for `small_model`, different in every sample."""
    return [{"x": rng.standard_normal((1, 3, 32, 32)).astype(np.float32)} for _ in range(count)]
