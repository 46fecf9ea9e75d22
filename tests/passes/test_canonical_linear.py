"""Linear operators, pooling and normalization in the form that engines have kernels for."""

import numpy as np
import pytest
from rewriting import apply, change, net, noise, only, operand, ops

from ptq_opt.ir import Graph
from ptq_opt.passes.canonicalize import Canonicalize


def canonical(graph: Graph) -> Graph:
    apply(Canonicalize(), graph)
    return graph


# -- Gemm ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attrs", ["alpha = 0.5", "beta = 3.0", "alpha = 2.0, beta = 0.0", "transB = 1, alpha = 0.1"]
)
def test_factors_of_a_gemm_move_into_its_constants(attrs: str) -> None:
    weight = noise(5, 3) if "transB" in attrs else noise(3, 5)
    graph = net(f"y = Gemm <{attrs}> (x, w, b)", "float[2,3] x", w=weight, b=noise(5))
    gemm = only(canonical(graph), "Gemm")
    assert [gemm.attrs[k] for k in ("alpha", "beta", "transA", "transB")] == [1, 1, 0, 0]


def test_factors_of_a_gemm_without_bias() -> None:
    graph = net("y = Gemm <alpha = 2.0, beta = 7.0> (x, w)", "float[2,3] x", w=noise(3, 5))
    assert only(canonical(graph), "Gemm").attrs["beta"] == 1


def test_the_factor_of_a_computed_bias_stays() -> None:
    graph = net(
        "y = Gemm <alpha = 2.0, beta = 3.0> (x, w, b)", "float[2,3] x, float[5] b", w=noise(3, 5)
    )
    gemm = only(canonical(graph), "Gemm")
    assert (gemm.attrs["alpha"], gemm.attrs["beta"]) == (1, 3)


def test_computed_weights_keep_their_factors() -> None:
    graph = net("y = Gemm <alpha = 2.0, transB = 1> (x, w)", "float[2,3] x, float[5,3] w")
    assert only(canonical(graph), "Gemm").attrs["alpha"] == 2


def test_a_shared_weight_is_not_scaled_for_the_other_reader() -> None:
    graph = net(
        "a = Gemm <alpha = 2.0> (x, w)\n b = MatMul(x, w)\n y = Sub(a, b)", "float[2,3] x",
        w=noise(3, 5),
    )  # fmt: skip
    assert ops(canonical(graph)) == ["Gemm", "MatMul", "Sub"]


@pytest.mark.parametrize("total", ["Add(m, b)", "Add(b, m)"])
@pytest.mark.parametrize("shape", [(5,), (1, 5)])
def test_a_matrix_product_with_a_bias_is_a_gemm(total: str, shape: tuple[int, ...]) -> None:
    graph = net(f"m = MatMul(x, w)\n y = {total}", "float[2,3] x", w=noise(3, 5), b=noise(*shape))
    assert ops(canonical(graph)) == ["Gemm"]


@pytest.mark.parametrize("shape", [(2, 5), (2, 1), (1, 1, 5), ()])
def test_a_sum_that_is_no_bias_stays(shape: tuple[int, ...]) -> None:
    graph = net("m = MatMul(x, w)\n y = Add(m, b)", "float[2,3] x", w=noise(3, 5), b=noise(*shape))
    assert ops(canonical(graph)) == ["MatMul", "Add"]


def test_batched_products_stay() -> None:
    graph = net("m = MatMul(x, w)\n y = Add(m, b)", "float[2,4,3] x", w=noise(3, 5), b=noise(5))
    assert ops(canonical(graph)) == ["MatMul", "Add"]


def test_a_product_that_the_graph_returns_stays() -> None:
    graph = net(
        "m = MatMul(x, w)\n y = Add(m, b)", "float[2,3] x", "float[] y, float[] m",
        w=noise(3, 5), b=noise(5),
    )  # fmt: skip
    assert ops(canonical(graph)) == ["MatMul", "Add"]


# -- Pad -------------------------------------------------------------------------------------------

PADS = np.array([0, 0, 1, 0, 0, 0, 1, 0])


