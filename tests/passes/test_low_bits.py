"""Weights of 4 and 2 bits, blocks, activations of 16 bits or in float: in ONNX Runtime, too."""

import dataclasses

import numpy as np
import onnx
import pytest
from rewriting import net, noise, only, operand, ops
from sessions import exact_session

from ptq_opt.ir import DType, Graph, save
from ptq_opt.ir.evaluate import Runner, signal_to_noise
from ptq_opt.ir.grid_rule import GridRule
from ptq_opt.ir.ranges import Calibration
from ptq_opt.ir.samples import random_samples
from ptq_opt.ir.target import Target, find_target
from ptq_opt.ir.verify import verify
from ptq_opt.passes import Context, Pipeline
from ptq_opt.passes.grids import weight_grid
from ptq_opt.passes.plan import Plan

ORT = find_target("ort-cpu")
BODY = """
  c = Conv <pads = [1,1,1,1]> (x, w, b)
  r = Relu(c)
  d = Conv <pads = [1,1,1,1], group = 24> (r, v)
  g = GlobalAveragePool(d)
  f = Flatten(g)
  m = MatMul(f, k)
  y = Gemm <transB = 1> (m, l, j)
"""


def network() -> Graph:
    return net(
        BODY, "float[1,12,12,12] x", "float[1,6] y",
        w=noise(24, 12, 3, 3), b=noise(24), v=noise(24, 1, 3, 3), k=noise(24, 20), l=noise(6, 20),
        j=noise(6),
    )  # fmt: skip


def quantized(graph: Graph, target: Target, passes: str = "plan,bias,quant") -> Graph:
    context = Context(target, samples=random_samples(graph.inputs, 6))
    Pipeline(passes).run(graph, context)
    verify(graph)
    return graph


# -- grids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "shape", "axis", "scales"),
    [
        ("Conv", (6, 20, 3, 3), 1, (6, 3, 3, 3)),
        ("ConvTranspose", (20, 6, 2, 2), 0, (3, 6, 2, 2)),
        ("MatMul", (20, 6), 0, (3, 6)),
        ("MatMul", (2, 20, 6), 1, (2, 3, 6)),
        ("Gemm", (20, 6), 0, (3, 6)),
        ("Gemm <transB = 1>", (6, 20), 1, (6, 3)),
    ],
)
def test_a_block_is_one_of_input_channels(
    op: str, shape: tuple[int, ...], axis: int, scales: tuple[int, ...]
) -> None:
    name, _, attrs = op.partition(" ")
    graph = net(f"y = {name} {attrs} (x, w)", "float[1,20,9,9] x", w=noise(*shape))
    node = graph.order()[0]
    data = operand(node, 1).numpy()
    info = weight_grid(data, node, GridRule(DType.INT4, symmetric=True, block=8))
    assert (info.axis, info.block, info.scale.shape) == (axis, 8, scales)
    blocks = np.split(np.abs(data), [8, 16], axis)  # the last one has 4
    reach = np.stack([block.max(axis) for block in blocks], axis)
    np.testing.assert_allclose(info.scale, reach / 7, rtol=1e-6)
    assert np.abs(info.fake(data) - data).max() <= info.scale.max() / 2 * 1.001


def test_fewer_channels_than_a_block_have_one_scale_per_output() -> None:
    graph = net("y = Conv <group = 20> (x, w)", "float[1,20,9,9] x", w=noise(20, 1, 3, 3))
    node = graph.order()[0]
    info = weight_grid(operand(node, 1).numpy(), node, GridRule(DType.INT4, block=8))
    assert (info.axis, info.block, info.scale.shape) == (0, 0, (20,))


def test_asymmetric_weights_use_all_integers() -> None:
    graph = net("y = MatMul(x, w)", "float[1,20] x", w=np.abs(noise(20, 6)))
    node = graph.order()[0]
    data = operand(node, 1).numpy()
    info = weight_grid(data, node, GridRule(DType.UINT4, per_channel=True))
    assert info.quantize(data).min() == 0 and info.quantize(data).max() == 15


