"""Whole quantized models: outputs of the C executor beside ONNX Runtime's."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from sessions import exact_session

from ptq_opt import native
from ptq_opt.ir import DataError, ModelError, load

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'

CLASSIFIER = """
main (float[1,3,17,18] x) => (float[1,10] y) {
  a = Conv<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x, w1, b1)
  ra = Relu(a)
  d = Conv<kernel_shape=[3,3], pads=[1,1,1,1], group=24>(ra, w2, b2)
  six = Constant<value_float=6.0>()
  zero = Constant<value_float=0.0>()
  rd = Clip(d, zero, six)
  e = Conv<kernel_shape=[1,1]>(rd, w3, b3)
  s = Add(e, ra)
  m = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(s)
  q = AveragePool<kernel_shape=[2,2]>(m)
  g = GlobalAveragePool(q)
  f = Flatten(g)
  l = Gemm<transB=1>(f, w4, b4)
  y = Softmax(l)
}"""

EXCITE = """
main (float[2,4,8,8] x) => (float[2,70,8,8] y) {
  a = Conv<kernel_shape=[1,1]>(x, w1, b1)
  s = Sigmoid(a)
  v = Mul(a, s)
  p = ReduceMean<axes=[2,3], keepdims=1>(v)
  h = Conv<kernel_shape=[1,1]>(p, w2, b2)
  r = Relu(h)
  g = Conv<kernel_shape=[1,1]>(r, w3, b3)
  n = HardSigmoid(g)
  e = Mul(v, n)
  t = Tanh(e)
  c = Concat<axis=1>(e, t)
  y = LeakyRelu<alpha=0.1>(c)
}"""

VOLUME = """
main (float[1,2,6,7,8] x) => (float[1,12,6,7,8] y) {
  a = Conv<kernel_shape=[3,3,3], pads=[1,1,1,1,1,1]>(x, w1, b1)
  r = Relu(a)
  p = MaxPool<kernel_shape=[2,1,2], strides=[2,1,2]>(r)
  u = ConvTranspose<kernel_shape=[2,3,2], strides=[2,1,2], pads=[0,1,0,0,1,0]>(p, w2, b2)
  y = Concat<axis=1>(r, u)
}"""

ATTENTION = """
main (float[1,9,16] x) => (float[1,9,16] y) {
  q = MatMul(x, w1)
  k = MatMul(x, w2)
  four = Constant<value_ints=[1,9,2,8]>()
  q4 = Reshape(q, four)
  k4 = Reshape(k, four)
  qt = Transpose<perm=[0,2,1,3]>(q4)
  kt = Transpose<perm=[0,2,3,1]>(k4)
  s = MatMul(qt, kt)
  p = Softmax<axis=-1>(s)
  o = MatMul(p, qt)
  ot = Transpose<perm=[0,2,1,3]>(o)
  three = Constant<value_ints=[1,9,16]>()
  y = Reshape(ot, three)
}"""

UPSAMPLE = """
main (float[1,5,6,6] x) => (float[1,4,24,12] y) {
  a = Conv<kernel_shape=[3,3], dilations=[2,2], pads=[2,2,2,2], group=1>(x, w1, b1)
  scales = Constant<value_floats=[1.0,1.0,2.0,2.0]>()
  none = Constant<value_floats=[0.0]>()
  u = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">
      (a, , scales)
  wide = Constant<value_floats=[1.0,1.0,2.0,1.0]>()
  y = Resize<mode="linear">(u, , wide)
}"""

SHAPES: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "classifier": (
        CLASSIFIER,
        {
            "w1": (24, 3, 3, 3), "b1": (24,), "w2": (24, 1, 3, 3), "b2": (24,),
            "w3": (24, 24, 1, 1), "b3": (24,), "w4": (10, 24), "b4": (10,),
        },
    ),
    "excite": (
        EXCITE,
        {
            "w1": (35, 4, 1, 1), "b1": (35,), "w2": (9, 35, 1, 1), "b2": (9,),
            "w3": (35, 9, 1, 1), "b3": (35,),
        },
    ),
    "volume": (VOLUME, {"w1": (7, 2, 3, 3, 3), "b1": (7,), "w2": (7, 5, 2, 3, 2), "b2": (5,)}),
    "attention": (ATTENTION, {"w1": (16, 16), "w2": (16, 16)}),
    "upsample": (UPSAMPLE, {"w1": (4, 5, 3, 3), "b1": (4,)}),
}  # fmt: skip


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, shape: tuple[int, ...], count: int) -> None:
        rng = np.random.default_rng(1)
        self.rest = [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]

    def get_next(self) -> Any:
        return self.rest.pop() if self.rest else None


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Float text -> path of the model that ONNX Runtime's quantizer makes of it; kept."""
    folder = tmp_path_factory.mktemp("models")

    def make(name: str, form: QuantFormat, activations: QuantType = QuantType.QUInt8) -> Path:
        target = folder / f"{name}.{form}.{activations}.onnx"
        if target.exists():
            return target
        text, shapes = SHAPES[name]
        model = parser.parse_model(HEADER + text)
        rng = np.random.default_rng(0)
        for key, shape in shapes.items():
            fan = float(np.prod(shape[1:])) if len(shape) > 1 else 4.0
            array = (rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, key))
        source = folder / f"{name}.onnx"
        onnx.save(model, source)
        shape = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
        quantize_static(
            source, target, Reader(shape, 4), quant_format=form, per_channel=True,
            activation_type=activations, weight_type=QuantType.QInt8,
        )  # fmt: skip
        return target

    return make


