"""Layouts: which changes of shape and size need no copy."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper, parser
from sessions import exact_session

from ptq_opt import native
from ptq_opt.native.lowering import reshaped_order

FACTORS = st.lists(st.integers(1, 4), min_size=1, max_size=5)


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[list[int], list[int], list[int]]:
    """A shape, an order in which it is stored, and another shape of as many elements."""
    shape = draw(FACTORS)
    order = draw(st.permutations(range(len(shape))))
    wanted, rest = [], math.prod(shape)
    while rest > 1:
        wanted.append(draw(st.sampled_from([n for n in range(1, rest + 1) if rest % n == 0])))
        rest //= wanted[-1]
    return shape, list(order), draw(st.permutations([*wanted, *draw(FACTORS.map(_ones))]))


def _ones(found: list[int]) -> list[int]:
    return [1 for n in found if n == 1]


@given(reshapes())
def test_a_view_holds_the_reshaped_elements(case: tuple[list[int], list[int], list[int]]) -> None:
    shape, order, wanted = case
    array = np.arange(math.prod(shape)).reshape(shape)
    found = reshaped_order(shape, order, wanted)
    if found is None:
        return
    assert sorted(found) == list(range(len(wanted)))
    memory = array.transpose(order).reshape(-1)
    view = memory.reshape([wanted[d] for d in found]).transpose(np.argsort(found))
    np.testing.assert_array_equal(view, array.reshape(wanted))


@pytest.mark.parametrize(
    ("shape", "order", "wanted", "found"),
    [
        ((1, 324, 9, 8), (0, 2, 3, 1), (1, 4, 81, 9, 8), (0, 3, 4, 1, 2)),
        ((2, 6, 5, 4), (0, 2, 3, 1), (2, 6, 20), (0, 2, 1)),
        ((2, 6, 5, 4), (0, 2, 3, 1), (2, 30, 4), None),
        ((2, 3, 4), (0, 1, 2), (24,), (0,)),
        ((1, 1), (1, 0), (1, 1, 1), (0, 1, 2)),
    ],
)
def test_dimensions_that_stay_side_by_side(
    shape: tuple[int, ...],
    order: tuple[int, ...],
    wanted: tuple[int, ...],
    found: tuple[int, ...] | None,
) -> None:
    assert reshaped_order(shape, order, wanted) == found


QDQ = """<ir_version: 8, opset_import: ["" : 17]>
main (float[1,12,6,5] x) => (float y) <float s = {0.05}, uint8 z = {100}> {
  q = QuantizeLinear(x, s, z)
  d = DequantizeLinear(q, s, z)
  BODY
  rq = QuantizeLinear(r, s, z)
  y = DequantizeLinear(rq, s, z)
}"""


@pytest.mark.parametrize(
    ("body", "kinds"),
    [
        (
            """m = MaxPool<kernel_shape=[1,1]>(d)
            split = Constant<value_ints=[1,3,4,6,5]>()
            joined = Constant<value_ints=[1,90,4]>()
            p = Reshape(m, split)
            t = Transpose<perm=[0,3,4,1,2]>(p)
            r = Reshape(t, joined)""",
            {"max_pool"},
        ),
        (
            """sizes = Constant<value_ints=[1,12,6,5]>()
            r = Resize<mode="linear">(d, , , sizes)""",
            set(),
        ),
    ],
    ids=["heads of detectors", "a Resize to the same size"],
)
def test_nothing_is_copied(body: str, kinds: set[str]) -> None:
    model: onnx.ModelProto = parser.parse_model(QDQ.replace("BODY", body))
    x = {"x": np.random.default_rng(0).standard_normal((1, 12, 6, 5)).astype(np.float32)}
    program = native.compile(model)
    assert not program.reasons
    assert {t.op for t in program.profile(x)} == {"quantize", "dequantize", *kinds}
    wanted = exact_session(model).run(None, x)[0]
    np.testing.assert_allclose(program.run(x)["y"], wanted, atol=1e-6)


@pytest.mark.parametrize("rows", [12, 30], ids=["rows and columns differ", "are alike"])
def test_a_matrix_product_of_what_is_stored_channels_last(rows: int) -> None:
    shape = (1, rows, 6, 5)
    body = f"""m = MaxPool<kernel_shape=[1,1]>(d)
        sizes = Constant<value_ints=[1,{rows},30]>()
        p = Reshape(m, sizes)
        w = DequantizeLinear(wq, ws)
        r = MatMul(p, w)"""
    text = QDQ.replace("BODY", body).replace("1,12,6,5", f"1,{rows},6,5")
    model: onnx.ModelProto = parser.parse_model(text)
    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 128, (30, 30)).astype(np.int8)
    model.graph.initializer.extend(
        [numpy_helper.from_array(weights, "wq"), numpy_helper.from_array(np.float32(0.002), "ws")]
    )
    x = {"x": rng.standard_normal(shape).astype(np.float32)}
    program = native.compile(model)
    assert not program.reasons
    wanted = exact_session(model).run(None, x)[0]
    np.testing.assert_allclose(program.run(x)["y"], wanted, atol=1e-6)


def test_a_mean_over_no_axes_is_left_to_onnxruntime() -> None:
    text = QDQ.replace("BODY", "r = ReduceMean<keepdims=0>(d)").replace("[1,12,6,5]", "[]")
    model: onnx.ModelProto = parser.parse_model(text)
    found = native.compile(model).run({"x": np.float32(0.5).reshape(())})
    assert float(found["y"]) == pytest.approx(0.5)
