"""Where BatchNormalization and per-channel constants can go, and where they have to stay."""

import numpy as np
import pytest
from rewriting import apply, net, noise, normalization, only, operand, ops

from ptq_opt.ir import Graph
from ptq_opt.ir.tensor import Array
from ptq_opt.passes.canonicalize import Canonicalize
from ptq_opt.passes.fold_bn import FoldBatchNorm

BN = "BatchNormalization(c, gamma, beta, mean, var)"


def folded(graph: Graph) -> Graph:
    """After canonicalize and fold-bn."""
    apply(Canonicalize(), graph)
    apply(FoldBatchNorm(), graph)
    return graph


def reasons(graph: Graph) -> list[str]:
    apply(Canonicalize(), graph)
    return list(apply(FoldBatchNorm(), graph).skipped)


# -- backwards into the producer -------------------------------------------------------------------


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("bias", ["", ", b"])
def test_into_a_convolution(group: int, bias: str) -> None:
    graph = net(
        f"c = Conv <group = {group}, pads = [1,1,1,1]> (x, w{bias})\n y = {BN}",
        w=noise(8, 4 // group, 3, 3), b=noise(8), **normalization(8),
    )  # fmt: skip
    assert ops(folded(graph)) == ["Conv"]


@pytest.mark.parametrize("group", [1, 2, 4])
def test_into_a_transposed_convolution(group: int) -> None:
    graph = net(
        f"c = ConvTranspose <group = {group}, strides = [2,2]> (x, w, b)\n y = {BN}",
        w=noise(4, 2, 3, 3), b=noise(2 * group), **normalization(2 * group),
    )  # fmt: skip
    assert ops(folded(graph)) == ["ConvTranspose"]


@pytest.mark.parametrize("attrs", ["", "<transB = 1>", "<alpha = 0.5, beta = 2.0>"])
def test_into_a_gemm(attrs: str) -> None:
    weight = noise(5, 3) if "transB" in attrs else noise(3, 5)
    graph = net(
        f"c = Gemm {attrs} (x, w, b)\n y = {BN}", "float[2,3] x",
        w=weight, b=noise(5), **normalization(5),
    )  # fmt: skip
    assert ops(folded(graph)) == ["Gemm"]


def test_into_a_gemm_with_a_scalar_bias() -> None:
    graph = net(
        f"c = Gemm (x, w, b)\n y = {BN}", "float[2,3] x",
        w=noise(3, 5), b=noise(1), **normalization(5),
    )  # fmt: skip
    assert ops(folded(graph)) == ["Gemm"]


def test_a_matrix_product_becomes_a_gemm_to_have_a_bias() -> None:
    graph = net(f"c = MatMul(x, w)\n y = {BN}", "float[2,3] x", w=noise(3, 5), **normalization(5))
    assert ops(folded(graph)) == ["Gemm"]


def test_a_factor_goes_into_a_batched_matrix_product_the_sum_stays() -> None:
    graph = net(
        "c = MatMul(x, w)\n d = Mul(c, s)\n y = Add(d, t)", "float[2,4,3] x",
        w=noise(3, 5), s=noise(5), t=noise(5),
    )  # fmt: skip
    assert ops(folded(graph)) == ["MatMul", "Add"]


def test_negative_and_zero_gamma() -> None:
    gamma = np.array([-2, 0, 1e-20, 3], np.float32)
    graph = net(f"c = Conv(x, w)\n y = {BN}", w=noise(4, 4, 1, 1), **normalization(4, gamma=gamma))
    weight = operand(only(folded(graph), "Conv"), 1).numpy()
    assert not weight[1].any() and weight[0].any()


def test_epsilon_counts() -> None:
    parameters = normalization(4, var=np.full(4, 1e-6, np.float32))
    graph = net(
        "c = Conv(x, w)\n"
        "y = BatchNormalization <epsilon = 0.001> (c, gamma, beta, mean, var)",
        w=noise(4, 4, 1, 1), **parameters,
    )  # fmt: skip
    assert ops(folded(graph)) == ["Conv"]


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (1, 1, 1), (), (1,)])
def test_constants_after_a_convolution(shape: tuple[int, ...]) -> None:
    graph = net(
        "c = Conv(x, w)\n d = Mul(s, c)\n y = Add(d, t)",
        w=noise(4, 4, 1, 1), s=noise(*shape), t=noise(*shape, seed=1),
    )  # fmt: skip
    assert ops(folded(graph)) == ["Conv"]


