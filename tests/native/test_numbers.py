"""The scalar kernels against the int64 model; checker.c holds the others to the scalar ones."""

from __future__ import annotations

from typing import Any

import kernel_reference as ref
import numpy as np
import pytest

from ptq_opt.ir import ModelError, UsageError
from ptq_opt.native.kernels import Kernel
from ptq_opt.native.model import ABSENT, Kind, Model, Role, Type

MODES = ["float", "fixed", "gemmlowp"]
NUMPY: dict[Type, Any] = {Type.U8: np.uint8, Type.S8: np.int8, Type.S16: np.int16}
LIMITS = {Type.U8: (0, 255), Type.S8: (-128, 127), Type.S16: (-32768, 32767)}


def integers(rng: np.random.Generator, dtype: Type, shape: Any) -> Any:
    low, high = LIMITS[dtype]
    return rng.integers(low, high + 1, shape).astype(NUMPY[dtype])


def run(model: Model, *arrays: Any, isa: str = "scalar", **options: Any) -> Any:
    return Kernel(model, isa=isa, **options).run(arrays)[0]


def conv_model(rng: np.random.Generator, transposed: bool, n: int) -> tuple[Model, dict[str, Any]]:
    groups = int(rng.choice([1, 1, 2, 3]))
    per_in, per_out = int(rng.integers(1, 7)), int(rng.integers(1, 7))
    size = [int(v) for v in rng.integers(2, 6, n)]
    kernel = [int(v) for v in rng.integers(1, 4, n)]
    strides = [int(v) for v in rng.integers(1, 4, n)]
    dilations = [int(v) for v in rng.integers(1, 3, n)]
    begin = [int(v) for v in rng.integers(0, 3, n)]
    reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    if transposed:
        out = [(s - 1) * t + r + 1 for s, t, r in zip(size, strides, reach, strict=True)]
    else:
        size = [max(s, r + 1) for s, r in zip(size, reach, strict=True)]
        out = [
            (s + b - r - 1) // t + 1 for s, b, r, t in zip(size, begin, reach, strides, strict=True)
        ]
    zeros = {"x": int(rng.integers(0, 256)), "y": int(rng.integers(0, 256))}
    w = rng.integers(-128, 128, (groups * per_out, *kernel, per_in)).astype(np.int8)
    scales = rng.uniform(1e-4, 2e-3, groups * per_out).astype(np.float32)
    bias = rng.integers(-5000, 5000, groups * per_out).astype(np.int32)
    model = Model()
    x = model.tensor(Type.U8, (2, *size, groups * per_in), 0.5, zeros["x"], Role.INPUT)
    shape = (2, *out, groups * per_out)
    y = model.tensor(Type.U8, shape, 0.25, zeros["y"], Role.OUTPUT)
    inputs = [x, model.constant(w), model.constant(scales), model.constant(bias), model.grid(y)]
    kind = Kind.CONV_TRANSPOSE if transposed else Kind.CONV
    attrs = [n, groups, *strides, *dilations, *begin, 0, 255, 3, 250]
    model.op(kind, [*inputs, *[ABSENT] * 4], [y], attrs)
    return model, {
        "w": w, "scales": scales, "bias": bias, "groups": groups, "strides": strides,
        "dilations": dilations, "begin": begin, "out": out, "x_zero": zeros["x"],
        "y_zero": zeros["y"], "x_shape": (2, *size, groups * per_in),
    }  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_convolution(mode: str, transposed: bool, n: int) -> None:
    rng = np.random.default_rng([n, transposed])
    for _ in range(12):
        model, p = conv_model(rng, transposed, n)
        x = integers(rng, Type.U8, p["x_shape"])
        geometry = [p[k] for k in ("groups", "strides", "dilations", "begin", "out")]
        if transposed:
            acc = ref.transpose_convolve(x, p["w"], p["x_zero"], *geometry)
        else:
            acc = ref.convolve(x, p["w"], p["x_zero"], 0, *geometry)
        m = np.float32(0.5) * p["scales"] / np.float32(0.25)
        steps = ref.requantize(acc + p["bias"], m, mode)
        want = ref.to_grid(steps, p["y_zero"], 3, 250)
        np.testing.assert_array_equal(run(model, x, requantize=mode), want)


