"""Which operators run in integers, and on which grids."""

import numpy as np
import pytest
from rewriting import net, noise, only, operand, ops

from ptq_opt.ir import DataError, DType, Graph
from ptq_opt.ir.ranges import Calibration, Range
from ptq_opt.ir.target import Target, find_target
from ptq_opt.passes import Context
from ptq_opt.passes.grids import weight_grid
from ptq_opt.passes.plan import Plan


def known(low: float, high: float, seen: tuple[float, float] | None = None) -> Range:
    far_low, far_high = seen or (low, high)
    return Range.of(np.array([low, high, far_low, far_high, 0.0]), 1)


def plan(
    graph: Graph,
    target: str | Target = "ort-cpu",
    exclude: tuple[str, ...] = (),
    **ranges: tuple[float, float],
) -> Context:
    """Plan with the given ranges, -1 to 1 for all other tensors."""
    table = {v.name: known(*ranges.get(v.name, (-1.0, 1.0))) for v in graph.values()}
    context = Context(find_target(target), calibration=Calibration("mean-max", table))
    context.exclude = exclude
    Plan().run(graph, context)
    return context


def precisions(graph: Graph) -> dict[str, str | None]:
    return {node.op: node.precision for node in graph}


def conv(channels: int = 32, size: int = 3) -> dict[str, np.ndarray]:
    return {"w": noise(channels, channels, size, size), "b": noise(channels)}


IMAGE = "float[1,32,28,28] x"


def test_a_convolution_gets_three_grids() -> None:
    graph = net("c = Conv <pads = [1,1,1,1]> (x, w, b)\n y = Relu(c)", IMAGE, **conv())
    plan(graph, x=(-2.0, 2.0), y=(0.0, 5.1))
    node = only(graph, "Conv")
    data, weights, result = operand(node, 0).quant, operand(node, 1).quant, graph.outputs[0].quant
    assert data and weights and result
    assert (data.dtype, float(data.scale), int(data.zero_point)) == (
        DType.UINT8, pytest.approx(4 / 255), 128,
    )  # fmt: skip
    assert (weights.dtype, weights.axis, weights.scale.shape) == (DType.INT8, 0, (32,))
    np.testing.assert_allclose(
        weights.scale, np.abs(operand(node, 1).numpy()).max((1, 2, 3)) / 127, rtol=1e-6
    )
    assert (float(result.scale), int(result.zero_point)) == (pytest.approx(1.25 * 5.1 / 255), 0)
    assert node.output.quant is None, "no grid between a convolution and the Relu fused to it"
    assert precisions(graph) == {"Conv": "int8", "Relu": "int8"}


@pytest.mark.parametrize("shape", [(2, 64, 64), (64,)])
def test_stacks_of_matrices_and_vectors_have_one_scale(shape: tuple[int, ...]) -> None:
    """ONNX Runtime refuses to run a MatMul with one scale per column of a stack."""
    graph = net("y = MatMul(x, w)", "float[2,512,64] x", w=noise(*shape))
    rule = find_target("ort-cpu").weights
    assert rule is not None and rule.per_channel
    assert weight_grid(noise(*shape), only(graph, "MatMul"), rule).axis is None


def test_a_relu6_bounds_the_grid() -> None:
    graph = net(
        "c = Conv (x, w, b)\n y = Clip(c, low, high)", IMAGE, **conv(),
        low=np.float32(0).reshape(()), high=np.float32(6).reshape(()),
    )  # fmt: skip
    plan(graph, y=(0.0, 6.5))
    info = graph.outputs[0].quant
    assert info is not None
    assert float(info.range[1]) == pytest.approx(6.0)


def test_a_convolution_with_another_reader_keeps_its_own_grid() -> None:
    graph = net(
        "c = Conv (x, w, b)\n r = Relu(c)\n d = Conv (c, w, b)\n e = Conv(r, w, b)\n y = Add(d, e)",
        IMAGE, **conv(),
    )  # fmt: skip
    plan(graph)
    first = graph.order()[0]
    assert first.output.quant is not None


def test_what_the_graph_is_given_and_what_it_answers_is_never_clipped() -> None:
    graph = net(
        "a = Conv (x, w, b)\n c = Conv (a, w, b)\n y = Transpose <perm = [0,2,3,1]> (c)",
        IMAGE, **conv(),
    )  # fmt: skip
    table = {name: known(-1, 1, (-3, 5)) for name in "xacy"}
    Plan().run(graph, Context(find_target("ort-cpu"), calibration=Calibration("mean-max", table)))
    given, inner, answer = (graph.find(name).quant for name in "xac")
    assert given and inner and answer
    assert float(given.scale) == pytest.approx(8 / 255)
    assert float(inner.scale) == pytest.approx(2 / 255)
    assert float(answer.scale) == pytest.approx(1.5 * 8 / 255)