def test_a_constant_that_differs_from_position_to_position_stays() -> None:
    graph = net("c = Conv(x, w)\n y = Add(c, t)", w=noise(4, 4, 1, 1), t=noise(4, 6, 6))
    assert reasons(graph) == ["it differs from position to position"]
    assert ops(graph) == ["Conv", "Add"]


def test_a_constant_of_the_last_axis_is_no_channel() -> None:
    graph = net("c = Conv(x, w)\n y = Mul(c, t)", w=noise(4, 4, 1, 1), t=noise(6))
    assert ops(folded(graph)) == ["Conv", "Mul"]


def test_a_constant_that_makes_the_result_larger_stays() -> None:
    graph = net("c = Conv(x, w)\n y = Mul(c, t)", w=noise(1, 4, 1, 1), t=noise(4, 1, 1))
    assert ops(folded(graph)) == ["Conv", "Mul"]


def test_two_normalizations_in_a_row() -> None:
    graph = net(
        f"c0 = Conv(x, w)\n c = {BN.replace('(c,', '(c0,')}\n y = {BN}",
        w=noise(4, 4, 1, 1), **normalization(4),
    )  # fmt: skip
    assert ops(folded(graph)) == ["Conv"]


def test_shared_weights_are_not_changed_for_the_other_reader() -> None:
    graph = net(
        f"c = Conv(x, w, b)\n n = {BN}\n d = Conv(x, w, b)\n y = Add(n, d)",
        w=noise(4, 4, 1, 1), b=noise(4), **normalization(4),
    )  # fmt: skip
    assert ops(folded(graph)) == ["Conv", "Conv", "Add"]


def test_the_result_stands_for_the_normalized_tensor() -> None:
    graph = folded(
        net(f"c = Conv(x, w)\n n = {BN}\n y = Relu(n)", w=noise(4, 4, 1, 1), **normalization(4))
    )
    conv = only(graph, "Conv")
    assert (conv.output.name, conv.output.origin) == ("n", "n")
    assert operand(conv, 1).name == "w"


# -- through other operators -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "op",
    ["Relu(c0)", "LeakyRelu <alpha = 0.2> (c0)", "PRelu(c0, slope)", "AbsMax(c0)"],
)
def test_positive_factors_pass_activation_functions(op: str) -> None:
    through = not op.startswith("AbsMax")
    graph = net(
        f"c0 = Conv(x, w)\n c = {op if through else 'Abs(c0)'}\n y = Mul(c, s)",
        w=noise(4, 4, 1, 1), slope=noise(4, 1, 1), s=noise(4, 1, 1, positive=True),
    )  # fmt: skip
    assert len(folded(graph)) == (2 if through else 3)


def test_batch_normalization_after_relu_leaves_one_sum() -> None:
    parameters = normalization(4)
    parameters["gamma"] = np.abs(parameters["gamma"])
    graph = net(
        f"c0 = Conv(x, w)\n c = Relu(c0)\n n = {BN}\n"
        "y = Conv <pads = [1,1,1,1]> (n, v)",
        w=noise(4, 4, 1, 1), v=noise(2, 4, 3, 3), **parameters,
    )  # fmt: skip
    assert ops(folded(graph)) == ["Conv", "Relu", "Add", "Conv"]


def test_the_sign_of_negative_factors_goes_on_forwards() -> None:
    graph = net(
        f"c0 = Conv(x, w)\n c = Relu(c0)\n n = {BN}\n y = Conv <pads = [1,1,1,1]> (n, v)",
        w=noise(4, 4, 1, 1), v=noise(2, 4, 3, 3),
        **normalization(4, gamma=np.array([-1, 2, -3, 0], np.float32)),
    )  # fmt: skip
    assert ops(folded(graph)) == ["Conv", "Relu", "Add", "Conv"]


