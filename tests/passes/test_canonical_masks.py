"""Masks of -inf or -3e38 before Softmax become values that a grid can hold."""

import numpy as np
import pytest
from rewriting import apply, change, net, ops

from ptq_opt.ir import Graph
from ptq_opt.passes import Report
from ptq_opt.passes.canonical.masks import MASK
from ptq_opt.passes.canonicalize import Canonicalize

LOWEST = np.finfo(np.float32).min
CAUSAL = np.triu(np.ones((6, 6), bool), 1)


def smallest(graph: Graph) -> float:
    """The smallest element of all constants, also those in bodies."""
    constants = [v.numpy() for part in graph.graphs() for v in part.values() if v.is_constant]
    return min(float(array.min()) for array in constants if array.dtype.kind == "f")


def notes(graph: Graph) -> list[str]:
    report: Report = apply(Canonicalize(), graph, 1e-6)
    return report.notes


@pytest.mark.parametrize("lowest", [-np.inf, LOWEST, -1e32])
def test_a_constant_mask_added_to_scores(lowest: float) -> None:
    mask = np.where(CAUSAL, lowest, 0).astype(np.float32)
    graph = net("m = Add(x, mask)\n y = Softmax(m)", mask=mask)
    assert notes(graph) == [f"mask 'mask' clipped from {np.float32(lowest):.3g} to -10000"]
    assert smallest(graph) == MASK


def test_a_mask_that_is_chosen_by_a_condition() -> None:
    graph = net(
        "c = Greater(x, zero)\n m = Where(c, x, low)\n y = Softmax(m)",
        zero=np.float32(0), low=np.float32(-np.inf),
    )  # fmt: skip
    change(Canonicalize(), graph)
    assert smallest(graph) == MASK


def test_a_mask_that_is_computed_from_an_input() -> None:
    graph = net(
        "i = Cast <to = 1> (keep)\n j = Sub(one, i)\n k = Mul(j, low)\n l = Unsqueeze(k, axes)\n"
        "m = Add(x, l)\n y = Softmax(m)",
        "float[1,4,6,6] x, int64[1,6] keep",
        one=np.float32(1), low=np.float32(LOWEST), axes=np.array([1, 2]),
    )  # fmt: skip
    assert notes(graph) == ["mask 'low' clipped from -3.4e+38 to -10000"]


def test_a_row_that_is_masked_as_a_whole_keeps_its_mask() -> None:
    mask = np.where(np.eye(6, k=1), LOWEST, 0).astype(np.float32)
    mask[3] = LOWEST
    graph = net("m = Add(x, mask)\n y = Softmax(m)", mask=mask)
    assert notes(graph) == ["'mask' holds -3.4e+38, read by Add"]
    assert smallest(graph) == LOWEST


@pytest.mark.parametrize(
    "end", ["y = Sigmoid(m)", "y = Softmax(m)\n z = Abs(m)", "y = LogSoftmax(m)", "y = Exp(m)"]
)
def test_what_does_not_only_go_to_softmax_stays(end: str) -> None:
    mask = np.where(CAUSAL, LOWEST, 0).astype(np.float32)
    outputs = "float[] y, float[] z" if "z =" in end else "float[] y"
    graph = net(f"m = Add(x, mask)\n {end}", outputs=outputs, mask=mask)
    assert notes(graph) == ["'mask' holds -3.4e+38, read by Add"]


def test_a_masked_tensor_that_the_graph_returns_stays() -> None:
    mask = np.where(CAUSAL, LOWEST, 0).astype(np.float32)
    graph = net("m = Add(x, mask)\n y = Softmax(m)", outputs="float[] y, float[] m", mask=mask)
    assert smallest(graph) == LOWEST
    apply(Canonicalize(), graph)
    assert smallest(graph) == LOWEST


def test_ordinary_constants_are_not_mentioned() -> None:
    mask = np.where(CAUSAL, -1e4, 0).astype(np.float32)
    graph = net("m = Add(x, mask)\n y = Softmax(m)", mask=mask)
    assert notes(graph) == []


def test_masks_inside_bodies() -> None:
    low = f"c = Constant <value_float = {LOWEST}> ()"
    graph = net(
        f"""y = If (p) <
            then_branch = t () => (float[] a) {{
                {low}  g = Greater(x, x)  m = Where(g, c, x)  a = Softmax(m) }},
            else_branch = e () => (float[] b) {{ b = Softmax(x) }}
        >""",
        inputs="bool p, float[2,3] x",
    )
    assert len(notes(graph)) == 1
    assert ops(list(graph.graphs())[1]) == ["Greater", "Where", "Softmax"]
