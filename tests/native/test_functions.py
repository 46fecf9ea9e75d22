"""Functions right behind sums: formulas, whole graphs without a grid in between, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from scipy.special import erf
from sessions import exact_session

from ptq_opt import native
from ptq_opt.ir import ModelError
from ptq_opt.native.kernels import Kernel
from ptq_opt.native.model import Function, Kind, Model, Role, Type


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


FORMULAS: dict[Function, Any] = {
    Function.HARD_SIGMOID: lambda x, a, b: np.clip(a * x + b, 0, 1),
    Function.HARD_SWISH: lambda x, a, b: x * np.clip(a * x + b, 0, 1),
    Function.LEAKY_RELU: lambda x, a, b: np.where(x < 0, a * x, x),
    Function.ELU: lambda x, a, b: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x),
    Function.SIGMOID: lambda x, a, b: sigmoid(x),
    Function.SWISH: lambda x, a, b: x * sigmoid(a * x),
    Function.TANH: lambda x, a, b: np.tanh(x),
    Function.GELU: lambda x, a, b: x * (1 + erf(x / np.sqrt(2))) / 2,
    Function.GELU_TANH: lambda x, a, b: (
        x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2
    ),
}


def function_model(kind: float, size: int, dtype: Type = Type.U8) -> Model:
    model = Model()
    x = model.tensor(Type.F32, (size,), role=Role.INPUT)
    y = model.tensor(dtype, (size,), 0.02, 30, Role.OUTPUT)
    numbers = model.constant(np.array([kind, 0.3, 0.4], np.float32))
    limits = [-128, 127] if dtype == Type.S8 else [0, 255]
    model.op(Kind.FUNCTION, [x, numbers], [y], limits)
    return model


@pytest.mark.parametrize("dtype", [Type.U8, Type.S8])
@pytest.mark.parametrize("kind", Function)
def test_formulas(kind: Function, dtype: Type) -> None:
    """The nearest step of the exact value, but for values a millionth away from the middle."""
    x = np.concatenate([np.linspace(-12, 12, 4001), [0, 1e-30, 99, -99, 1e30, -1e30]])
    x = x.astype(np.float32)
    with np.errstate(over="ignore"):
        real = FORMULAS[kind](x.astype(np.float64), np.float32(0.3), np.float32(0.4))
    low, high = (-128, 127) if dtype == Type.S8 else (0, 255)
    steps = np.clip(real / np.float32(0.02), low - 30, high - 30) + 30
    found = Kernel(function_model(kind, x.size, dtype), isa="scalar").run([x])[0]
    assert np.abs(found - steps).max() < 0.5 + 1e-4


@pytest.mark.parametrize("kind", Function)
def test_reals_are_wanted(kind: Function) -> None:
    """As exact as single precision and the formulas for exp and erf let it be."""
    x = np.linspace(-12, 12, 4001).astype(np.float32)
    real = FORMULAS[kind](x.astype(np.float64), np.float32(0.3), np.float32(0.4))
    found = Kernel(function_model(kind, x.size, Type.F32)).run([x])[0]
    np.testing.assert_allclose(found, real, rtol=1e-6, atol=2e-6)


def test_what_is_no_number_or_no_function() -> None:
    x = np.repeat(np.array([np.nan, np.inf, -np.inf], np.float32), 40)
    for kind in Function:
        scalar, best = (
            Kernel(function_model(kind, x.size), isa=isa).run([x])[0] for isa in ("scalar", "amx")
        )
        np.testing.assert_array_equal(best, scalar)
    with pytest.raises(ModelError, match="unknown function"):
        Kernel(function_model(9, 3))
    with pytest.raises(ModelError, match="only outputs of 8 bits or F32"):
        Kernel(function_model(0, 3, Type.S16))


BODY = """
<ir_version: 10, opset_import: ["" : 20, "com.microsoft": 1]>
main (float[2,5,7,6] x) => (float y) <
    float sx = {0.03}, uint8 zx = {120}, float sy = {0.01}, uint8 zy = {100}, int8 zw = {0}> {
  xq = QuantizeLinear(x, sx, zx)
  xd = DequantizeLinear(xq, sx, zx)
  wd = DequantizeLinear<axis=0>(w, sw, zw)
  c = CONV(xd, wd)
  FUNCTION
}"""

ROUNDED = "\n  fq = QuantizeLinear(f, sy, zy)\n  y = DequantizeLinear(fq, sy, zy)"

CONVOLUTIONS = {
    "dense": ("Conv<pads=[1,1,1,1]>", (70, 5, 3, 3)),
    "grouped": ("Conv<group=5, strides=[2,2]>", (20, 1, 1, 1)),
    "depthwise": ("Conv<group=5, pads=[1,1,1,1]>", (5, 1, 3, 3)),
    "transposed": ("ConvTranspose<strides=[2,2]>", (5, 16, 2, 2)),
}

FUNCTIONS = {
    "HardSwish": "f = HardSwish(c)",
    "HardSigmoid": "f = HardSigmoid<alpha=0.3>(c)",
    "Sigmoid": "f = Sigmoid(c)",
    "Tanh": "f = Tanh(c)",
    "LeakyRelu": "f = LeakyRelu<alpha=0.2>(c)",
    "Elu": "f = Elu(c)",
    "Gelu": "f = Gelu(c)",
    "Gelu by tanh": 'f = Gelu<approximate="tanh">(c)',
    "QuickGelu": "f = com.microsoft.QuickGelu(c)",
    "Swish in two": "s = Sigmoid(c)\n  f = Mul(c, s)",
    "HardSwish in two": "h = HardSigmoid<alpha=0.1666667>(c)\n  f = Mul(h, c)",
    "bounded after": "g = HardSwish(c)\n  f = Relu(g)",
}


def graph(
    convolution: str, shape: tuple[int, ...], function: str, end: str = ROUNDED
) -> onnx.ModelProto:
    body = BODY.replace("CONV", convolution).replace("FUNCTION", function + end)
    model = parser.parse_model(body)
    rng = np.random.default_rng(0)
    transposed = convolution.startswith("ConvTranspose")
    channels = 1 if transposed else shape[0]
    weights = rng.integers(-127, 128, shape).astype(np.int8)
    scales = (rng.uniform(0.5, 1, channels) / 60 / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    for name, array in (("w", weights), ("sw", scales[0] if channels == 1 else scales)):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    if channels > 1:
        zero = numpy_helper.from_array(np.zeros(channels, np.int8), "zw")
        model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == "zw"))
        model.graph.initializer.append(zero)
    return model


def feed() -> Any:
    return {"x": np.random.default_rng(3).standard_normal((2, 5, 7, 6)).astype(np.float32)}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_in_the_store_of_a_convolution(convolution: str, function: str) -> None:
    """One operator, within one step of ONNX Runtime, the same bytes everywhere."""
    model = graph(*CONVOLUTIONS[convolution], FUNCTIONS[function])
    program = native.compile(model)
    assert not program.reasons
    assert [t.op for t in program.profile(feed())].count("function") == 0
    ours, theirs = program.run(feed())["y"], exact_session(model).run(None, feed())[0]
    assert np.ptp(theirs) > 0.1 and np.abs(ours - theirs).max() <= 1.001 * 0.01
    for isa in native.kernels.isa_names():
        for threads in (1, 2):
            other = native.compile(model, isa=isa, threads=threads).run(feed())["y"]
            np.testing.assert_array_equal(other, ours)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("r = Clip(c, , zero)\n  f = HardSwish(r)", "a bounded result"),
        ("f = Softplus(c)", "neither quantized nor constant"),
    ],
)
def test_what_stays_in_float_says_so(function: str, reason: str) -> None:
    body = (
        function if "zero" not in function else f"zero = Constant<value_float=0.0>()\n  {function}"
    )
    model = graph(*CONVOLUTIONS["dense"], body)
    program = native.compile(model)
    assert any(reason in text for text in program.reasons.values())
    ours, theirs = program.run(feed())["y"], exact_session(model).run(None, feed())[0]
    assert np.abs(ours - theirs).max() <= 1.001 * 0.01


GRIDS = """q = QuantizeLinear(c, sy, zy)
  d = DequantizeLinear(q, sy, zy)
  r = QuantizeLinear(c, sx, zx)
  e = DequantizeLinear(r, sx, zx)
  """
REALS = {
    "function": "y = Sigmoid(c)",
    "function of a part": """one = Constant<value_ints=[1]>()
  end = Constant<value_ints=[40]>()
  s = Slice(c, one, end, one)
  y = Tanh(s)""",
    "Softmax": "y = Softmax<axis=1>(c)",
    "Softmax of integers": GRIDS + "y = Softmax<axis=1>(d)",
    "Concat": GRIDS + "y = Concat<axis=1>(d, e)",
    "Resize": GRIDS
    + """times = Constant<value_floats=[1.0,1.0,4.0,2.0]>()
  y = Resize<mode="linear">(d, , times)""",
    "Softmax of a Concat": GRIDS + "j = Concat<axis=1>(d, e)\n  y = Softmax(j)",
}


@pytest.mark.parametrize("end", REALS)
def test_reals_at_the_end_need_no_other_engine(end: str) -> None:
    """The last operators of classifiers and detectors, which no grid follows."""
    model = graph(*CONVOLUTIONS["dense"], REALS[end], end="")
    program = native.compile(model)
    assert not program.reasons
    ours, theirs = program.run(feed())["y"], exact_session(model).run(None, feed())[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    for isa in native.kernels.isa_names():
        other = native.compile(model, isa=isa, threads=2).run(feed())["y"]
        np.testing.assert_array_equal(other, ours)


def test_two_readers_of_the_sum() -> None:
    """Each reader gets its own; what is wanted in float as well is not lost."""
    model = graph(*CONVOLUTIONS["dense"], "g = HardSwish(c)\n  s = Sigmoid(c)\n  f = Mul(g, s)")
    ours, theirs = native.compile(model).run(feed())["y"], exact_session(model).run(None, feed())[0]
    assert np.abs(ours - theirs).max() <= 1.001 * 0.01
