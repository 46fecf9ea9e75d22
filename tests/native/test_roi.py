"""RoiAlign of quantized images, to the bit as ONNX Runtime has it, and what surrounds it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser
from sessions import exact_session

from ptq_opt import native
from ptq_opt.ir import ModelError, load
from ptq_opt.native.prepare import specialize

IMAGES, REGIONS = (2, 37, 9, 11), 6
QUANTIZED = "q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)"
FIXED = """
<ir_version: 9, opset_import: ["" : OPSET]>
main (float[2,37,9,11] x, float[6,4] regions, int64[6] batch) => (float[6,37,h,w] y)
  <float s = {0.03}, TYPE z = {ZERO}> {
  QUANTIZED
  y = RoiAlign<ATTRIBUTES>(d, regions, batch)
}"""
OPEN = """
<ir_version: 9, opset_import: ["" : 16]>
main (float[2,37,9,11] x, float[6,4] regions, int64[6] batch, bool[6] wanted) => (y)
  <float s = {0.03}, uint8 z = {117}, int64[1] first = {0}> {
  QUANTIZED
  found = NonZero(wanted)
  rows = Squeeze(found, first)
  some = Gather(regions, rows)
  images = Gather(batch, rows)
  y = RoiAlign<output_height=3, output_width=2, spatial_scale=0.5>(d, some, images)
}"""


def model(text: str, **words: Any) -> onnx.ModelProto:
    for word, value in {"QUANTIZED": QUANTIZED, **words}.items():
        text = text.replace(word, str(value))
    made = parser.parse_model(text)
    for value in made.graph.output:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return made


def feeds() -> dict[str, Any]:
    """Regions inside, across the border, outside, of no size and turned around."""
    rng = np.random.default_rng(5)
    corners = [(1, 2, 9, 7), (-6, -3, 30, 40), (500, 500, 600, 700), (4, 4, 4, 4)]
    odd = [(15.7, 3.2, 18.9, 19.1), (0, 0, 0.5, 0.5)]
    return {
        "x": rng.normal(0, 1.5, IMAGES).astype(np.float32),
        "regions": np.array(corners + odd, np.float32),
        "batch": np.array([0, 1, 1, 0, 1, 0]),
    }


MODES = list(
    itertools.product(
        ("avg", "max"), ("half_pixel", "output_half_pixel"), (0, 1, 3), ("uint8", "int8")
    )
)


@pytest.mark.parametrize(("mode", "transformation", "ratio", "dtype"), MODES)
@pytest.mark.parametrize("isa", ["scalar", None])
def test_every_mode(
    mode: str, transformation: str, ratio: int, dtype: str, isa: str | None
) -> None:
    attrs = f'mode="{mode}", coordinate_transformation_mode="{transformation}", '
    attrs += f"sampling_ratio={ratio}, output_height=3, output_width=2, spatial_scale=0.5"
    zero = 117 if dtype == "uint8" else -11
    made = model(FIXED, OPSET=16, TYPE=dtype, ZERO=zero, ATTRIBUTES=attrs)
    program = native.compile(made, isa=isa)
    (want,) = exact_session(made).run(None, feeds())
    np.testing.assert_array_equal(program.run(feeds())["y"], want)
    assert not program.reasons


@pytest.mark.parametrize("opset", [10, 16])
def test_what_is_left_out(opset: int) -> None:
    """Before opset 16 there is no half pixel."""
    made = model(FIXED, OPSET=opset, TYPE="uint8", ZERO=3, ATTRIBUTES="sampling_ratio=2")
    (want,) = exact_session(made).run(None, feeds())
    np.testing.assert_array_equal(native.compile(made).run(feeds())["y"], want)


def test_constant_regions() -> None:
    made = model(FIXED, OPSET=16, TYPE="uint8", ZERO=3, ATTRIBUTES="output_width=4")
    given = feeds()
    for name in ("regions", "batch"):
        made.graph.input.remove(next(v for v in made.graph.input if v.name == name))
        made.graph.initializer.append(onnx.numpy_helper.from_array(given.pop(name), name))
    (want,) = exact_session(made).run(None, given)
    np.testing.assert_array_equal(native.compile(made).run(given)["y"], want)


def test_any_number_of_regions() -> None:
    made = model(OPEN)
    program, session = native.compile(made, threads=2), exact_session(made)
    for count in (2, 6, 0, 1):
        given = feeds() | {"wanted": np.arange(REGIONS) < count}
        (want,) = session.run(None, given)
        found = program.run(given)["y"]
        assert found.shape == (count, 37, 3, 2)
        np.testing.assert_array_equal(found, want)
    assert not any("RoiAlign" in node for node in program.reasons)
    assert "roi_align" in {time.op for time in program.profile(given)}


@pytest.mark.parametrize("text", [FIXED, OPEN])
@pytest.mark.parametrize("name", ["batch", "regions"])
def test_what_cannot_be_sampled_is_named(text: str, name: str) -> None:
    made = model(text, OPSET=16, TYPE="uint8", ZERO=3, ATTRIBUTES="output_width=4")
    given = feeds() | ({"wanted": np.ones(REGIONS, bool)} if text == OPEN else {})
    given[name][2] = 2 if name == "batch" else (0, 0, 1e9, 5)
    with pytest.raises(ModelError, match="RoiAlign 'y': an index lies outside its axis, or a reg"):
        native.compile(made).run(given)


SCATTER = """
<ir_version: 9, opset_import: ["" : 16]>
main (float[5,3,2] data, float[K,3,2] updates, int64[K] places) => (float[5,3,2] y)
  <int64[3] column = {-1,1,1}, int64[3] one = {1,1,1}> {
  rows = Reshape(places, column)
  size = Shape(updates)
  index = Expand(rows, size)
  y = ScatterElements<axis=0ATTRIBUTES>(data, index, updates)
}"""


def test_rows_that_are_written_one_element_at_a_time() -> None:
    """Exporters write so; one index a row does as well."""
    made = model(SCATTER, ATTRIBUTES="")
    graph = specialize(load(made), {})
    assert [node.op for node in graph][-1] == "ScatterND"
    rng = np.random.default_rng(0)
    given = {
        "data": rng.normal(size=(5, 3, 2)).astype(np.float32),
        "updates": rng.normal(size=(2, 3, 2)).astype(np.float32),
        "places": np.array([3, -4]),
    }
    (want,) = exact_session(made).run(None, given)
    np.testing.assert_array_equal(native.compile(made).run(given)["y"], want)


@pytest.mark.parametrize(
    "change",
    [
        ("ATTRIBUTES", ', reduction="add"'),
        ("axis=0ATTRIBUTES", "axis=1"),
        ("float[K,3,2]", "float[K,2,2]"),
        ("column = {-1,1,1}", "column = {1,-1,1}"),
    ],
)
def test_other_scattering_stays(change: tuple[str, str]) -> None:
    graph = specialize(load(model(SCATTER.replace(*change), ATTRIBUTES="")), {})
    assert [node.op for node in graph][-1] == "ScatterElements"