def both(path: Path, **options: Any) -> tuple[Any, Any, native.Program]:
    """Our outputs, ONNX Runtime's, and the program, for one input."""
    program = native.compile(path, **options)
    session = exact_session(path)
    x = np.random.default_rng(3).standard_normal(session.get_inputs()[0].shape).astype(np.float32)
    return program.run({"x": x})["y"], session.run(None, {"x": x})[0], program


def step(path: Path) -> float:
    """The step of the grid of output y."""
    model = onnx.load(path)
    scales = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    node = next(n for n in model.graph.node if "y" in n.output)
    assert node.op_type == "DequantizeLinear"
    return float(scales[node.input[1]])


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_within_one_step_of_onnxruntime(name: str, form: QuantFormat, quantized: Any) -> None:
    path = quantized(name, form)
    ours, theirs, program = both(path)
    assert ours.shape == theirs.shape and np.ptp(theirs) > 10 * step(path)
    assert np.abs(ours - theirs).max() <= 1.001 * step(path)
    if form == QuantFormat.QDQ:
        assert not program.reasons


@pytest.mark.parametrize("name", SHAPES)
def test_signed_activations(name: str, quantized: Any) -> None:
    path = quantized(name, QuantFormat.QDQ, QuantType.QInt8)
    ours, theirs, program = both(path)
    assert np.abs(ours - theirs).max() <= 1.001 * step(path)
    assert not program.reasons


@pytest.mark.parametrize("name", SHAPES)
def test_every_setting_gives_the_same_bytes(name: str, quantized: Any) -> None:
    path = quantized(name, QuantFormat.QDQ)
    for rounding in ("float", "fixed", "gemmlowp"):
        scalar = both(path, isa="scalar", requantize=rounding)[0]
        for isa in ("avx2", "avxvnni", "avx512vnni", "amx"):
            for threads in (1, 2):
                other = both(path, isa=isa, threads=threads, requantize=rounding)[0]
                np.testing.assert_array_equal(other, scalar)


def test_residual_and_tables_are_fused(quantized: Any) -> None:
    for name, size, joined in (
        ("classifier", (1, 3, 17, 18), ["Conv", "Add"]),
        ("excite", (2, 4, 8, 8), ["Conv", "QuantizeLinear"]),
    ):
        program = both(quantized(name, QuantFormat.QDQ))[2]
        times = program.profile({"x": np.zeros(size, np.float32)})
        found = [[part.split()[0] for part in t.label.split(" + ")] for t in times]
        assert joined in found
        assert "add" not in [t.op for t in times]