# -- written out -----------------------------------------------------------------------------------

FORMS = [
    ("int4", "uint8"), ("uint4", "uint8"), ("int4:per-tensor", "int8"),
    ("int4:block=8,asymmetric", "uint8"), ("uint4:block=16", "int8"), ("uint8", "uint8"),
    ("int4", "int16"), ("uint4:block=8", "uint16"), ("int8", "int16"), ("int16", "int16"),
    ("int8:block=8", "uint16"), ("uint2:block=8", "int16"),
    ("int4", "none"), ("uint4:block=8", "none"), ("int2", "none"), ("int8:block=8", "none"),
]  # fmt: skip


@pytest.mark.parametrize(("weights", "activations"), FORMS)
def test_onnx_runtime_computes_what_the_grids_say(weights: str, activations: str) -> None:
    """The file loads, and gives what the float graph gives with rounded weights."""
    target = ORT.storing(weights, activations)
    planned = network()
    context = Context(target, samples=random_samples(planned.inputs, 6))
    Pipeline("plan,zero-filter").run(planned, context)
    for node in planned:
        for value in node.inputs:
            if value is not None and value.const is not None and value.quant is not None:
                rounded = planned.constant(value.quant.fake(value.numpy()))
                planned.set_input(node, node.inputs.index(value), rounded)
    graph = quantized(network(), target, "plan,quant")
    model = save(graph)
    onnx.checker.check_model(model, full_check=True)
    session, reference = exact_session(model), Runner(planned)
    least = 100 if activations == "none" else 20  # rounded weights exceed some learned ranges
    for feeds in random_samples(graph.inputs, 2):
        found, expected = session.run(None, feeds)[0], reference.run(feeds)[0]
        assert signal_to_noise(expected, found) > least
    types = {node.inputs[0].dtype for node in graph if node.is_op("DequantizeLinear")}
    assert DType[weights.partition(":")[0].upper()] in types


@pytest.mark.parametrize(
    ("weights", "activations", "opset"),
    [
        ("int8", "uint8", 17), ("int8", "none", 17), ("int4", "uint8", 21), ("int8", "int16", 21),
        ("int8:block=8", "none", 21), ("int2", "none", 25),
    ],
)  # fmt: skip
def test_the_operator_set_is_the_first_that_has_the_grids(
    weights: str, activations: str, opset: int
) -> None:
    graph = quantized(network(), ORT.storing(weights, activations), "plan,quant")
    assert graph.info.opset == opset


def test_the_whole_pipeline_runs_with_blocks() -> None:
    target = ORT.storing("int4:block=8", "uint8")
    quantized(network(), target, "align,bias,quant")


@pytest.mark.parametrize("activations", ["int16", "uint16"])
def test_biases_of_wide_sums_stay_float(activations: str) -> None:
    graph = quantized(network(), ORT.storing("int8", activations), "plan,quant")
    assert all(operand(n, 2).const is not None for n in graph if n.op == "Conv" and n.input(2))


def test_biases_behind_blocks_stay_float() -> None:
    graph = quantized(network(), ORT.storing("int4:block=8"), "plan,quant")
    (first,) = (n for n in graph if n.op == "Conv" and n.input(2) is not None)
    assert operand(first, 2).const is not None


def test_weights_in_float_leave_activations_as_integers() -> None:
    graph = quantized(network(), ORT.storing("none", "uint8"), "plan,bias,quant")
    assert all(operand(n, 1).const is not None for n in graph if n.op == "Conv")
    assert "QuantizeLinear" in ops(graph)


def test_integer_operators_are_not_made_of_4_bits() -> None:
    graph = quantized(network(), ORT.storing("int4"), "plan,quant{format=qoperator}")
    assert "QLinearConv" not in ops(graph) and "Conv" in ops(graph)


# -- weights only ----------------------------------------------------------------------------------

