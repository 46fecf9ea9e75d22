"""Operators that change nothing are gone, others stay."""

import numpy as np
import pytest
from rewriting import apply, change, net, noise, only, operand, ops

from ptq_opt.ir import Graph
from ptq_opt.passes.canonicalize import Canonicalize


def canonical(graph: Graph) -> Graph:
    apply(Canonicalize(), graph)
    return graph


BIG = np.iinfo(np.int64).max
CONSTANTS = {
    "same": np.array([1, 4, 6, 6]),
    "kept": np.array([0, 0, -1, 0]),
    "zero": np.zeros(8, np.int64),
    "start": np.array([0, 0]),
    "end": np.array([6, BIG]),
    "axes": np.array([2, -1]),
    "ones": np.array([1, 1, 1, 1]),
    "six": np.array([6, 6]),
    "no": np.array(False),
    "half": np.float32(0.5),
}


@pytest.mark.parametrize(
    "op",
    [
        "Identity(n)",
        "Dropout(n)",
        "Dropout(n, half)",
        "Dropout(n, half, no)",
        "Cast <to = 1> (n)",
        "Reshape(n, same)",
        "Reshape(n, kept)",
        "Expand(n, six)",
        "Expand(n, ones)",
        "Tile(n, ones)",
        "Transpose <perm = [0,1,2,3]> (n)",
        "Slice(n, start, end, axes)",
        "Pad(n, zero)",
        "Concat <axis = 1> (n)",
        "Sum(n)",
        "Max(n)",
        "Min(n)",
        "Mean(n)",
        "Clip(n)",
    ],
)
def test_gone(op: str) -> None:
    graph = net(f"n = Neg(x)\n i = {op}\n y = Exp(i)", **CONSTANTS)
    assert ops(canonical(graph)) == ["Neg", "Exp"]


@pytest.mark.parametrize(
    "op",
    [
        "Dropout(n, half, yes)",
        "Cast <to = 11> (n)",
        "Reshape(n, other)",
        "Expand(n, more)",
        "Tile(n, twice)",
        "Transpose <perm = [0,1,3,2]> (n)",
        "Transpose(n)",
        "Slice(n, start, end)",
        "Slice(n, start, minus)",
        "Slice(n, one, end)",
        "Slice(n, start, big, axes, back)",
        "Pad(n, one8)",
        "Concat <axis = 1> (n, n)",
        "Clip(n, half)",
    ],
)
def test_stays(op: str) -> None:
    graph = net(
        f"n = Neg(x)\n i = {op}\n y = Exp(i)",
        "float[1,1,6,7] x",
        yes=np.array(True), half=np.float32(0.5), other=np.array([1, 1, 7, 6]),
        more=np.array([2, 1, 6, 7]), twice=np.array([1, 2, 1, 1]), start=np.array([0, 0]),
        end=np.array([1, 0]), minus=np.array([BIG, -1]), one=np.array([1, 0]),
        big=np.array([-BIG, -BIG]), axes=np.array([2, 3]), back=np.array([-1, -1]),
        one8=np.ones(8, np.int64),
    )  # fmt: skip
    change(Canonicalize(), graph)
    assert len(graph) >= 3 and op.split("(")[0].split()[0] in {*ops(graph), "Min", "Max"}


def test_flatten_of_a_matrix() -> None:
    graph = net("n = Neg(x)\n y = Flatten(n)", "float[3,5] x")
    assert ops(canonical(graph)) == ["Neg"]


def test_a_dropout_whose_mask_is_read_stays() -> None:
    graph = net("y, m = Dropout(x)", outputs="float[] y, bool[] m")
    assert ops(canonical(graph)) == ["Dropout"]


def test_no_op_of_a_graph_input_on_a_graph_output() -> None:
    graph = net("y = Identity(x)\n z = Identity(x)", outputs="float[] y, float[] z")
    assert ops(canonical(graph)) == []
    assert graph.output_names == ["y", "z"]


def test_a_no_op_cast_on_a_graph_output() -> None:
    graph = net("n = Neg(x)\n y = Cast <to = 1> (n)", outputs="float[] y, float[] n")
    assert ops(canonical(graph)) == ["Neg"]


def test_one_tensor_behind_several_identities() -> None:
    graph = net(
        "a = Identity(w)\n b = Identity(w)\n c = Conv(x, a)\n d = Conv(x, b)\n y = Sub(c, d)",
        w=noise(2, 4, 1, 1),
    )
    canonical(graph)
    first, second = (node for node in graph if node.op == "Conv")
    assert operand(first, 1) is operand(second, 1)


def test_transposes_that_undo_each_other() -> None:
    graph = net(
        "n = Neg(x)\n a = Transpose <perm = [0,2,3,1]> (n)\n b = Transpose <perm = [0,3,1,2]> (a)\n"
        "y = Exp(b)"
    )
    assert ops(canonical(graph)) == ["Neg", "Exp"]


def test_transposes_merge() -> None:
    graph = net("a = Transpose <perm = [0,2,3,1]> (x)\n y = Transpose <perm = [3,0,2,1]> (a)",
                "float[2,3,4,5] x")  # fmt: skip
    assert ops(canonical(graph)) == ["Transpose"]


def test_a_transpose_that_is_read_elsewhere_stays() -> None:
    graph = net(
        "a = Transpose <perm = [0,2,3,1]> (x)\n b = Transpose <perm = [0,3,1,2]> (a)\n"
        "y = Exp(b)\n z = Exp(a)",
        outputs="float[] y, float[] z",
    )
    assert ops(canonical(graph)).count("Transpose") == 2


def test_reshapes_merge() -> None:
    graph = net(
        "a = Reshape(x, flat)\n y = Reshape(a, shape)",
        flat=np.array([-1]), shape=np.array([2, 8, 9]),
    )  # fmt: skip
    assert ops(canonical(graph)) == ["Reshape"]


def test_a_reshape_that_copies_a_size_does_not_merge() -> None:
    graph = net(
        "a = Reshape(x, first)\n y = Reshape(a, second)", "float[2,n] x",
        first=np.array([-1, 2]), second=np.array([0, 1, 2]),
    )  # fmt: skip
    change(Canonicalize(), graph)
    assert ops(graph) == ["Reshape", "Reshape"]


def test_a_reshape_of_dynamic_sizes_to_the_same_sizes() -> None:
    graph = net("n = Neg(x)\n y = Reshape(n, s)", "float[n,3,m] x", s=np.array([0, 3, -1]))
    change(Canonicalize(), graph)
    assert ops(graph) == ["Neg"]


def test_dead_operators_go() -> None:
    graph = net("a = Neg(x)\n b = Exp(a)\n y = Abs(x)")
    assert ops(canonical(graph)) == ["Abs"]


def test_bodies_keep_reading_the_right_value() -> None:
    graph = net(
        """i = Identity(x)
        y = If (p) <
            then_branch = t () => (float[] a) { a = Neg(i) },
            else_branch = e () => (float[] b) { b = Identity(i) }
        >""",
        inputs="bool p, float[2] x",
    )
    assert [ops(part) for part in canonical(graph).graphs()] == [["If"], ["Neg"], []]


def test_unnamed_nodes() -> None:
    graph = net("i = Identity(x)\n y = Neg(i)")
    for node in graph:
        node.name = ""
    assert operand(only(canonical(graph), "Neg"), 0) is graph.inputs[0]