def test_weights_with_a_zero_point() -> None:
    rng = np.random.default_rng(5)
    x = integers(rng, Type.U8, (1, 4, 6))
    w = integers(rng, Type.S8, (5, 1, 6))
    model = Model()
    number = model.tensor(Type.U8, x.shape, 1.0, 7, Role.INPUT)
    y = model.tensor(Type.S32, (1, 4, 5), 1.0, 0, Role.OUTPUT)
    weights, scales = model.constant(w, 1.0, -9), model.constant(np.ones(1, np.float32))
    inputs = [number, weights, scales, ABSENT, model.grid(number), *[ABSENT] * 4]
    model.op(Kind.CONV, inputs, [y], [1, 1, 1, 1, 0, 0, 255, 0, 255])
    want = ref.convolve(x, w, 7, -9, 1, [1], [1], [0], [4])
    for isa in ("scalar", "amx"):
        np.testing.assert_array_equal(run(model, x, isa=isa), want)


@pytest.mark.parametrize("zero", [0, 9])
@pytest.mark.parametrize("isa", ["scalar", "amx"])
@pytest.mark.parametrize("size, stride", [([70], 1), ([70], 2), ([13, 17], 1)])
def test_taps_far_apart(size: list[int], stride: int, isa: str, zero: int) -> None:
    """Positions that see the same taps are computed together; what padding adds is known."""
    rng = np.random.default_rng(7)
    n = len(size)
    strides, dilations, begin = [stride] * n, [6] * n, [6] * n
    x = integers(rng, Type.U8, (2, *size, 5))
    w = integers(rng, Type.S8, (3, *[3] * n, 5))
    out = [(s - 1) // stride + 1 for s in size]
    model = Model()
    number = model.tensor(Type.U8, x.shape, 1.0, zero, Role.INPUT)
    y = model.tensor(Type.S32, (2, *out, 3), 1.0, 0, Role.OUTPUT)
    weights, scales = model.constant(w), model.constant(np.ones(1, np.float32))
    inputs = [number, weights, scales, ABSENT, model.grid(number), *[ABSENT] * 4]
    model.op(Kind.CONV, inputs, [y], [n, 1, *strides, *dilations, *begin, 0, 255, 0, 255])
    want = ref.convolve(x, w, zero, 0, 1, strides, dilations, begin, out)
    np.testing.assert_array_equal(run(model, x, isa=isa), want)


@pytest.mark.parametrize("dtype", [Type.S4, Type.U4])
def test_four_bit_weights(dtype: Type) -> None:
    rng = np.random.default_rng(6)
    low = -8 if dtype == Type.S4 else 0
    w = rng.integers(low, low + 16, (3, 1, 5))
    flat = np.append(w.reshape(-1), 0) & 15
    packed = (flat[0::2] | flat[1::2] << 4).astype(np.uint8)
    x = integers(rng, Type.U8, (1, 4, 5))
    model = Model()
    number = model.tensor(Type.U8, x.shape, 1.0, 3, Role.INPUT)
    y = model.tensor(Type.S32, (1, 4, 3), 1.0, 0, Role.OUTPUT)
    weights = model.constant(packed, 1.0, 2, dtype, w.shape)
    scales = model.constant(np.ones(1, np.float32))
    inputs = [number, weights, scales, ABSENT, model.grid(number), *[ABSENT] * 4]
    model.op(Kind.CONV, inputs, [y], [1, 1, 1, 1, 0, 0, 255, 0, 255])
    want = ref.convolve(x, w, 3, 2, 1, [1], [1], [0], [4])
    np.testing.assert_array_equal(run(model, x), want)


def test_saturating_pairs() -> None:
    """The talk's failure, with the vector of the design notes: 49066 instead of 52299."""
    x = np.array([[[200, 180, 3, 255], [255, 255, 255, 255]]], np.uint8)
    w = np.array([[[90, 100, -7, 64]], [[-128, -128, 127, 127]]], np.int8)
    model = Model()
    number = model.tensor(Type.U8, x.shape, 1.0, 0, Role.INPUT)
    y = model.tensor(Type.S32, (1, 2, 2), 1.0, 0, Role.OUTPUT)
    inputs = [number, model.constant(w), model.constant(np.ones(1, np.float32)), ABSENT]
    inputs += [model.grid(number), *[ABSENT] * 4]
    model.op(Kind.CONV, inputs, [y], [1, 1, 1, 1, 0, 0, 255, 0, 255])
    exact, saturated = run(model, x), run(model, x, accumulate="s16-pairs", isa="amx")
    assert exact[0, 0, 0] == 52299 and saturated[0, 0, 0] == 49066
    assert exact[0, 1, 1] == -510 and saturated[0, 1, 1] == -1
    want = [[ref.pair_saturated(row, w[o, 0]) for o in range(2)] for row in x[0]]
    np.testing.assert_array_equal(saturated[0], want)


def test_pairs_that_do_not_saturate_are_exact_for_any_zero_point() -> None:
    rng = np.random.default_rng(8)
    x, w = rng.integers(0, 64, (1, 4, 6), np.uint8), rng.integers(-60, 60, (3, 1, 6), np.int8)
    model = Model()
    number = model.tensor(Type.U8, x.shape, 1.0, 5, Role.INPUT)
    y = model.tensor(Type.S32, (1, 4, 3), 1.0, 0, Role.OUTPUT)
    inputs = [number, model.constant(w, 1.0, -120), model.constant(np.ones(1, np.float32)), ABSENT]
    inputs += [model.grid(number), *[ABSENT] * 4]
    model.op(Kind.CONV, inputs, [y], [1, 1, 1, 1, 0, 0, 255, 0, 255])
    want = ref.convolve(x, w, 5, -120, 1, [1], [1], [0], [4])
    np.testing.assert_array_equal(run(model, x, accumulate="s16-pairs"), want)


@pytest.mark.parametrize(
    ("mode", "want"),
    [
        ("float", [-2, -2, 0, 0, 2, 2]),
        ("fixed", [-2, -1, 0, 1, 2, 3]),
        ("gemmlowp", [-2, -1, 0, 1, 2, 3]),
    ],
)
def test_ties(mode: str, want: list[int]) -> None:
    """Accumulators -5 -3 -1 1 3 5 times one half."""
    model = Model()
    x = model.tensor(Type.U8, (1, 6, 1), 0.5, 5, Role.INPUT)
    y = model.tensor(Type.S8, (1, 6, 1), 1.0, 0, Role.OUTPUT)
    inputs = [
        x,
        model.constant(np.ones((1, 1, 1), np.int8)),
        model.constant(np.ones(1, np.float32)),
    ]
    inputs += [ABSENT, model.grid(y), *[ABSENT] * 4]
    model.op(Kind.CONV, inputs, [y], [1, 1, 1, 1, 0, -128, 127, -128, 127])
    given = np.array([0, 2, 4, 6, 8, 10], np.uint8).reshape(1, 6, 1)
    assert run(model, given, requantize=mode).ravel().tolist() == want


def test_gemmlowp_rounds_twice() -> None:
    assert ref._gemmlowp(1, 0.3) == 1
    assert ref._gemmlowp(-145751, float(np.float32(0.008915863))) == -1300


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [Type.U8, Type.S8, Type.S16])
def test_multiply(mode: str, dtype: Type) -> None:
    rng = np.random.default_rng(8)
    a, b = integers(rng, dtype, (3, 1, 40)), integers(rng, dtype, (3, 5, 1))
    model = Model()
    first = model.tensor(dtype, a.shape, 0.03, 4, Role.INPUT)
    second = model.tensor(dtype, b.shape, 0.02, -0 if dtype == Type.U8 else -5, Role.INPUT)
    y = model.tensor(dtype, (3, 5, 40), 0.05, 9, Role.OUTPUT)
    model.op(Kind.MUL, [first, second], [y], LIMITS[dtype])
    zero = model.tensors[second].zero_point
    acc = (a.astype(np.int64) - 4) * (b.astype(np.int64) - zero)
    m = np.float32(0.03) * np.float32(0.02) / np.float32(0.05)
    want = ref.to_grid(ref.requantize(acc, m, mode), 9, *LIMITS[dtype])
    np.testing.assert_array_equal(run(model, a, b, requantize=mode), want)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [Kind.ADD, Kind.SUB])