def test_the_sum_moves_behind_max_pooling() -> None:
    parameters = normalization(4)
    parameters["gamma"] = np.abs(parameters["gamma"])
    graph = net(
        f"c0 = Conv(x, w)\n c = Relu(c0)\n n = {BN}\n"
        "y = MaxPool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]> (n)",
        w=noise(4, 4, 1, 1), **parameters,
    )  # fmt: skip
    assert ops(folded(graph)) == ["Conv", "Relu", "MaxPool", "Add"]


@pytest.mark.parametrize(
    "pool",
    [
        "AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (c0)",
        "AveragePool <kernel_shape = [2,2], count_include_pad = 1> (c0)",
        "GlobalAveragePool(c0)",
    ],
)
def test_normalization_passes_means(pool: str) -> None:
    graph = net(f"c0 = Conv(x, w)\n c = {pool}\n y = {BN}", w=noise(4, 4, 1, 1), **normalization(4))
    assert len(folded(graph)) == 2


def test_a_sum_does_not_pass_a_mean_that_counts_padding() -> None:
    pool = "AveragePool <kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1> (c0)"
    graph = net(f"c0 = Conv(x, w)\n c = {pool}\n y = {BN}", w=noise(4, 4, 1, 1), **normalization(4))
    assert ops(folded(graph)) == ["Conv", "AveragePool", "Add"]


def test_negative_factors_do_not_pass_max_pooling() -> None:
    graph = net(
        f"c0 = Conv(x, w)\n c = MaxPool <kernel_shape = [2,2]> (c0)\n y = {BN}",
        w=noise(2, 4, 1, 1), **normalization(2, gamma=np.array([1, -1], np.float32)),
    )  # fmt: skip
    assert "not folded backwards: MaxPool beside it lets only positive factors pass" in reasons(
        graph
    )


def test_normalization_after_concat_goes_into_each_branch() -> None:
    graph = net(
        "a = Conv(x, w)\n b0 = Conv(x, v)\n b = Relu(b0)\n c = Concat <axis = 1> (a, b)\n"
        "y = Mul(c, s)",
        w=noise(2, 4, 1, 1), v=noise(3, 4, 1, 1), s=noise(5, 1, 1, positive=True),
    )  # fmt: skip
    assert ops(folded(graph)) == ["Conv", "Conv", "Relu", "Concat"]


def test_relu_after_concat_follows_the_normalization_into_the_branches() -> None:
    graph = net(
        f"r = Relu(x)\n c = Conv(r, w)\n b = {BN}\n a = Concat <axis = 1> (b, r)\n y = Relu(a)",
        w=noise(2, 4, 1, 1), **normalization(2),
    )  # fmt: skip
    assert ops(folded(graph)) == ["Relu", "Conv", "Relu", "Concat"]


def test_normalization_after_concat_stays_when_a_branch_is_read_elsewhere() -> None:
    graph = net(
        "a = Conv(x, w)\n b = Conv(x, v)\n c = Concat <axis = 1> (a, b)\n"
        f"y = {BN}\n z = Neg(a)", outputs="float[] y, float[] z",
        w=noise(2, 4, 1, 1), v=noise(3, 4, 1, 1), **normalization(5),
    )  # fmt: skip
    assert "not folded backwards: what is before it is read elsewhere or returned" in reasons(graph)
    assert "Concat" in ops(graph) and "Mul" in ops(graph)


@pytest.mark.parametrize(
    ("move", "shape"),
    [
        ("Transpose <perm = [0,2,3,1]> (c)", (4,)),
        ("Transpose <perm = [1,0,3,2]> (c)", (4, 1, 1, 1)),
        ("Squeeze(c, first)", (4, 1, 1)),
        ("Unsqueeze(c, first)", (1, 4, 1, 1)),
    ],
)
def test_constants_pass_data_movement_backwards(move: str, shape: tuple[int, ...]) -> None:
    graph = net(
        f"c = Conv(x, w)\n m = {move}\n d = Mul(m, s)\n y = Add(d, t)",
        w=noise(4, 4, 1, 1), s=noise(*shape), t=noise(*shape, seed=1), first=np.array([0]),
    )  # fmt: skip
    assert ops(folded(graph)) == ["Conv", move.split("(")[0].split()[0]]


