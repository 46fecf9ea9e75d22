"""Models that are quantized in part: that part stays as it is, the rest is quantized."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rewriting import net, noise
from small_model import make_samples, small_model

from ptq_opt import ModelError, native, quantize
from ptq_opt.ir import Graph, save
from ptq_opt.ir.evaluate import Runner, signal_to_noise
from ptq_opt.passes.quantized import ALREADY
from ptq_opt.tools.api import Result
from ptq_opt.tools.corpus.outcome import eager

SAMPLES = [{"x": noise(1, 4, 6, 6, seed=k)} for k in range(4)]
GRID = {"s": np.array(0.05, np.float32), "z": np.array(100, np.uint8)}
WEIGHTS = {
    "w": noise(8, 4, 3, 3), "b": noise(8, seed=1), "v": noise(8, 8, 1, 1, seed=2),
    "k": np.rint(20 * noise(8, 8, 1, 1, seed=3)).astype(np.int8),
    "ks": np.array(0.02, np.float32), "kz": np.array(0, np.int8),
}  # fmt: skip


def part(body: str, **constants: np.ndarray) -> Graph:
    """A graph of `body` with those constants that it names."""
    words = set("".join(c if c.isalnum() else " " for c in body).split())
    every = {**WEIGHTS, **GRID, **constants}
    return net(body, **{name: array for name, array in every.items() if name in words})


def done(graph: Graph) -> Result:
    """The rest quantized where conversions cost nothing, and close to what was given."""
    source = save(graph)
    result = quantize(source, SAMPLES, target=eager())
    onnx.checker.check_model(result.model)
    program = native.compile(result.model)
    for feeds in SAMPLES:
        (real,), (found,) = Runner(graph).run(feeds), Runner(result.graph).run(feeds)
        assert signal_to_noise(real, found) > 25
        assert signal_to_noise(real, program.run(feeds)["y"]) > 25
    return result


def test_what_is_quantized_stays_and_the_rest_follows() -> None:
    """Our own file with a layer left out, given again."""
    first = quantize(small_model(), make_samples(4), exclude=["classifier", "shortcut"])
    again = quantize(first.model, make_samples(4), target=eager())
    assert {d.node for d in again.report.decisions if d.quantized} >= {"classifier"}
    kept = {d.node for d in again.report.decisions if d.reason == ALREADY}
    assert {"first", "second"} <= kept
    before, after = (
        {t.name: numpy_helper.to_array(t).tobytes() for t in model.graph.initializer
         if t.data_type == onnx.TensorProto.INT8}
        for model in (first.model, again.model)
    )  # fmt: skip
    assert before.items() <= after.items()
    assert [w for w in again.report.warnings if "quantized already" in w]


def test_a_layer_in_front_and_one_behind() -> None:
    """The one behind reads the integers that are there, so nothing is converted twice."""
    result = done(part("""
        c = Conv <pads = [1,1,1,1]> (x, w, b)
        q = QuantizeLinear(c, s, z)
        d = DequantizeLinear(q, s, z)
        f = DequantizeLinear(k, ks, kz)
        e = Conv(d, f)
        o = QuantizeLinear(e, s, z)
        p = DequantizeLinear(o, s, z)
        r = Relu(p)
        y = Conv(r, v)"""))  # fmt: skip
    convs = [d for d in result.report.decisions if d.op == "Conv"]
    assert [d.reason for d in convs] == ["", ALREADY, ""]
    steps = [numpy_helper.to_array(t).item() for t in result.model.graph.initializer
             if t.data_type == onnx.TensorProto.FLOAT and not t.dims]  # fmt: skip
    assert np.float32(0.05) in steps and np.float32(0.02) in steps


def test_layers_around_take_the_grids_of_conversions_that_are_there() -> None:
    """So their integers are those that are there, and nothing is rounded twice."""
    result = done(part("""
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        c = Conv <pads = [1,1,1,1]> (d, w, b)
        o = QuantizeLinear(c, s, z)
        y = DequantizeLinear(o, s, z)"""))  # fmt: skip
    assert result.report.counts()["Conv"] == (1, 1)
    assert [node.op for node in result.graph].count("QuantizeLinear") == 2


@pytest.mark.parametrize(
    "body",
    [
        "t = MaxPool <kernel_shape = [2,2]> (d)",
        "a = Relu(d)\n t = Add(a, d)",
        "g = Sigmoid(d)\n t = Mul(g, d)",
    ],
)
def test_operators_between_integers_are_left_alone(body: str) -> None:
    result = done(part(f"""
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        {body}
        o = QuantizeLinear(t, s, z)
        p = DequantizeLinear(o, s, z)
        y = Conv(p, w)"""))  # fmt: skip
    inner = {d.op: d.reason for d in result.report.decisions if "Linear" not in d.op}
    assert inner.pop("Conv") == "" and set(inner.values()) == {ALREADY}


def test_weights_that_are_rounded_in_float_are_left_alone() -> None:
    """What training with simulated quantization exports: Q and DQ behind float weights."""
    result = done(part("""
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        i = QuantizeLinear(w, ks, kz)
        j = DequantizeLinear(i, ks, kz)
        c = Conv(d, j)
        y = Conv(c, v)"""))  # fmt: skip
    convs = [d.reason for d in result.report.decisions if d.op == "Conv"]
    assert convs == [ALREADY, ""]


def test_weights_alone_in_integers_are_left_alone() -> None:
    result = done(part("""
        c = Conv(x, w)
        j = DequantizeLinear(k, ks, kz)
        y = Conv(c, j)"""))  # fmt: skip
    convs = [d.reason for d in result.report.decisions if d.op == "Conv"]
    assert convs == ["", ALREADY]


def test_integer_operators_are_left_alone() -> None:
    result = done(part("""
        q = QuantizeLinear(x, s, z)
        i = QLinearConv(q, s, z, l, ks, kz, s, z)
        d = DequantizeLinear(i, s, z)
        y = Conv(d, v)""", l=np.rint(20 * noise(8, 4, 3, 3)).astype(np.int8)))  # fmt: skip
    reasons = {d.op: d.reason for d in result.report.decisions}
    assert reasons["QLinearConv"] == ALREADY and reasons["Conv"] == ""


def test_where_nothing_is_left_to_quantize_the_model_is_refused() -> None:
    model = save(part("""
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        j = DequantizeLinear(k, ks, kz)
        m = Concat <axis = 1> (d, d)
        c = Conv(m, j)
        y = Softmax(c)"""))  # fmt: skip
    with pytest.raises(ModelError, match=r"quantized already .* start from the float32 model"):
        quantize(model, SAMPLES)