@pytest.mark.parametrize(
    "op",
    [
        "Conv(p, w)",
        "Conv <pads = [1,1,1,1], strides = [2,2]> (p, w)",
        "Conv <dilations = [2,2]> (p, w)",
        "AveragePool <kernel_shape = [3,3]> (p)",
        "AveragePool <kernel_shape = [3,3], strides = [2,2]> (p)",
        "AveragePool <kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1> (p)",
    ],
)
@pytest.mark.parametrize("fill", ["", ", zero"])
def test_zeros_around_the_input_are_padding(op: str, fill: str) -> None:
    graph = net(
        f"p = Pad(x, pads{fill})\n y = {op}", w=noise(2, 4, 3, 3), pads=PADS, zero=np.float32(0)
    )
    assert ops(canonical(graph)) == [op.split("(")[0].split()[0]]


def test_zeros_of_chosen_axes_are_padding() -> None:
    graph = net(
        "p = Pad(x, pads, , axes)\n y = Conv(p, w)", opset=18,
        w=noise(2, 4, 3, 3), pads=np.array([1, 2, 3, 0]), axes=np.array([-2, 3]),
    )  # fmt: skip
    graph = canonical(graph)
    assert only(graph, "Conv").attrs["pads"] == [1, 2, 3, 0]


def test_a_pad_with_other_readers_stays_for_them() -> None:
    graph = net(
        "p = Pad(x, pads)\n y = Conv(p, w)\n z = Exp(p)", outputs="float[] y, float[] z",
        w=noise(2, 4, 3, 3), pads=PADS,
    )  # fmt: skip
    assert sorted(ops(canonical(graph))) == ["Conv", "Exp", "Pad"]


@pytest.mark.parametrize(
    ("pad", "amounts"),
    [
        ("Pad(x, pads, half)", PADS),
        ('Pad <mode = "reflect"> (x, pads)', PADS),
        ("Pad(x, pads)", np.array([0, 1, 0, 0, 0, -1, 0, 0])),
        ("Pad(x, pads)", np.array([0, 0, -1, 0, 0, 0, 0, 0])),
    ],
)
def test_other_padding_stays(pad: str, amounts: np.ndarray) -> None:
    graph = net(
        f"p = {pad}\n y = Conv(p, w)", w=noise(2, 4, 3, 3), pads=amounts, half=np.float32(0.5)
    )
    report = apply(Canonicalize(), graph)
    assert ops(graph) == ["Pad", "Conv"]
    assert list(report.skipped) == ["the Pad before it adds more than zeros around each channel"]


@pytest.mark.parametrize(
    "op",
    [
        "AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (p)",
        "AveragePool <kernel_shape = [3,3], strides = [2,2], ceil_mode = 1> (p)",
        "AveragePool <kernel_shape = [1,1]> (p)",
        "MaxPool <kernel_shape = [3,3]> (p)",
    ],
)
def test_zeros_that_count_differently_stay(op: str) -> None:
    assert len(canonical(net(f"p = Pad(x, pads)\n y = {op}", pads=PADS))) == 2


# -- means -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["2, 3", "-1, -2"])
def test_a_spatial_mean_is_global_pooling(axes: str) -> None:
    graph = canonical(net(f"y = ReduceMean <axes = [{axes}]> (x)"))
    assert ops(graph) == ["GlobalAveragePool"]
    graph = canonical(net(f"y = ReduceMean <axes = [{axes}], keepdims = 0> (x)"))
    assert ops(graph) == ["GlobalAveragePool", "Flatten"]


def test_a_spatial_mean_with_axes_as_input() -> None:
    graph = net("y = ReduceMean(x, axes)", opset=18, axes=np.array([2, 3]))
    assert ops(canonical(graph)) == ["GlobalAveragePool"]


@pytest.mark.parametrize("axes", ["<axes = [1,2]>", "<axes = [3]>", "<axes = [0,1,2,3]>", ""])
def test_other_means_stay(axes: str) -> None:
    assert ops(canonical(net(f"y = ReduceMean {axes} (x)"))) == ["ReduceMean"]


def test_the_mean_over_the_last_of_three_axes_stays() -> None:
    graph = net("y = ReduceMean <axes = [2]> (x)", "float[2,3,8] x")
    assert ops(canonical(graph)) == ["ReduceMean"]


def test_a_spatial_mean_that_is_taken_off_stays() -> None:
    graph = net("m = ReduceMean <axes = [2,3]> (x)\n y = Sub(x, m)")
    assert ops(canonical(graph)) == ["ReduceMean", "Sub"]