def test_add_is_within_half_a_step(mode: str, kind: Kind) -> None:
    rng = np.random.default_rng(9)
    a, b = integers(rng, Type.U8, (64, 33)), integers(rng, Type.S8, (33,))
    model = Model()
    first = model.tensor(Type.U8, a.shape, 0.03, 100, Role.INPUT)
    second = model.tensor(Type.S8, b.shape, 0.07, 10, Role.INPUT)
    y = model.tensor(Type.U8, a.shape, 0.05, 30, Role.OUTPUT)
    model.op(kind, [first, second], [y], (0, 255))
    sign = 1 if kind == Kind.ADD else -1
    real = (a - np.float64(100)) * 0.03 + sign * (b - np.float64(10)) * 0.07
    exact = np.clip(real / 0.05 + 30, 0, 255)
    assert np.abs(run(model, a, b, requantize=mode) - exact).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("output", [Type.U8, Type.S32, Type.F32])
def test_matmul_of_activations(output: Type) -> None:
    rng = np.random.default_rng(10)
    a, b = integers(rng, Type.U8, (3, 7, 19)), integers(rng, Type.S8, (1, 19, 21))
    model = Model()
    first = model.tensor(Type.U8, a.shape, 0.02, 131, Role.INPUT)
    second = model.tensor(Type.S8, b.shape, 0.03, -7, Role.INPUT)
    y = model.tensor(output, (3, 7, 21), 0.9 if output == Type.U8 else 1.0, 90, Role.OUTPUT)
    model.op(Kind.MATMUL, [first, second], [y], (0, 255))
    acc = (a.astype(np.int64) - 131) @ (b.astype(np.int64) + 7)
    m = np.float32(0.02) * np.float32(0.03) / np.float32(0.9 if output == Type.U8 else 1.0)
    want = {
        Type.U8: lambda: ref.to_grid(ref.requantize(acc, m, "float"), 90, 0, 255),
        Type.S32: lambda: acc,
        Type.F32: lambda: acc.astype(np.float32) * m,
    }[output]()
    for isa in ("scalar", "amx"):
        np.testing.assert_array_equal(run(model, a, b, isa=isa), want)


