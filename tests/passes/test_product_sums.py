"""Products of stored tensors stay products of stored tensors in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from rewriting import net, noise, operand

from ptq_opt.ir import DType, Graph, grid
from ptq_opt.ir.onnx_save import save_model
from ptq_opt.ir.target import find_target
from ptq_opt.passes import Context
from ptq_opt.passes.product_sums import keep_apart
from ptq_opt.passes.quant import Quantize, write_qdq

TARGET = find_target("ort-cpu")
LINEAR = "p = MatMul(x, w)\n y = Add(p, b)"


def planned(body: str, inputs: str, bias: tuple[int, ...] = (6,)) -> Graph:
    """Products in integers, sums in float."""
    graph = net(body, inputs=inputs, w=noise(8, 6), b=noise(*bias))
    for node in graph:
        node.precision = "int8" if node.op == "MatMul" else "float"
    for value in graph.values():
        if value.name == "x":
            value.quant = grid(-3.0, 3.0, DType.UINT8)
        elif value.name == "w":
            value.quant = grid(-3.0, 3.0, DType.INT8, symmetric=True)
    return graph


def operators(graph: Graph, folder: Path) -> set[str]:
    """What ONNX Runtime makes of the graph."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    model = save_model(graph).SerializeToString()
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}


@pytest.mark.parametrize("body", [LINEAR, LINEAR.replace("p, b", "b, p")])
def test_a_product_with_a_bias_is_one_of_integers(body: str, tmp_path: Path) -> None:
    graph = planned(body, "float[2,5,8] x")
    Quantize().run(graph, Context(TARGET))
    bias = next(v for node in graph if node.op == "Add" for v in node.inputs if v and v.const)
    assert bias.shape == (1, 1, 6)
    assert operators(graph, tmp_path) == {"QuantizeLinear", "MatMulIntegerToFloat", "Add"}


def test_without_this_it_would_be_one_of_floats(tmp_path: Path) -> None:
    """When this fails ONNX Runtime has changed, and nothing has to be done for it any more."""
    graph = planned(LINEAR, "float[2,5,8] x")
    write_qdq(graph, TARGET)
    assert "Gemm" in operators(graph, tmp_path)


def test_a_bias_that_is_no_gemms_is_left_alone(tmp_path: Path) -> None:
    graph = planned(LINEAR, "float[2,5,8] x", (1, 1, 6))
    write_qdq(graph, TARGET)
    assert keep_apart(graph) == 0
    assert "MatMulIntegerToFloat" in operators(graph, tmp_path)


def test_a_matrix_that_is_added_stays_one() -> None:
    """As the mask of an attention is."""
    graph = planned(LINEAR, "float[2,5,8] x", (5, 6))
    write_qdq(graph, TARGET)
    before = save_model(graph)
    assert keep_apart(graph) == 1
    feeds = {"x": noise(2, 5, 8)}
    results = [
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, feeds
        )[0]
        for m in (before, save_model(graph))
    ]
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)


def test_matrices_are_left_alone() -> None:
    """With a bias they are a Gemm in canonical form, and a wider bias would be another rank."""
    graph = planned(LINEAR, "float[5,8] x")
    write_qdq(graph, TARGET)
    assert keep_apart(graph) == 0


def test_a_bias_that_others_read_keeps_its_shape_for_them() -> None:
    graph = planned(
        "p = MatMul(x, w)\n s = Add(p, b)\n n = Neg(b)\n y = Mul(s, n)", "float[2,5,8] x"
    )
    write_qdq(graph, TARGET)
    assert keep_apart(graph) == 1
    neg = next(node for node in graph if node.op == "Neg")
    assert operand(neg, 0).shape == (6,)


def test_products_of_floats_are_left_alone() -> None:
    graph = planned(LINEAR, "float[2,5,8] x")
    assert keep_apart(graph) == 0