# -- LayerNormalization ----------------------------------------------------------------------------

CENTRE = "m = ReduceMean <axes = [-1]> (x)\n d = Sub(x, m)\n"
SPREAD = "v = ReduceMean <axes = [-1]> (q)\n e = Add(v, eps)\n s = Sqrt(e)\n n = Div(d, s)\n"
LAYER = {
    "two": np.float32(2), "eps": np.float32(1e-5), "gamma": noise(8), "beta": noise(8, seed=1),
    "row": noise(3, 1),
}  # fmt: skip


@pytest.mark.parametrize("square", ["q = Pow(d, two)\n", "q = Mul(d, d)\n"])
@pytest.mark.parametrize(
    "affine", ["g = Mul(n, gamma)\n y = Add(g, beta)", "g = Mul(gamma, n)\n y = Add(beta, g)"]
)
def test_layer_normalization(square: str, affine: str) -> None:
    graph = net(CENTRE + square + SPREAD + affine, "float[2,3,8] x", **LAYER)
    assert ops(canonical(graph)) == ["LayerNormalization"]


def test_layer_normalization_over_several_axes() -> None:
    body = (CENTRE + "q = Mul(d, d)\n" + SPREAD).replace("[-1]", "[1,2]")
    graph = net(body + "y = Exp(n)", "float[2,3,8] x", **LAYER)
    assert ops(canonical(graph)) == ["LayerNormalization", "Exp"]
    assert only(graph, "LayerNormalization").attrs["axis"] == -2


def test_layer_normalization_without_bias() -> None:
    body = CENTRE + "q = Mul(d, d)\n" + SPREAD + "y = Mul(n, gamma)"
    graph = net(body, "float[2,3,8] x", **LAYER)
    assert ops(canonical(graph)) == ["LayerNormalization"]


def test_a_factor_of_another_axis_is_not_its_scale() -> None:
    graph = net(CENTRE + "q = Mul(d, d)\n" + SPREAD + "y = Mul(n, row)", "float[2,3,8] x", **LAYER)
    assert ops(canonical(graph)) == ["LayerNormalization", "Mul"]


def test_layer_normalization_is_left_written_out_before_it_was_an_operator() -> None:
    body = CENTRE + "q = Mul(d, d)\n" + SPREAD + "y = Exp(n)"
    graph = net(body, "float[2,3,8] x", opset=13, **LAYER)
    assert "Div" in ops(canonical(graph))


@pytest.mark.parametrize(
    "change_", [("[-1]> (q)", "[1]> (q)"), ("Mul(d, d)", "Mul(d, x)"), ("Sub(x, m)", "Sub(m, x)")]
)
def test_what_only_looks_like_it_stays(change_: tuple[str, str]) -> None:
    body = (CENTRE + "q = Mul(d, d)\n" + SPREAD).replace(*change_)
    graph = net(body + "y = Exp(n)", "float[2,3,8] x", **LAYER)
    change(Canonicalize(), graph)
    assert "LayerNormalization" not in ops(graph)


def test_a_centred_value_read_elsewhere_keeps_the_written_form() -> None:
    graph = net(CENTRE + "q = Mul(d, d)\n" + SPREAD + "y = Add(n, d)", "float[2,3,8] x", **LAYER)
    assert "LayerNormalization" not in ops(canonical(graph))


# -- attributes ------------------------------------------------------------------------------------


WINDOWS = [
    (op, kernel, stride, mode)
    for op in ("Conv", "ConvTranspose", "MaxPool", "AveragePool")
    for kernel in (1, 2, 3)
    for stride in (1, 2, 3)
    for mode in ("SAME_UPPER", "SAME_LOWER", "VALID")
    if kernel >= stride or mode == "VALID" or "Conv" in op  # others ONNX Runtime does not run
]


@pytest.mark.parametrize(("op", "kernel", "stride", "mode"), WINDOWS)
def test_automatic_padding_becomes_explicit(op: str, kernel: int, stride: int, mode: str) -> None:
    window = f'strides = [{stride},{stride}], auto_pad = "{mode}"'
    if op in ("Conv", "ConvTranspose"):
        call = f"{op} <{window}> (x, w)"
    else:
        call = f"{op} <{window}, kernel_shape = [{kernel},{kernel}]> (x)"
    graph = net(f"y = {call}", "float[1,4,7,6] x", w=noise(4, 4, kernel, kernel))
    report = apply(Canonicalize(), graph)
    node = only(graph, op)
    assert ("auto_pad" in node.attrs) == bool(report.skipped)
    assert report.skipped == {} or (op == "ConvTranspose" and kernel < stride)