def test_block_gemm() -> None:
    rng = np.random.default_rng(11)
    x, w = integers(rng, Type.U8, (4, 20)), rng.integers(-8, 8, (6, 20)).astype(np.int8)
    scale = rng.uniform(0.01, 0.1, (6, 3)).astype(np.float32)
    zero = rng.integers(-3, 4, (6, 3)).astype(np.int8)
    bias = rng.standard_normal(6).astype(np.float32)
    model = Model()
    number = model.tensor(Type.U8, x.shape, 0.5, 100, Role.INPUT)
    y = model.tensor(Type.F32, (4, 6), role=Role.OUTPUT)
    inputs = [number, *map(model.constant, (w, scale, zero, bias))]
    model.op(Kind.BLOCK_GEMM, inputs, [y], [8, 0, 255])
    block = np.arange(20) // 8
    weights = (w.astype(np.float64) - zero[:, block]) * scale[:, block]
    want = (x - np.float64(100)) * 0.5 @ weights.T + bias
    np.testing.assert_allclose(run(model, x), want, rtol=1e-5, atol=1e-4)


def test_pools() -> None:
    rng = np.random.default_rng(12)
    x = integers(rng, Type.U8, (2, 6, 5, 3))
    for kind, include in ((Kind.MAX_POOL, 0), (Kind.AVERAGE_POOL, 0), (Kind.AVERAGE_POOL, 1)):
        average = kind == Kind.AVERAGE_POOL
        model = Model()
        number = model.tensor(Type.U8, x.shape, 0.5, 17, Role.INPUT)
        y = model.tensor(Type.U8, (2, 3, 3, 3), 0.4 if average else 0.5, 17, Role.OUTPUT)
        attrs = [2, 3, 2, 2, 2, 1, 1, 1, 0, *([1, 1, include] if average else [])]
        model.op(kind, [number], [y], attrs)
        found = run(model, x)
        real = (x.astype(np.float64) - 17) * 0.5
        for oy in range(3):
            for ox in range(3):
                rows = slice(max(0, 2 * oy - 1), min(6, 2 * oy + 2))
                columns = slice(2 * ox, min(5, 2 * ox + 2))
                part = real[:, rows, columns].reshape(2, -1, 3)
                count = 6 if include else part.shape[1]
                if include and ox == 2:
                    count = 6
                value = part.sum(1) / count if average else part.max(1)
                exact = np.clip(value / (0.4 if average else 0.5) + 17, 0, 255)
                assert np.abs(found[:, oy, ox] - exact).max() <= 0.5 + 1e-5