ONLY = ORT.storing("int4", "none")


def test_weights_only() -> None:
    graph = net("c = Conv (x, w, b)\n y = Relu(c)", w=noise(5, 4, 3, 3), b=noise(5))
    context = Context(ONLY)
    Plan().run(graph, context)
    conv = only(graph, "Conv")
    weights = operand(conv, 1).quant
    assert weights is not None and weights.dtype is DType.INT4
    assert [v.name for v in graph.values() if v.quant is not None] == ["w"]
    assert {node.precision for node in graph} == {"float"}
    assert context.report.skipped == {"it has no weights": ["Relu 'y'"]}
    assert context.results["plan"][0] == {
        "node": "", "op": "Conv", "precision": "float", "weights": "int4", "reason": "",
    }  # fmt: skip


def test_weights_only_needs_no_kernel_and_no_data() -> None:
    graph = net("y = ConvTranspose (x, w)", w=noise(4, 5, 3, 3))
    Pipeline("plan,quant").run(graph, Context(ONLY, samples=random_samples(graph.inputs, 1)))
    assert ops(graph) == ["DequantizeLinear", "ConvTranspose"]


def test_an_excluded_operator_keeps_its_weights() -> None:
    body = "c = Conv (x, w)\n d = Conv (x, w)\n e = Conv (x, v)\n y = Sum(c, d, e)"
    graph = net(body, w=noise(4, 4, 3, 3), v=noise(4, 4, 3, 3))
    graph.order()[0].name = "kept"
    context = Context(ONLY, exclude=("kept",))
    Plan().run(graph, context)
    shared = "its weights are those of Conv 'kept', too, which stays in float"
    assert {"excluded by 'kept'", shared} < context.report.skipped.keys()
    assert [v.name for v in graph.values() if v.quant is not None] == ["v"]


@pytest.mark.parametrize("activations", ["uint8", "none"])
def test_weights_read_along_two_axes_stay_float(activations: str) -> None:
    graph = net("a = MatMul(x, w)\n y = Gemm <transB = 1> (a, w)", "float[2,6] x", w=noise(6, 6))
    context = Context(ORT.storing("int8", activations), calibration=Calibration("mean-max", {}))
    Plan().run(graph, context)
    assert graph.find("w").quant is None
    assert {entry["reason"] for entry in context.results["plan"]} == {
        "its weights are those of MatMul 'a', too, which reads them another way",
        "its weights are those of Gemm 'y', too, which reads them another way",
    }


@pytest.mark.parametrize("columns", [7, 8])
def test_2_bits_where_onnx_runtime_is_wrong(columns: int) -> None:
    """Version 1.32 permutes the columns of 2-bit matrices of other widths."""
    graph = net("y = MatMul(x, w)", "float[2,64] x", w=noise(64, columns))
    context = Context(ORT.storing("int2", "none"))
    Plan().run(graph, context)
    assert (graph.find("w").quant is not None) == (columns == 8)


def test_bias_correction_of_weights_only() -> None:
    graph = net(
        "c = Conv (x, w, b)\n r = Relu(c)\n y = Conv(r, v)", "float[1,4,9,9] x",
        w=noise(16, 4, 3, 3), b=noise(16), v=noise(4, 16, 3, 3),
    )  # fmt: skip
    context = Context(ORT.storing("int2", "none"), samples=random_samples(graph.inputs, 12))
    (*_, done) = Pipeline("bias").run(graph, context)
    assert done.matched == 2 and not any("nothing to correct" in note for note in done.notes)


def test_chosen_integers_do_not_outlive_their_scale() -> None:
    info = weight_grid(
        noise(4, 6),
        net("y = MatMul(x, w)", "float[1,4] x", w=noise(4, 6)).order()[0],
        GridRule(DType.INT8, symmetric=True, per_channel=True),
    )
    chosen = dataclasses.replace(info, integers=np.zeros((4, 6), np.int32))
    assert chosen.with_scale(info.scale * 2).integers is None
