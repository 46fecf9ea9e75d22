"""Ranges by what the outputs lose: `calibrate{method=auto}`."""

import numpy as np
import pytest
from rewriting import net

from ptq_opt.ir.grid_rule import GridRule
from ptq_opt.ir.samples import open_samples
from ptq_opt.ir.target import find_target
from ptq_opt.passes import Context, Pipeline
from ptq_opt.passes.ranges import finer_weights

ORT = find_target("ort-cpu")
SHAPE = "float[1,4,16,16] x"


def upper_end(weights: str) -> float:
    """Of the range of `t`, of which a quarter of the samples have outliers."""
    rng = np.random.default_rng(4)
    w = rng.standard_normal((8, 4, 3, 3)).astype(np.float32)
    v = (0.03 * rng.standard_normal((6, 8, 3, 3))).astype(np.float32)
    graph = net("r = Conv (x, w) t = Relu (r) u = Conv (t, v) y = Tanh (u)", SHAPE, w=w, v=v)
    data = rng.standard_normal((16, 1, 4, 16, 16)).astype(np.float32)
    data[::4, 0, 0, 3, :3] = 20
    context = Context(ORT.storing(weights), open_samples([{"x": x} for x in data], graph.inputs))
    Pipeline("calibrate").run(graph, context)
    assert context.calibration is not None
    return float(context.calibration.ranges["t"].high)


@pytest.mark.parametrize("weights", ["int4", "uint4", "int4:block=2"])
def test_errors_of_few_bits_do_not_choose_the_ranges_of_activations(weights: str) -> None:
    assert upper_end(weights) == upper_end("int8")


def test_weights_of_few_bits_have_8_while_ranges_are_chosen() -> None:
    target = ORT.storing("int4:block=32,asymmetric", layers=["head=int16", "stem=uint4"])
    finer = finer_weights(target)
    eight = GridRule(symmetric=True, per_channel=True)
    assert finer.weights == eight
    assert dict(finer.layers) == {"head": dict(target.layers)["head"], "stem": eight}
    assert finer_weights(ORT) == ORT
    assert finer_weights(ORT.storing("none")).weights is None