def test_mean_and_arg_max() -> None:
    rng = np.random.default_rng(13)
    x = integers(rng, Type.S8, (3, 50, 7))
    model = Model()
    number = model.tensor(Type.S8, x.shape, 0.1, -20, Role.INPUT)
    mean = model.tensor(Type.S8, (3, 7), 0.05, 4, Role.OUTPUT)
    first = model.tensor(Type.S64, (3, 7), role=Role.OUTPUT)
    last = model.tensor(Type.S64, (3, 7), role=Role.OUTPUT)
    model.op(Kind.REDUCE_MEAN, [number], [mean], [3, 50, 7, -128, 127])
    model.op(Kind.ARG_MAX, [number], [first], [3, 50, 7, 0])
    model.op(Kind.ARG_MAX, [number], [last], [3, 50, 7, 1])
    found = Kernel(model).run([x])
    m = np.float32(0.1) / np.float32(0.05) / np.float32(50)
    want = ref.requantize((x.astype(np.int64) + 20).sum(1), m, "float")
    np.testing.assert_array_equal(found[0], ref.to_grid(want, 4, -128, 127))
    np.testing.assert_array_equal(found[1], x.argmax(1))
    np.testing.assert_array_equal(found[2], 49 - x[:, ::-1].argmax(1))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("same_grid", [True, False])
def test_linear_resize_rounds_once(mode: str, n: int, same_grid: bool) -> None:
    """Its exact sum, in units of 2^-22, is an accumulator like any other."""
    rng = np.random.default_rng(17)
    size, out = (3, 4, 5)[:n], (7, 2, 9)[:n]
    x = integers(rng, Type.U8, (2, *size, 6))
    model, blended, tables = Model(), x.astype(np.int64), []
    for axis, (a, b) in enumerate(zip(size, out, strict=True), 1):
        low, high = rng.integers(0, a, (2, b))
        weight = rng.integers(0, 2049, b) if axis > n - 2 else rng.choice([0, 700], b)
        tables += [low, high, weight]
        upper = weight.reshape([-1 if d == axis else 1 for d in range(n + 2)])
        blended = blended.take(low, axis) * (2048 - upper) + blended.take(high, axis) * upper
    scale, zero = (0.5, 40) if same_grid else (0.83, 91)
    number = model.tensor(Type.U8, x.shape, 0.5, 40, Role.INPUT)
    y = model.tensor(Type.U8, (2, *out, 6), scale, zero, Role.OUTPUT)
    table = model.constant(np.concatenate(tables).astype(np.int32))
    model.op(Kind.RESIZE, [number, table], [y], [n, 1])
    if n < 3:
        real = model.tensor(Type.F32, (2, 6, *out), 1.0, 0, Role.OUTPUT)
        model.op(Kind.RESIZE, [number, table], [real], [n, 1])
    units = blended * 2048 if n == 1 else (blended + 1024) // 2048 if n == 3 else blended
    m = np.float32(0.5) / np.float32(scale) / np.float32(1 << 22)
    want = ref.to_grid(ref.requantize(units - (40 << 22), m, mode), zero, 0, 255)
    np.testing.assert_array_equal(run(model, x, requantize=mode), want)
    if n < 3:
        reals = (units - (40 << 22)).astype(np.float32) * np.float32(0.5 / (1 << 22))
        np.testing.assert_array_equal(Kernel(model).run([x])[1], np.moveaxis(reals, -1, 1))


def test_softmax_is_within_one_step() -> None:
    rng = np.random.default_rng(14)
    x = integers(rng, Type.U8, (5, 300))
    model = Model()
    number = model.tensor(Type.U8, x.shape, 0.05, 128, Role.INPUT)
    y = model.tensor(Type.U8, x.shape, 1 / 256, 0, Role.OUTPUT)
    model.op(Kind.SOFTMAX, [number], [y])
    e = np.exp((x - x.max(1, keepdims=True).astype(np.float64)) * 0.05)
    exact = np.clip(e / e.sum(1, keepdims=True) * 256, 0, 255)
    assert np.abs(run(model, x) - exact).max() <= 0.501


