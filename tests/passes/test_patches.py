"""Rows of patches times rows of weights are the layer's output."""

import numpy as np
import pytest
from rewriting import net, noise, operand

from ptq_opt.ir.evaluate import Runner
from ptq_opt.passes import patches


@pytest.mark.parametrize(
    ("op", "shape", "weights"),
    [
        ("Conv", (2, 4, 9, 8), (6, 4, 3, 3)),
        ("Conv <pads = [1,0,2,1]>", (2, 4, 9, 8), (6, 4, 3, 2)),
        ("Conv <strides = [2,3], dilations = [2,1], pads = [2,2,2,2]>", (2, 4, 9, 8), (6, 4, 3, 3)),
        ("Conv <group = 2>", (1, 4, 9, 8), (6, 2, 3, 3)),
        ("Conv <group = 4, pads = [1,1,1,1]>", (1, 4, 9, 8), (4, 1, 3, 3)),
        ("Conv <strides = [2]>", (2, 4, 11), (6, 4, 3)),
        ("Conv <pads = [1,1,1,1,1,1]>", (1, 2, 5, 6, 4), (3, 2, 3, 3, 3)),
        ("Gemm", (5, 4), (4, 6)),
        ("Gemm <transB = 1>", (5, 4), (6, 4)),
        ("MatMul", (2, 3, 5, 4), (4, 6)),
    ],
)
def test_rows(op: str, shape: tuple[int, ...], weights: tuple[int, ...]) -> None:
    name, _, attrs = op.partition(" ")
    dims = ",".join(map(str, shape))
    graph = net(f"y = {name} {attrs} (x, w)", f"float[{dims}] x", w=noise(*weights))
    node, data = graph.order()[0], noise(*shape, seed=2)
    output = Runner(graph).run({"x": data})[0]
    picked = np.random.default_rng(0).permutation(patches.places(node, output))[:20]
    w = operand(node, 1).numpy()
    rows = patches.as_rows(node, w)
    found = np.einsum("pgk,gmk->pgm", patches.inputs(node, data, output.shape, picked), rows)
    expected = patches.outputs(node, output, picked)
    np.testing.assert_allclose(found.reshape(len(picked), -1), expected, atol=1e-4)
    assert np.array_equal(patches.as_weights(node, rows, w.shape), w)