def test_memory_stays_near_what_is_alive(quantized: Any) -> None:
    for name in SHAPES:
        for kernel in both(quantized(name, QuantFormat.QDQ))[2].kernels:
            assert kernel.info.arena_bytes <= 1.2 * kernel.info.live_bytes


def test_one_program_in_several_threads(quantized: Any) -> None:
    path = quantized("classifier", QuantFormat.QDQ)
    program = native.compile(path, threads=2)
    rng = np.random.default_rng(4)
    feeds = [{"x": rng.standard_normal((1, 3, 17, 18)).astype(np.float32)} for _ in range(4)]
    want = [program.run(f)["y"] for f in feeds]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            if not np.array_equal(program.run(feeds[number])["y"], want[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_other_threads_run_meanwhile(quantized: Any) -> None:
    """Python goes on elsewhere during a run; seen once is enough, any one run may be too short."""
    program = native.compile(quantized("classifier", QuantFormat.QDQ), isa="scalar")
    feeds = {"x": np.zeros((1, 3, 17, 18), np.float32)}
    seen, interval = False, sys.getswitchinterval()
    sys.setswitchinterval(60)  # nobody is interrupted: who runs must let go by itself
    try:
        for _ in range(1000):
            started, done = threading.Event(), threading.Event()

            def work(started: threading.Event = started, done: threading.Event = done) -> None:
                started.set()
                program.run(feeds)
                done.set()

            thread = threading.Thread(target=work)
            thread.start()
            started.wait()
            seen = not done.is_set()
            thread.join()
            if seen:
                break
    finally:
        sys.setswitchinterval(interval)
    assert seen


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("axis", [1, -1])
def test_arg_max_is_an_operator_of_ours(axis: int, last: int) -> None:
    """From integers to indices; the first or the last of equal ones, which rounding makes many."""
    model = parser.parse_model(
        HEADER + "main (float[2,9,5] x) => (int64[m,n,o] y) <float s = {0.5}, uint8 z = {128}> {"
        "  q = QuantizeLinear(x, s, z)\n  d = DequantizeLinear(q, s, z)\n"
        f"  y = ArgMax<axis={axis}, select_last_index={last}>(d)\n}}"
    )
    x = np.random.default_rng(5).standard_normal((2, 9, 5)).astype(np.float32)
    program = native.compile(model)
    assert "arg_max" in [op.op for op in program.profile({"x": x})]
    want = exact_session(model).run(None, {"x": x})[0]
    np.testing.assert_array_equal(program.run({"x": x})["y"], want)


def test_open_shapes_are_compiled_when_they_come() -> None:
    model = parser.parse_model(
        HEADER + "main (float[N,4] x) => (float[N,4] y) <float s = {0.5}, uint8 z = {128}> {"
        "  q = QuantizeLinear(x, s, z)\n  d = DequantizeLinear(q, s, z)\n  a = Add(d, d)\n"
        "  p = QuantizeLinear(a, s, z)\n  y = DequantizeLinear(p, s, z)\n}"
    )
    program = native.compile(model)
    for n in (1, 3):
        x = np.linspace(-5, 5, 4 * n, dtype=np.float32).reshape(n, 4)
        want = 2 * np.rint(x / 0.5) * 0.5
        np.testing.assert_array_equal(program.run({"x": x})["y"], want)
    assert not program.reasons


ISLAND = """
main (float[2,6] x) => (float[2,6] y, int64[K,2] where) <float s = {0.1}, uint8 z = {128}> {
  q = QuantizeLinear(x, s, z)
  d = DequantizeLinear(q, s, z)
  c = CumSum(d, one)
  r = QuantizeLinear(c, s, z)
  e = DequantizeLinear(r, s, z)
  n = Neg(e)
  t = QuantizeLinear(n, s, z)
  y = DequantizeLinear(t, s, z)
  nz = NonZero(e)
  where = Transpose(nz)
}"""


def test_what_has_no_integer_form_runs_in_onnxruntime() -> None:
    model = parser.parse_model(HEADER + ISLAND)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1), "one"))
    program = native.compile(model)
    session = exact_session(model)
    x = np.random.default_rng(5).standard_normal((2, 6)).astype(np.float32)
    for ours, theirs in zip(
        program.run({"x": x}).values(), session.run(None, {"x": x}), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert {label.split()[0] for label in program.reasons} == {"CumSum", "NonZero", "Transpose"}


def test_bad_inputs_are_named() -> None:
    model = parser.parse_model(
        HEADER + "main (float[1,4] x) => (float[1,4] y) <float s = {0.5}, uint8 z = {128}> {"
        "  q = QuantizeLinear(x, s, z)\n  y = DequantizeLinear(q, s, z)\n}"
    )
    program = native.compile(model)
    with pytest.raises(DataError, match="no data for the model's input 'x'"):
        program.run({})
    with pytest.raises(DataError, match="input 'x' is float64, the model wants float32"):
        program.run({"x": np.zeros((1, 4))})
    with pytest.raises(DataError, match=r"input 'x' is \[1, 5\], the model wants \[1, 4\]"):
        program.run({"x": np.zeros((1, 5), np.float32)})


QDQ = """
main (float[1,4,8,8] x) => (float y) <float s = {0.5}, uint8 z = {128}> {
  q = QuantizeLinear(x, s, z)
  d = DequantizeLinear(q, s, z)
  BODY
  p = QuantizeLinear(r, s, z)
  y = DequantizeLinear(p, s, z)
}"""


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ('[n] r = AveragePool<kernel_shape=[3,3], auto_pad="SOME">(d)', ModelError, "AutoPad"),
        ('[n] r = MaxPool<kernel_shape=[3,3], auto_pad="SOME">(d)', ModelError, "AutoPad"),
        ("[n] r = Concat<axis=7>(d, d)", ModelError, "n"),
        ("[n] r = Transpose<perm=[0,1,2]>(d)", ModelError, "n"),
        ("[n] r = Nonsense(d)", ModelError, "Nonsense"),
        ("[n] r = Expand(d, large)", MemoryError, "allocate"),
    ],
)
def test_a_bad_operator_is_named(body: str, error: type[Exception], message: str) -> None:
    model = parser.parse_model(HEADER + QDQ.replace("BODY", body))
    if "large" in body:  # more than any machine can address
        large = np.array([10**7, 10**7, 4, 8, 8])
        model.graph.initializer.append(onnx.numpy_helper.from_array(large, "large"))
    with pytest.raises(error, match=f"(?s)'n'.*{message}"):
        native.compile(model).run({"x": np.zeros((1, 4, 8, 8), np.float32)})