def test_quantize_and_dequantize_move_channels() -> None:
    rng = np.random.default_rng(15)
    x = rng.standard_normal((2, 3, 50)).astype(np.float32) * 3
    x.flat[:4] = [np.inf, -np.inf, 0.025, 0.075]  # saturate, and ties to even
    for dtype in (Type.U8, Type.S8, Type.S16):
        model = Model()
        number = model.tensor(Type.F32, x.shape, role=Role.INPUT)
        q = model.tensor(dtype, (2, 50, 3), 0.05, 3, Role.OUTPUT)
        y = model.tensor(Type.F32, x.shape, role=Role.OUTPUT)
        model.op(Kind.QUANTIZE, [number], [q], [2, 3, 50])
        model.op(Kind.DEQUANTIZE, [q], [y], [2, 3, 50])
        integers_, reals = Kernel(model).run([x])
        steps = np.rint(x / np.float32(0.05)) + 3
        want = np.clip(steps, *LIMITS[dtype]).astype(NUMPY[dtype])
        np.testing.assert_array_equal(integers_, want.transpose(0, 2, 1))
        np.testing.assert_array_equal(reals, (want.astype(np.float32) - 3) * np.float32(0.05))


def test_copy_gather_concat_and_tables() -> None:
    rng = np.random.default_rng(16)
    x = integers(rng, Type.U8, (4, 6))
    model = Model()
    number = model.tensor(Type.U8, x.shape, 0.5, 10, Role.INPUT)
    turned = model.tensor(Type.U8, (8, 4), 0.5, 10)
    model.op(Kind.COPY, [number], [turned], [2, 5, 4, 77, 4, 6, 6, -1, 1, 4])
    picked = model.tensor(Type.U8, (3, 4), 0.5, 10)
    index = model.constant(np.array([-1, 0, 3]))
    model.op(Kind.GATHER, [turned, index], [picked], [0])
    other = model.tensor(Type.U8, (3, 4), 1.0, 0)
    table = rng.permutation(256).astype(np.uint8)
    model.op(Kind.LUT, [picked, model.constant(table)], [other])
    y = model.tensor(Type.U8, (3, 8), 0.25, 5, Role.OUTPUT)
    model.op(Kind.CONCAT, [picked, other], [y], [1])
    padded = np.full((8, 4), 77, np.uint8)
    padded[1:7] = x.T[::-1]
    part = padded[[-1, 0, 3]]
    first = np.clip((part.astype(np.float64) - 10) * 2 + 5, 0, 255)
    second = np.clip(table[part].astype(np.float64) * 4 + 5, 0, 255)
    np.testing.assert_array_equal(run(model, x), np.concatenate([first, second], 1))


def test_a_runtime_index_outside_the_axis_is_an_error() -> None:
    model = Model()
    x = model.tensor(Type.F32, (3, 2), role=Role.INPUT)
    index = model.tensor(Type.S64, (1,), role=Role.INPUT)
    y = model.tensor(Type.F32, (1, 2), role=Role.OUTPUT)
    model.op(Kind.GATHER, [x, index], [y], [0], "Gather 'pick'")
    kernel, rows = Kernel(model), np.arange(6, dtype=np.float32).reshape(3, 2)
    assert kernel.run([rows, np.array([-1])])[0].tolist() == [[4, 5]]
    with pytest.raises(ModelError, match="Gather 'pick': an index lies outside"):
        kernel.run([rows, np.array([3])])


def test_refusals_name_the_operator() -> None:
    model = Model()
    x = model.tensor(Type.U8, (1, 4), 1.0, 0, Role.INPUT)
    y = model.tensor(Type.U8, (1, 5), 1.0, 0, Role.OUTPUT)
    model.op(Kind.ADD, [x, x], [y], (0, 255), "Add 'sum'")
    with pytest.raises(ModelError, match="Add 'sum': output dimension 1"):
        Kernel(model)
    with pytest.raises(UsageError, match="unknown instruction set 'sse9'"):
        Kernel(Model(), isa="sse9")
    with pytest.raises(UsageError, match="threads must be 1 to 64"):
        Kernel(Model(), threads=0)


def test_inputs_are_checked() -> None:
    model = Model()
    x = model.tensor(Type.U8, (1, 4), 1.0, 0, Role.INPUT)
    y = model.tensor(Type.U8, (1, 4), 1.0, 0, Role.OUTPUT)
    model.op(Kind.ADD, [x, x], [y], (0, 255))
    kernel = Kernel(model)
    with pytest.raises(UsageError, match="float32"):
        kernel.run([np.zeros((1, 4), np.float32)])
    with pytest.raises(UsageError, match="1 inputs expected, 0 given"):
        kernel.run([])