def test_results_that_floats_read_get_headroom() -> None:
    """A score that calibration never saw above zero may rise above it on the next image."""
    graph = net(
        "a = Conv (x, w, b)\n c = Conv (a, w, b)\n y = Transpose <perm = [0,2,3,1]> (c)",
        IMAGE, **conv(),
    )  # fmt: skip
    plan(graph, a=(-4.0, -2.0), c=(-4.0, -2.0), y=(-4.0, -2.0))
    inner, outer, moved = (graph.find(name).quant for name in "acy")
    assert inner and outer
    assert float(inner.range[1]) == 0.0
    assert float(outer.range[1]) == pytest.approx(1.0, abs=0.02)
    assert float(outer.range[0]) == pytest.approx(-5.0, abs=0.02)
    assert moved is outer


def test_what_is_averaged_gets_no_headroom() -> None:
    graph = net("c = Conv (x, w, b)\n y = GlobalAveragePool(c)", IMAGE, **conv())
    plan(graph, c=(-1.0, 1.0))
    info = graph.find("c").quant
    assert info is not None
    assert float(info.scale) == pytest.approx(2 / 255)


def test_data_movers_share_the_grid_of_what_they_move() -> None:
    graph = net(
        "c = Conv (x, w, b)\n r = Relu(c)\n m = MaxPool <kernel_shape = [2,2]> (r)\n"
        "t = Transpose <perm = [0,1,3,2]> (m)\n y = Conv(t, w, b)",
        IMAGE, **conv(),
    )  # fmt: skip
    plan(graph, r=(0.0, 3.0))
    grids = {id(v.quant) for v in graph.values() if v.name in ("r", "m", "t")}
    assert len(grids) == 1
    assert graph.find("t").quant is not None


def test_a_concat_hands_its_grid_to_inputs_nobody_else_reads() -> None:
    graph = net(
        "a = Conv (x, w, b)\n c = Conv (x, w, b)\n k = Concat <axis = 1> (a, c)\n"
        "y = Conv (k, v, b)\n z = Conv (c, w, b)",
        IMAGE, "float[] y, float[] z", **conv(), v=noise(32, 64, 3, 3),
    )  # fmt: skip
    plan(graph, a=(-1.0, 1.0), c=(-4.0, 4.0), k=(-4.0, 4.0))
    a, c, k = (graph.find(name).quant for name in "ack")
    assert a is k
    assert c is not k


def test_a_concat_does_not_widen_what_a_relu6_bounds() -> None:
    """The Clip would not be redundant on the wider grid, and run in float."""
    graph = net(
        "a = Conv (x, w, b)\n s = Clip(a, low, high)\n c = Conv (x, w, b)\n"
        "k = Concat <axis = 1> (s, c)\n y = Conv (k, v, b)",
        IMAGE, **conv(), v=noise(32, 64, 3, 3),
        low=np.float32(0).reshape(()), high=np.float32(6).reshape(()),
    )  # fmt: skip
    plan(graph, s=(0.0, 6.0), c=(-9.0, 9.0), k=(-9.0, 9.0))
    assert graph.find("s").quant is not graph.find("k").quant


def test_light_operators_follow_where_that_saves_conversions() -> None:
    graph = net(
        "a = Conv (x, w, b)\n c = Conv (x, w, b)\n s = Add(a, c)\n y = Conv (s, w, b)",
        IMAGE, **conv(),
    )  # fmt: skip
    plan(graph)
    assert precisions(graph)["Add"] == "int8"


def test_light_operators_between_floats_stay_float() -> None:
    graph = net("a = Tanh(x)\n s = Add(a, x)\n y = Tanh(s)", IMAGE)
    context = plan(graph)
    assert precisions(graph)["Add"] == "float"
    reasons = {row["op"]: row["reason"] for row in context.results["plan"]}
    assert reasons["Add"] == "converting would cost more than it saves"
    assert reasons["Tanh"] == "ort-cpu has no integer kernel for Tanh"


def test_the_mean_that_is_the_output_is_not_rounded_again() -> None:
    graph = net("c = Conv (x, w, b)\n p = GlobalAveragePool(c)\n y = Flatten(p)", IMAGE, **conv())
    plan(graph)
    assert precisions(graph)["GlobalAveragePool"] == "float"


