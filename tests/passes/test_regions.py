"""Which channels can be rescaled or shifted together: any legal factors keep the function."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_channels import random_network
from rewriting import net, noise, only, run

from ptq_opt.ir import Graph
from ptq_opt.ir.tensor import Array
from ptq_opt.ir.verify import verify
from ptq_opt.passes.regions import Kind, find_channels
from ptq_opt.passes.rescale import propagate, rescale, shift

TRUE, AROUND = np.array(True), np.array([0, 0, 1, 1, 0, 0, 1, 1])


def disturb(graph: Graph, kind: Kind, seed: int = 0) -> int:
    """Rescale or shift by random legal amounts, check the outputs; how many constants changed."""
    before = run(graph)
    channels = find_channels(graph, kind)
    rng = np.random.default_rng(seed)
    if kind == "scale":
        factors = np.exp(rng.uniform(-2, 2, channels.label.max() + 1))
        factors[0] = 1.0
        changed = rescale(graph, channels, factors[channels.label])
    else:
        chosen = np.zeros(len(channels.label))
        for linear in channels.linears:
            ids = linear.bias_ids
            chosen[ids] = np.where(channels.label[ids] > 0, rng.uniform(-2, 2, len(ids)), 0.0)
        changed = shift(graph, channels, propagate(channels, chosen))
    verify(graph)
    for expected, found in zip(before, run(graph), strict=True):
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-4 * max(1, np.abs(a).max()))
    return changed


def between(body: str, reads: int = 8, attrs: str = "", **constants: Array) -> Graph:
    """A convolution with 8 channels, `body` from c to m, a convolution that reads `reads`."""
    return net(
        f"c = Conv (x, w, b)\n{body}\ny = Conv {attrs} (m, v, d)",
        w=noise(8, 4, 1, 1), b=noise(8), v=noise(3, reads, 1, 1), d=noise(3), **constants,
    )  # fmt: skip


def reasons(graph: Graph, kind: Kind = "scale") -> list[str]:
    """Why producers must stay as they are; checks that they do."""
    disturb(graph, kind)
    return [reason for _, reason in find_channels(graph, kind).frozen]


# -- factors ---------------------------------------------------------------------------------------

SPATIAL = np.array([2, 3])
KEEPS_FACTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("m = Relu (c)", {}),
    "leaky": ("m = LeakyRelu <alpha = 0.3> (c)", {}),
    "prelu": ("m = PRelu (c, slope)", {"slope": noise(8, 1, 1)}),
    "abs-neg": ("n = Neg (c)\nm = Abs (n)", {}),
    "relu-as-clip": ("m = Clip (c, zero)", {"zero": np.float32(0)}),
    "relu-as-max": ("m = Max (c, zero)", {"zero": np.float32(0)}),
    "clip-without-bounds": ("m = Clip (c)", {}),
    "max-pool": ("m = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> (c)", {}),
    "average-pool": ("m = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (c)", {}),
    "global-pool": ("m = GlobalAveragePool (c)", {}),
    "reduce": ("m = ReduceMax <axes = [2, 3]> (c)", {}),
    "pad": ("m = Pad (c, pads)", {"pads": AROUND}),
    "resize": (
        "m = Resize <mode = \"linear\"> (c, , scales)",
        {"scales": np.array([1, 1, 2, 2], np.float32)},
    ),
    "identity": ("n = Identity (c)\nm = Dropout (n)", {}),
    "transpose": ("n = Transpose <perm = [0,2,3,1]> (c)\nr = Relu (n)\n"
                  "m = Transpose <perm = [0,3,1,2]> (r)", {}),
    "scaled": ("m = Mul (c, k)", {"k": noise(8, 1, 1)}),
    "divided": ("m = Div (c, k)", {"k": np.float32(3)}),
    "biased": ("n = Add (k, c)\nm = Relu (n)", {"k": noise(8, 1, 1)}),
    "biased-everywhere": ("m = Add (c, k)", {"k": np.float32(3)}),
    "gated": ("g = GlobalAveragePool (c)\ne = Conv (g, u)\ns = Sigmoid (e)\nm = Mul (s, c)",
              {"u": noise(8, 8, 1, 1)}),
    "difference": ("e = Conv (x, u)\nm = Sub (c, e)", {"u": noise(8, 4, 1, 1)}),
    "larger": ("e = Conv (x, u)\nm = Max (c, e)", {"u": noise(8, 4, 1, 1)}),
    "residual": ("e = Conv (x, u)\nn = Add (c, e)\nr = Relu (n)\nf = Conv (r, t)\n"
                 "m = Add (r, f)", {"u": noise(8, 4, 1, 1), "t": noise(8, 8, 1, 1)}),
    "twice-the-same": ("m = Add (c, c)", {}),
    "broadcast": ("e = Conv (x, u)\nm = Add (c, e)", {"u": noise(1, 4, 1, 1)}),
    "shuffle": ("r = Reshape (c, s5)\nt = Transpose <perm = [0,2,1,3,4]> (r)\n"
                "m = Reshape (t, s4)",
                {"s5": np.array([1, 2, 4, 6, 6]), "s4": np.array([1, 8, 6, 6])}),
    "squeezed": ("g = GlobalAveragePool (c)\ns = Squeeze (g, axes)\nr = Relu (s)\n"
                 "m = Unsqueeze (r, axes)", {"axes": SPATIAL}),
    "shape": ("s = Shape (c)\nm = Reshape (c, s)", {}),
}  # fmt: skip


@pytest.mark.parametrize("case", KEEPS_FACTORS)
def test_factors_pass(case: str) -> None:
    body, constants = KEEPS_FACTORS[case]
    assert disturb(between(body, **constants), "scale") >= 2


NEW_CHANNELS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "slice": ("m = Slice (c, from, to, axis)", 3,
              {"from": np.array([2]), "to": np.array([5]), "axis": np.array([1])}),
    "backwards": ("m = Slice (c, from, to, axis, step)", 4,
                  {"from": np.array([-1]), "to": np.array([-(2**62)]), "axis": np.array([1]),
                   "step": np.array([-2])}),
    "split": ("a, m = Split <axis = 1> (c, sizes)\ne = Conv (a, u)", 5,
              {"sizes": np.array([3, 5]), "u": noise(2, 3, 1, 1)}),
    "gather": ("m = Gather <axis = 1> (c, picks)", 3, {"picks": np.array([7, 0, 7])}),
    "concat": ("e = Conv (x, u)\nm = Concat <axis = 1> (e, c)", 11, {"u": noise(3, 4, 1, 1)}),
    "concat-with-input": ("m = Concat <axis = 1> (c, x)", 12, {}),
    "concat-of-rows": ("e = Conv (x, u)\nm = Concat <axis = 2> (c, e)", 8,
                       {"u": noise(8, 4, 1, 1)}),
    "depth-to-space": ("m = DepthToSpace <blocksize = 2> (c)", 2, {}),
    "depth-to-space-crd": ('m = DepthToSpace <blocksize = 2, mode = "CRD"> (c)', 2, {}),
    "space-to-depth": ("m = SpaceToDepth <blocksize = 2> (c)", 32, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", NEW_CHANNELS)
def test_factors_follow_channels(case: str) -> None:
    body, reads, constants = NEW_CHANNELS[case]
    assert disturb(between(body, reads, **constants), "scale") >= 2


def test_a_concat_leaves_channels_of_the_input_alone() -> None:
    graph = between("m = Concat <axis = 1> (x, c)", 12)
    before = only_weights(graph, "v")
    disturb(graph, "scale")
    changed = np.any(only_weights(graph, "v") != before, axis=(0, 2, 3))
    assert changed.tolist() == [False] * 4 + [True] * 8


def only_weights(graph: Graph, name: str) -> Array:
    return graph.find(name).numpy()


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("group", [1, 2, 4, 8])
def test_groups(op: str, group: int) -> None:
    shape = (8, 8 // group, 3, 3)
    graph = between(f"r = Relu (c)\nm = {op} <group = {group}> (r, u)", u=noise(*shape))
    channels = find_channels(graph, "scale")
    assert len(channels.regions) == 2, "both of its sides are free"
    assert disturb(graph, "scale") >= 3


@pytest.mark.parametrize("attrs", ["", "<transB = 1>", "<alpha = 0.5, beta = 2.0>"])
def test_flatten_into_gemm(attrs: str) -> None:
    weights = noise(3, 72) if "transB" in attrs else noise(72, 3)
    graph = net(
        f"c = Conv <pads = [1,1,1,1]> (x, w, b)\nf = Flatten (c)\n"
        f"g = Gemm {attrs} (f, u, d)\nr = Relu (g)\ny = Gemm (r, v)",
        "float[1,4,6,6] x", w=noise(2, 4, 3, 3), b=noise(2), u=weights, d=noise(3), v=noise(3, 2),
    )  # fmt: skip
    assert len(find_channels(graph, "scale").regions) == 2
    assert disturb(graph, "scale") == 5


def test_matrix_products_along_the_last_axis() -> None:
    graph = net(
        "n = LayerNormalization (x, g, b)\na = MatMul (n, u)\nc = Add (a, d)\nr = Relu (c)\n"
        "y = MatMul (r, v)",
        "float[2,5,4] x", g=noise(4), b=noise(4), u=noise(4, 6), d=noise(6), v=noise(6, 2),
    )  # fmt: skip
    assert disturb(graph, "scale") == 5


@pytest.mark.parametrize("op", ["BatchNormalization", "InstanceNormalization"])
def test_normalizations_begin_channels(op: str) -> None:
    rest = ", mean, var" if op == "BatchNormalization" else ""
    graph = between(
        f"n = {op} (c, g, h{rest})\nm = Relu (n)", g=noise(8), h=noise(8), mean=noise(8),
        var=noise(8, positive=True),
    )  # fmt: skip
    assert disturb(graph, "scale") >= 3


def test_open_batch_size() -> None:
    graph = net(
        "c = Conv (x, w)\ng = GlobalAveragePool (c)\nf = Flatten (g)\ny = Gemm (f, v)",
        "float[N,4,6,6] x", w=noise(8, 4, 1, 1), v=noise(8, 2),
    )  # fmt: skip
    assert disturb(graph, "scale") == 2


FREEZES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sigmoid": ("m = Sigmoid (c)", "Sigmoid: no factor", {}),
    "relu6": ("m = Clip (c, low, high)", "bounds are absolute",
              {"low": np.float32(0), "high": np.float32(6)}),
    "relu6-as-min-max": ("n = Relu (c)\nm = Min (n, six)", "keeps its scale",
                         {"six": np.float32(6)}),
    "pad-with-ones": ("m = Pad (c, pads, one)", "pads with a constant",
                      {"pads": AROUND, "one": np.float32(1)}),
    "added-input": ("i = Concat <axis = 1> (x, x)\nm = Add (c, i)", "keeps its scale", {}),
    "product": ("n = Relu (c)\nm = Mul (c, n)", "one operand", {}),
    "softmax": ("m = Softmax <axis = 1> (c)", "Softmax: no factor", {}),
    "mixed-channels": ("m = ReduceMean <axes = [1], keepdims = 1> (c)", "mixes channels", {}),
    "slope": ("m = PRelu (k, c)", "parameter", {"k": noise(1, 8, 6, 6)}),
    "parameter": ("m = Div (k, c)", "divisor", {"k": noise(1, 8, 6, 6)}),
    "transposed": ("n = Transpose <perm = [0,2,3,1]> (c)\nm = Reshape (n, s)", "do not lie along",
                   {"s": np.array([1, 8, 6, 6])}),
}  # fmt: skip


@pytest.mark.parametrize("case", FREEZES)
def test_factors_end(case: str) -> None:
    body, reason, constants = FREEZES[case]
    graph = between(body, 1 if case == "mixed-channels" else 8, **constants)
    assert any(reason in found for found in reasons(graph))


def test_graph_outputs_keep_their_scale() -> None:
    graph = net(
        "c = Conv (x, w)\nr = Relu (c)\ny = Conv (r, v)", outputs="float[] y, float[] c",
        w=noise(8, 4, 1, 1), v=noise(3, 8, 1, 1),
    )  # fmt: skip
    assert reasons(graph) == ["the graph returns the tensor"] * 2


def test_captured_tensors_keep_their_scale() -> None:
    graph = net(
        "c = Conv (x, w)\ns = If (cond) <then_branch = t () => (float[] o) { o = Relu (c) }, "
        "else_branch = e () => (float[] q) { q = Neg (c) }>\nr = Relu (c)\na = Conv (r, v)\n"
        "y = Add (a, s)",
        w=noise(8, 4, 1, 1), v=noise(8, 8, 1, 1), cond=TRUE,
    )  # fmt: skip
    assert disturb(graph, "scale") == 0


def test_custom_operators_end_factors() -> None:
    graph = net(
        "c = Conv (x, w)\nm = other.Relu (c)\ny = Conv (m, v)",
        w=noise(8, 4, 1, 1), v=noise(3, 8, 1, 1),
    )  # fmt: skip
    assert "Relu: no factor passes it" in [r for _, r in find_channels(graph, "scale").frozen]


def test_weights_that_can_be_overridden_stay() -> None:
    graph = between("m = Relu (c)")
    weights = graph.find("v")
    weights.overridable = True
    graph.inputs.append(weights)
    assert "Conv: its weights are not a float32 constant" in reasons(graph)


def test_shared_weights_are_not_changed_for_others() -> None:
    graph = net(
        "c = Conv (x, w, b)\nr = Relu (c)\nd = Conv (r, w)\ns = Sigmoid (d)\ne = Conv (s, w)\n"
        "y = Add (e, b4)",
        w=noise(4, 4, 1, 1), b=noise(4), b4=noise(4, 1, 1),
    )  # fmt: skip
    assert disturb(graph, "scale") == 3


def test_every_reader_of_a_tensor_is_rescaled() -> None:
    graph = between(
        "r = Relu (c)\ne = Conv (r, u)\nm = MaxPool <kernel_shape = [2,2]> (r)\nf = Relu (e)",
        u=noise(2, 8, 3, 3),
    )  # fmt: skip
    graph.set_outputs([*graph.outputs, graph.find("f")], ["y", "f"])
    (region,) = find_channels(graph, "scale").regions
    assert len(region.producers) == 1 and len(region.consumers) == 2
    assert disturb(graph, "scale") == 4


# -- shifts ----------------------------------------------------------------------------------------

KEEPS_SHIFTS = [
    "transpose-only", "identity", "global-pool", "max-pool", "reduce-mean", "resize", "shuffle",
    "squeezed", "edge-pad", "average-pool-inside", "sum", "twice-the-same", "biased", "pooled-pads",
]  # fmt: skip
SHIFT_BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    **KEEPS_FACTORS,
    "transpose-only": ("n = Transpose <perm = [0,2,3,1]> (c)\nm = Transpose <perm = [0,3,1,2]> (n)",
                       {}),
    "squeezed": ("g = GlobalAveragePool (c)\ns = Squeeze (g, axes)\nm = Unsqueeze (s, axes)",
                 {"axes": SPATIAL}),
    "reduce-mean": ("m = ReduceMean <axes = [2, 3]> (c)", {}),
    "edge-pad": ('m = Pad <mode = "edge"> (c, pads)', {"pads": AROUND}),
    "average-pool-inside": ("m = AveragePool <kernel_shape = [3,3], count_include_pad = 1> (c)",
                            {}),
    "pooled-pads": ("m = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (c)", {}),
    "sum": ("e = Conv (x, u)\nn = Add (c, e)\nf = Conv (n, t)\nm = Add (n, f)",
            {"u": noise(8, 4, 1, 1), "t": noise(8, 8, 1, 1)}),
    "biased": ("m = Add (k, c)", {"k": noise(8, 1, 1)}),
}  # fmt: skip


@pytest.mark.parametrize("case", KEEPS_SHIFTS)
def test_shifts_pass(case: str) -> None:
    body, constants = SHIFT_BODIES[case]
    assert disturb(between(body, **constants), "shift") >= 2


@pytest.mark.parametrize(
    "case",
    [
        "relu", "leaky", "prelu", "relu-as-clip", "pad", "scaled", "gated", "larger",
        "difference", "residual",
    ],
)  # fmt: skip
def test_shifts_end(case: str) -> None:
    body, constants = SHIFT_BODIES[case]
    assert reasons(between(body, **constants), "shift")


def test_padding_that_counts_ends_shifts() -> None:
    pool = "AveragePool <kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1>"
    graph = between(f"m = {pool} (c)")
    assert "AveragePool: its padding would not be shifted" in reasons(graph, "shift")


@pytest.mark.parametrize("attrs", ["<pads = [1,1,1,1]>", '<auto_pad = "SAME_UPPER">'])
def test_a_padded_reader_ends_shifts(attrs: str) -> None:
    graph = between("m = Identity (c)", attrs=attrs)
    assert "Conv: its zero padding would not be shifted" in reasons(graph, "shift")


@pytest.mark.parametrize("group", [1, 2, 8])
def test_shifts_into_groups_create_missing_biases(group: int) -> None:
    graph = net(
        f"c = Conv (x, w)\nm = Conv <group = {group}> (c, v)\ny = Relu (m)",
        w=noise(8, 4, 1, 1), v=noise(8, 8 // group, 3, 3),
    )  # fmt: skip
    assert disturb(graph, "shift") == 2
    assert all(len(node.inputs) == 3 for node in graph if node.op == "Conv")


def test_shifts_of_a_matrix_product_go_into_the_add_behind_it() -> None:
    graph = net(
        "n = LayerNormalization (x, g)\na = MatMul (n, u)\nc = Add (d, a)\nb = MatMul (c, v)\n"
        "y = Add (b, e)",
        "float[2,5,4] x", g=noise(4), u=noise(4, 6), d=noise(6), v=noise(6, 2), e=noise(2),
    )  # fmt: skip
    assert disturb(graph, "shift") == 3
    assert only(graph, "LayerNormalization").input(2) is not None


def test_shifts_need_an_add_behind_a_matrix_product() -> None:
    graph = net("c = Gemm (x, w)\ny = MatMul (c, v)", "float[2,4] x", w=noise(4, 6), v=noise(6, 2))
    assert "MatMul: no bias follows that could take the shift" in reasons(graph, "shift")


def test_vectors_of_a_shift() -> None:
    """y = W2 (W1 x + b1) + b2 with a taken from the hidden channels."""
    graph = net(
        "c = Gemm <transB = 1> (x, w1, b1)\ny = Gemm <transB = 1> (c, w2, b2)", "float[2,2] x",
        w1=np.array([[1, 2], [3, -1]], np.float32), b1=np.array([0.5, -4], np.float32),
        w2=np.array([[1, -2]], np.float32), b2=np.array([0.25], np.float32),
    )  # fmt: skip
    channels = find_channels(graph, "shift")
    amounts = np.zeros(len(channels.label))
    amounts[channels.linears[0].bias_ids] = [0.5, -3]
    shift(graph, channels, propagate(channels, amounts))
    first, second = graph.order()
    assert first.inputs[2] is not None and first.inputs[2].numpy().tolist() == [0, -1]
    assert second.inputs[2] is not None and second.inputs[2].numpy().tolist() == [6.75]


# -- random networks -------------------------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data(), kind=st.sampled_from(["scale", "shift"]))
def test_random_networks(data: st.DataObject, kind: Kind) -> None:
    disturb(random_network(data), kind)