def test_axes_may_be_a_scalar() -> None:
    """Against the standard, but ONNX Runtime takes it."""
    graph = net(
        "m = Add(x, s)\n q = Unsqueeze(m, first)\n y = Neg(q)",
        s=noise(1, 4, 1, 1), first=np.array(0),
    )  # fmt: skip
    assert ops(folded(graph)) == ["Add", "Unsqueeze", "Neg"]


def test_normalization_of_a_graph_input_is_written_out() -> None:
    graph = net(f"y = {BN.replace('(c,', '(x,')}", **normalization(4))
    assert reasons(graph) == ["not folded backwards: nothing before it can take it in"]
    assert ops(graph) == ["Mul", "Add"]


def test_several_normalizations_of_one_tensor() -> None:
    graph = net(
        f"c = Conv(x, w)\n a = {BN}\n b = BatchNormalization(c, var, beta, mean, var)\n"
        "y = Sub(a, b)",
        w=noise(4, 4, 1, 1), **normalization(4),
    )  # fmt: skip
    folded(graph)
    assert "BatchNormalization" not in ops(graph)


# -- forwards into the readers ---------------------------------------------------------------------


@pytest.mark.parametrize("group", [1, 2, 4])
def test_a_factor_goes_into_the_next_convolution(group: int) -> None:
    graph = net(
        f"s = Sigmoid(x)\n m = Mul(s, f)\n y = Conv <group = {group}, pads = [1,1,1,1]> (m, w)",
        w=noise(8, 4 // group, 3, 3), f=noise(4, 1, 1),
    )  # fmt: skip
    assert ops(folded(graph)) == ["Sigmoid", "Conv"]


@pytest.mark.parametrize("group", [1, 2])
def test_a_factor_goes_into_the_next_transposed_convolution(group: int) -> None:
    graph = net(
        f"s = Sigmoid(x)\n m = Mul(s, f)\n y = ConvTranspose <group = {group}> (m, w)",
        w=noise(4, 3, 2, 2), f=noise(4, 1, 1),
    )  # fmt: skip
    assert ops(folded(graph)) == ["Sigmoid", "ConvTranspose"]


@pytest.mark.parametrize("op", ["Gemm(m, w)", "Gemm <transB = 1> (m, wt)", "MatMul(m, w)"])
def test_a_factor_goes_into_the_next_matrix_product(op: str) -> None:
    graph = net(
        f"s = Sigmoid(x)\n m = Mul(s, f)\n y = {op}", "float[2,3] x",
        w=noise(3, 5), wt=noise(5, 3), f=noise(3),
    )  # fmt: skip
    assert len(folded(graph)) == 2


@pytest.mark.parametrize("group", [1, 2])
def test_normalization_goes_into_unpadded_readers(group: int) -> None:
    graph = net(
        f"c = Sigmoid(x)\n n = {BN}\n a = Conv <group = {group}> (n, w, b)\n"
        "d = Conv(n, v)\n y = Add(a, d)",
        w=noise(2, 4 // group, 3, 3), b=noise(2), v=noise(2, 4, 3, 3), **normalization(4),
    )  # fmt: skip
    assert ops(folded(graph)) == ["Sigmoid", "Conv", "Conv", "Add"]


def test_a_sum_goes_into_the_next_gemm() -> None:
    graph = net(
        "s = Sigmoid(x)\n m = Add(s, t)\n y = Gemm(m, w, b)", "float[2,3] x",
        w=noise(3, 5), b=noise(5), t=noise(3),
    )  # fmt: skip
    assert ops(folded(graph)) == ["Sigmoid", "Gemm"]


@pytest.mark.parametrize(
    "way",
    [
        "Flatten(d)",
        "Reshape(d, flat)",
        "Reshape(t, flat)",
        "Flatten(p)",
        "Flatten(g)",
    ],
)
def test_constants_pass_data_movement_and_pooling_forwards(way: str) -> None:
    moves = {
        "t": "t = Transpose <perm = [0,2,3,1]> (d)\n",
        "p": "p = MaxPool <kernel_shape = [1,1]> (d)\n",
        "g": "g = AveragePool <kernel_shape = [1,1]> (d)\n",
    }
    graph = net(
        "s = Sigmoid(x)\n m = Mul(s, f)\n d = Add(m, f)\n"
        f"{moves.get(way.split('(')[1][0], '')} r = {way}\n y = Gemm(r, w, b)",
        f=noise(4, 1, 1, positive=True), w=noise(144, 5), b=noise(5), flat=np.array([1, -1]),
    )  # fmt: skip
    found = ops(folded(graph))
    assert "Mul" not in found and "Add" not in found


def test_a_positive_factor_passes_relu_forwards() -> None:
    graph = net(
        "s = Neg(x)\n m = Mul(s, f)\n r = Relu(m)\n y = Conv(r, w)",
        f=noise(4, 1, 1, positive=True), w=noise(2, 4, 3, 3),
    )  # fmt: skip
    assert ops(folded(graph)) == ["Neg", "Relu", "Conv"]


def test_the_way_forwards_ends_at_other_readers() -> None:
    graph = net(
        "s = Neg(x)\n m = Mul(s, f)\n r = Relu(m)\n y = Conv(r, w)\n z = Exp(r)",
        outputs="float[] y, float[] z", f=noise(4, 1, 1, positive=True), w=noise(2, 4, 3, 3),
    )  # fmt: skip
    assert "Mul" in ops(folded(graph))


def test_before_a_padded_reader_only_the_factor_goes() -> None:
    graph = net(
        f"c = Sigmoid(x)\n n = {BN}\n y = Conv <pads = [1,1,1,1]> (n, w)", w=noise(2, 4, 3, 3),
        **normalization(4, gamma=np.array([1, 2, -1, 3], np.float32), var=np.ones(4, np.float32)),
    )  # fmt: skip
    assert ops(folded(graph)) == ["Sigmoid", "Add", "Conv"]


def test_factors_far_apart_do_not_move_over_a_sum() -> None:
    gamma = np.array([1, 1000, 1, 1], np.float32)
    graph = net(
        f"c = Sigmoid(x)\n n = {BN}\n y = Conv <pads = [1,1,1,1]> (n, w)", w=noise(2, 4, 3, 3),
        **normalization(4, gamma=gamma, var=np.ones(4, np.float32)),
    )  # fmt: skip
    apply(Canonicalize(), graph)
    apply(FoldBatchNorm(), graph)
    assert ops(graph) == ["Sigmoid", "Mul", "Add", "Conv"]
    apply(FoldBatchNorm(max_spread=1e6), graph)
    assert ops(graph) == ["Sigmoid", "Add", "Conv"]


def test_one_reader_that_cannot_take_it_in_keeps_the_operator() -> None:
    graph = net(
        "s = Sigmoid(x)\n m = Mul(s, f)\n a = Conv(m, w)\n b = Neg(m)",
        outputs="float[] a, float[] b", w=noise(2, 4, 1, 1), f=noise(4, 1, 1),
    )  # fmt: skip
    assert ops(folded(graph)) == ["Sigmoid", "Mul", "Conv", "Neg"]


def test_a_factor_that_the_graph_returns_stays() -> None:
    graph = net(
        "s = Sigmoid(x)\n m = Mul(s, f)\n a = Conv(m, w)",
        outputs="float[] a, float[] m", w=noise(2, 4, 1, 1), f=noise(4, 1, 1),
    )  # fmt: skip
    assert ops(folded(graph)) == ["Sigmoid", "Mul", "Conv"]


def test_weights_shared_by_readers_are_not_scaled_twice() -> None:
    graph = net(
        "s = Sigmoid(x)\n m = Mul(s, f)\n a = Conv(m, w)\n b = Conv(m, w)\n c = Conv(x, w)\n"
        "d = Add(a, b)\n y = Add(c, d)",
        w=noise(4, 4, 1, 1), f=noise(4, 1, 1),
    )  # fmt: skip
    assert ops(folded(graph)).count("Mul") == 0


# -- what stays ------------------------------------------------------------------------------------


def test_a_convolution_that_the_graph_returns_is_not_changed() -> None:
    graph = net(
        f"c = Conv(x, w)\n y = {BN}", outputs="float[] y, float[] c",
        w=noise(4, 4, 1, 1), **normalization(4),
    )  # fmt: skip
    assert "not folded backwards: what is before it is read elsewhere or returned" in reasons(graph)
    assert ops(graph) == ["Conv", "Mul", "Add"]


def test_training_mode_is_left_alone() -> None:
    graph = net(
        "c = Conv(x, w)\n"
        "y, m, v = BatchNormalization <training_mode = 1> (c, gamma, beta, mean, var)",
        w=noise(4, 4, 1, 1), **normalization(4),
    )  # fmt: skip
    assert reasons(graph) == ["it is in training mode"]
    assert ops(graph) == ["Conv", "BatchNormalization"]


def test_parameters_that_are_inputs_are_left_alone() -> None:
    parameters = normalization(4)
    del parameters["gamma"]
    graph = net(
        f"c = Conv(x, w)\n y = {BN}", "float[1,4,6,6] x, float[4] gamma",
        w=noise(4, 4, 1, 1), **parameters,
    )  # fmt: skip
    assert reasons(graph) == ["its parameters are not constant"]


def test_weights_that_callers_may_override_are_left_alone() -> None:
    graph = net(f"c = Conv(x, w)\n y = {BN}", w=noise(4, 4, 1, 1), **normalization(4))
    weight = operand(only(graph, "Conv"), 1)
    weight.overridable = True
    graph.inputs.append(weight)
    apply(Canonicalize(), graph)
    report = apply(FoldBatchNorm(), graph)
    assert "not folded backwards: the weights of Conv are not constant" in report.skipped


def test_weights_that_would_overflow_are_left_alone() -> None:
    weight: Array = np.full((4, 4, 1, 1), 1e30, np.float32)
    graph = net("c = Conv(x, w)\n y = Mul(c, s)", w=weight, s=np.full((4, 1, 1), 1e10, np.float32))
    assert reasons(graph) == ["the folded weights would not be finite"]


def test_integers_are_left_alone() -> None:
    graph = net(
        "y = Mul(x, s)", "int64[2,3] x", "int64[] y", s=np.array([2, 3, 4]),
    )  # fmt: skip
    assert ops(folded(graph)) == ["Mul"]


def test_double_precision_is_kept() -> None:
    graph = net(
        "c = MatMul(x, w)\n d = Mul(c, s)\n y = Add(d, s)", "double[2,4] x", "double[] y",
        w=noise(4, 4).astype(np.float64), s=noise(4).astype(np.float64),
    )  # fmt: skip
    gemm = only(folded(graph), "Gemm")
    assert [operand(gemm, slot).numpy().dtype for slot in (1, 2)] == [np.float64, np.float64]


def test_bodies_are_folded_too() -> None:
    graph = net(
        f"""y = If (p) <
            then_branch = t () => (float[] a) {{ c = Conv(x, w)  a = {BN} }},
            else_branch = e () => (float[] b) {{ b = Neg(x) }}
        >""",
        inputs="bool p, float[1,4,6,6] x",
        w=noise(4, 4, 1, 1),
        **normalization(4),
    )
    # constants of the enclosing graph are not seen as such inside: nothing to fold, nothing broken
    assert ops(folded(graph)) == ["If"]


def test_a_second_run_changes_nothing() -> None:
    graph = net(
        f"c = Conv(x, w)\n n = {BN}\n r = Relu(n)\n m = Mul(r, f)\n y = Add(m, f)",
        w=noise(4, 4, 1, 1), f=noise(4, 1, 1), **normalization(4),
    )  # fmt: skip
    folded(graph)
    assert apply(FoldBatchNorm(), graph).rewritten == 0