def test_automatic_padding_of_unknown_sizes_stays_unless_the_stride_is_one() -> None:
    body = 'y = Conv <auto_pad = "SAME_UPPER"> (x, w)'
    graph = net(body, "float[1,4,h,w] x", w=noise(4, 4, 3, 3))
    change(Canonicalize(), graph)
    assert only(graph, "Conv").attrs["pads"] == [1, 1, 1, 1]
    body = 'y = Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (x, w)'
    graph = net(body, "float[1,4,h,w] x", w=noise(4, 4, 3, 3))
    report = change(Canonicalize(), graph)
    assert list(report.skipped) == ["the shape of its input is not known"]


def test_a_wanted_output_shape_becomes_padding() -> None:
    graph = net(
        "y = ConvTranspose <strides = [2,2], output_shape = [12,13]> (x, w)", w=noise(4, 2, 3, 3)
    )
    assert "output_shape" not in only(canonical(graph), "ConvTranspose").attrs


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("Conv(x, w)", {"group": 1, "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1],
                        "kernel_shape": [3, 3]}),
        ("ConvTranspose(x, w)", {"group": 1, "strides": [1, 1], "pads": [0, 0, 0, 0],
                                 "dilations": [1, 1], "kernel_shape": [3, 3],
                                 "output_padding": [0, 0]}),
        ("MaxPool <kernel_shape = [2,2]> (x)", {"strides": [1, 1], "pads": [0, 0, 0, 0],
                                                "dilations": [1, 1], "ceil_mode": 0}),
        ("LeakyRelu(x)", {"alpha": 0.01}),
        ("HardSigmoid(x)", {"alpha": 0.2, "beta": 0.5}),
        ("Softmax(x)", {"axis": -1}),
        ("ReduceMax(x)", {"keepdims": 1}),
    ],
)  # fmt: skip
def test_defaults_are_written_out(op: str, expected: dict[str, object]) -> None:
    graph = canonical(net(f"y = {op}", w=noise(4, 4, 3, 3)))
    (node,) = graph
    assert {name: node.attrs[name] for name in expected} == expected


@pytest.mark.parametrize("opset", [17, 20, 22])
@pytest.mark.parametrize("given", ["", "dilations = [1,1], "])
def test_a_mean_without_dilations_has_no_attribute_for_them(opset: int, given: str) -> None:
    """The operator that ONNX Runtime makes of an AveragePool between integers has none."""
    if opset < 19 and given:
        return
    graph = net(f"y = AveragePool <{given}kernel_shape = [2,2]> (x)", opset=opset)
    attrs = only(canonical(graph), "AveragePool").attrs
    assert "dilations" not in attrs and attrs["strides"] == [1, 1]


@pytest.mark.parametrize(
    ("attributes", "converted"),
    [
        ("strides = [2,1]", True),
        ("pads = [1,1,1,1], count_include_pad = 1", True),
        ("pads = [1,1,1,1]", False),
        ("ceil_mode = 1", False),
    ],
)
def test_a_dilated_mean_is_a_convolution(attributes: str, converted: bool) -> None:
    window = "kernel_shape = [2,2], dilations = [2,1]"
    graph = net(f"y = AveragePool <{window}, {attributes}> (x)", opset=20)
    assert ops(canonical(graph)) == (["Conv"] if converted else ["AveragePool"])


def test_a_second_run_changes_nothing() -> None:
    graph = canonical(
        net("p = Pad(x, pads)\n c = Conv(p, w)\n r = Relu(c)\n s = Sub(r, b)\n y = Div(s, b)",
            w=noise(4, 4, 3, 3), pads=PADS, b=noise(4, 1, 1, positive=True))
    )  # fmt: skip
    version = graph.version
    assert apply(Canonicalize(), graph).rewritten == 0
    assert graph.version == version
    assert operand(only(graph, "Conv"), 0) is graph.inputs[0]
