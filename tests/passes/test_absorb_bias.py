"""High-bias absorption: the vector, and where it would not be right."""

import numpy as np
import pytest
from rewriting import net, noise, only, run

from ptq_opt.ir import Graph
from ptq_opt.ir.evaluate import Runner
from ptq_opt.ir.target import find_target
from ptq_opt.ir.tensor import Array
from ptq_opt.passes import Context, Pipeline, Report
from ptq_opt.passes.absorb_bias import AbsorbBias, surplus
from ptq_opt.passes.moments import Statistic

BETA, GAMMA = np.array([5, 1, -2, 5], np.float32), np.array([1, 1, 1, -1], np.float32)


def test_vector_of_the_surplus() -> None:
    found = surplus(Statistic(BETA.astype(float), np.abs(GAMMA).astype(float)), 3)
    assert found.tolist() == [2, 0, 0, 2]


def normalized(body: str, outputs: str = "float[] y", **more: Array) -> Graph:
    """A normalized convolution n, and `body` from n to y."""
    return net(
        f"c = Conv (x, w)\nn = BatchNormalization (c, gamma, beta, mean, var)\n{body}",
        outputs=outputs, w=np.eye(4, dtype=np.float32)[..., None, None], gamma=GAMMA, beta=BETA,
        mean=np.zeros(4, np.float32), var=np.ones(4, np.float32), **more,
    )  # fmt: skip


def absorb(graph: Graph) -> Report:
    context = Context(find_target("ort-cpu"))
    Pipeline("absorb-bias").run(graph, context)
    return context.report


READERS = {
    "conv": ("y = Conv (r, v)", {"v": noise(3, 4, 1, 1)}),
    "strided": ("y = Conv <strides = [2,2]> (r, v, d)", {"v": noise(3, 4, 3, 3), "d": noise(3)}),
    "two": ("p = Conv (r, v)\nq = Conv <group = 2> (r, u)\ny = Add (p, q)",
            {"v": noise(6, 4, 1, 1), "u": noise(6, 2, 1, 1)}),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_elements_above_the_surplus_keep_the_function(name: str) -> None:
    body, more = READERS[name]
    graph = normalized(f"r = Relu (n)\n{body}", **more)
    x = np.random.default_rng(0).uniform(-2.9, 2.9, (1, 4, 6, 6)).astype(np.float32)
    before = Runner(graph).run({"x": x})[0]
    assert absorb(graph).rewritten == 1
    np.testing.assert_allclose(Runner(graph).run({"x": x})[0], before, rtol=1e-4, atol=1e-4)
    bias = next(node for node in graph if node.op == "Conv").inputs[2]
    assert bias is not None
    np.testing.assert_allclose(bias.numpy(), BETA - [2, 0, 0, 2], atol=1e-4)
    assert only(graph, "Relu")


def test_elements_below_come_out_as_the_surplus() -> None:
    graph = normalized(
        "r = Relu (n)\ny = Conv (r, v)", v=np.eye(4, dtype=np.float32)[..., None, None]
    )
    absorb(graph)
    low = np.full((1, 4, 6, 6), -4, np.float32)
    found = Runner(graph).run({"x": low})[0][0, :, 0, 0]
    assert found[0] == pytest.approx(2, abs=1e-4)  # 1 before


def test_statistics_follow() -> None:
    graph = normalized("r = Relu (n)\ny = Conv (r, v)", v=noise(3, 4, 1, 1))
    context = Context(find_target("ort-cpu"))
    Pipeline("absorb-bias").run(graph, context)
    np.testing.assert_allclose(context.statistics["n"].mean, BETA - [2, 0, 0, 2], atol=1e-4)


STAYS = {
    "padding": ("r = Relu (n)\ny = Conv <pads = [1,1,1,1]> (r, v)", (3, 4, 3, 3),
                "a reader pads with zeros, which would stay"),
    "a residual sum": ("r = Relu (n)\nz = Conv (r, v)\ny = Add (z, r)", (4, 4, 1, 1),
                       "something else than layers with a bias reads it"),
    "ReLU6": ("r = Clip (n, low, high)\ny = Conv (r, v)", (3, 4, 1, 1),
              "its clamp has an upper bound, which would move"),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYS)
def test_what_stays_and_why(name: str) -> None:
    body, shape, reason = STAYS[name]
    bounds = {"low": np.float32(0), "high": np.float32(6)} if "Clip" in body else {}
    graph = normalized(body, v=noise(*shape), **bounds)
    before = run(graph)[0][0]
    assert list(absorb(graph).skipped) == [reason]
    np.testing.assert_allclose(run(graph)[0][0], before, rtol=1e-5, atol=1e-5)


def test_an_output_is_left_alone() -> None:
    graph = normalized("r = Relu (n)\ny = Conv (r, v)", "float[] y, float[] r", v=noise(3, 4, 1, 1))
    assert absorb(graph).rewritten == 0


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="deviations must not be negative"):
        AbsorbBias(deviations=-1.0)