def test_weights_are_stored_once() -> None:
    """Packed for the kernels; the graph that they came in is let go."""
    model = parser.parse_model(
        HEADER + "main (float[1,512] x) => (float[1,512] y) <float s = {0.5}, uint8 z = {128}> {"
        "  q = QuantizeLinear(x, s, z)\n  d = DequantizeLinear(q, s, z)\n"
        "  e = DequantizeLinear(w, s, zw)\n  y = MatMul(d, e)\n}"
    )
    weights = np.random.default_rng(0).integers(-127, 128, (512, 512)).astype(np.int8)
    for name, array in (("w", weights), ("zw", np.array(0, np.int8))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    graph = load(model)
    alive = weakref.ref(graph)
    program = native.compile(graph)
    del graph, model
    gc.collect()
    assert alive() is None
    (kernel,) = program.kernels
    assert weights.nbytes <= kernel.info.constant_bytes <= 1.1 * weights.nbytes


def test_what_has_no_elements_runs_elsewhere() -> None:
    model = parser.parse_model(
        HEADER
        + """
        main (float[2,0,4] x) => (float[2,0,4] y) <float s = {0.5}, uint8 z = {3}> {
            q = QuantizeLinear(x, s, z)
            y = DequantizeLinear(q, s, z)
        }"""
    )
    program = native.compile(model)
    assert program.run({"x": np.zeros((2, 0, 4), np.float32)})["y"].shape == (2, 0, 4)
    assert set(program.reasons.values()) == {"a tensor without elements"}