def test_excluded_operators_stay_float() -> None:
    graph = net("[first] c = Conv (x, w, b)\n[second] y = Conv (c, w, b)", IMAGE, **conv())
    context = plan(graph, exclude=("^first$",))
    assert [node.precision for node in graph] == ["float", "int8"]
    assert context.results["plan"][0]["reason"] == "excluded by '^first$'"


@pytest.mark.parametrize(
    ("body", "inputs", "reason"),
    [
        ("y = Conv (x, k)", f"{IMAGE}, float[8,32,1,1] k", "its weights are not constant"),
        ("y = Conv (x, w, k)", f"{IMAGE}, float[32] k", "its bias is not constant"),
        ("y = Gemm <transA = 1> (x, g)", "float[4,3] x", "has alpha, beta or transA"),
        ("y = Gemm <alpha = 2.0> (x, h)", "float[3,4] x", "has alpha, beta or transA"),
    ],
)
def test_reasons(body: str, inputs: str, reason: str) -> None:
    graph = net(body, inputs, **conv(), g=noise(4, 5), h=noise(4, 5))
    context = plan(graph)
    assert context.results["plan"][0]["reason"] == reason
    assert graph.order()[0].precision == "float"


def test_small_layers_are_worth_it_too() -> None:
    graph = net("m = Gemm (x, w, b)\n y = Relu(m)", "float[1,16] x", w=noise(16, 10), b=noise(10))
    plan(graph)
    assert precisions(graph)["Gemm"] == "int8"


def test_an_integer_kernel_that_is_slower_is_not_used() -> None:
    """ONNX Runtime copies the patches of three-dimensional convolutions: few channels lose."""
    graph = net("y = Conv (x, w)", "float[1,8,16,16,16] x", w=noise(8, 8, 3, 3, 3))
    plan(graph)
    assert precisions(graph)["Conv"] == "float"
    graph = net("y = Conv (x, w)", "float[1,64,16,16,16] x", w=noise(64, 64, 3, 3, 3))
    plan(graph)
    assert precisions(graph)["Conv"] == "int8"


def test_half_precision_stays_as_it_is() -> None:
    graph = net(
        "y = Conv (x, w)",
        "float16[1,2,4,4] x",
        "float16[] y",
        w=noise(2, 2, 1, 1).astype(np.float16),
    )
    context = plan(graph)
    assert context.results["plan"][0]["reason"] == "computes in float16, not in float"


def test_an_unknown_range_is_named() -> None:
    graph = net("y = Conv (x, w, b)", IMAGE, **conv())
    context = Context(
        find_target("ort-cpu"), calibration=Calibration("mean-max", {"x": known(0, 1)})
    )
    Plan().run(graph, context)
    assert context.results["plan"][0]["reason"] == "the range of 'y' is unknown"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(bad: float) -> None:
    weights = conv()
    weights["w"][3, 2, 1, 0] = bad
    graph = net("y = Conv (x, v, b)", IMAGE, v=noise(32, 32, 3, 3), b=noise(32))
    operand(graph.order()[0], 1).const = graph.constant(weights["w"]).const
    with pytest.raises(DataError, match=r"weights 'v' of Conv .* contain NaN or infinity"):
        plan(graph)


def test_planning_again_forgets_the_first_plan() -> None:
    graph = net("y = Conv (x, w, b)", IMAGE, **conv())
    plan(graph)
    plan(graph, exclude=("op:Conv",))
    assert all(v.quant is None for v in graph.values())


def test_a_tensorrt_plan_is_symmetric() -> None:
    graph = net("c = Conv (x, w, b)\n y = Relu(c)", IMAGE, **conv())
    plan(graph, "tensorrt", x=(-2.0, 1.0))
    info = graph.inputs[0].quant
    assert info is not None
    assert (info.dtype, int(info.zero_point)) == (DType.INT8, 0)
    assert float(info.scale) == pytest.approx(2 / 127)
    assert ops(graph) == ["Conv", "Relu"]


def test_an_operator_inside_a_body_is_counted_and_left_alone() -> None:
    body = "then_branch = a () => (float[] t) { t = Relu(x) }"
    graph = net(
        f"y = If <{body}, else_branch = b () => (float[] e) {{ e = Tanh(x) }}> (c)",
        f"{IMAGE}, bool c",
    )
    context = plan(graph)
    assert "2 operators inside bodies of If, Loop or Scan stay in float" in context.report.notes
