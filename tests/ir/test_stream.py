"""Models whose weights exceed memory: run in parts, stored layer by layer."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ptq_opt.ir import DataError, Graph, Tensor
from ptq_opt.ir.evaluate import Runner
from ptq_opt.ir.external import spilling
from ptq_opt.ir.stream import WHOLE, stream
from ptq_opt.ir.tensor_io import ExternalSource
from ptq_opt.ir.text import parse

CHAIN = """
g (float[2, 64] x, float[64, 64] u, float[64, 64] w, int8[64, 64] q)
=> (float[2, 64] y, float[2, 64] z, float[2, 64] r) <float s = {0.5}> {
  a = MatMul(x, u)
  r = Relu(a)
  b = MatMul(r, w)
  f = DequantizeLinear(q, s)
  c = MatMul(b, f)
  y = Add(c, a)
  z = MatMul(r, f)
}"""


def chain() -> Graph:
    """`CHAIN` with weights in place of all inputs but x."""
    graph = parse(CHAIN)
    rng = np.random.default_rng(0)
    for value in graph.inputs[1:]:
        assert value.dtype is not None
        weights = rng.normal(0, 9, (64, 64)).astype(value.dtype.numpy)
        value.const = Tensor(weights)
    del graph.inputs[1:]
    return graph


@pytest.fixture
def small_whole() -> Iterator[None]:
    before = WHOLE.set(20_000)
    yield
    WHOLE.reset(before)


X = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)


def test_parts_give_what_the_whole_gives(small_whole: None) -> None:
    graph = chain()
    fetch = [graph.find(name) for name in "yzrbr"]
    streamed = stream(graph, fetch, Runner)
    assert streamed is not None and len(streamed._parts) == 3
    found = Runner(graph, fetch).run({"x": X})
    before = WHOLE.set(1 << 31)
    expected = Runner(graph, fetch).run({"x": X})
    WHOLE.reset(before)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_parts_say_which_input_is_missing(small_whole: None) -> None:
    with pytest.raises(DataError, match="no data for the model's input 'x'"):
        Runner(chain()).run({})


def test_integers_count_as_the_floats_they_stand_for(small_whole: None) -> None:
    graph = parse("""
    g (float[2, 64] x, int8[64, 64] p, int8[64, 64] q) => (float[2, 64] z) <float s = {0.5}> {
      a = DequantizeLinear(p, s)
      b = DequantizeLinear(q, s)
      y = MatMul(x, a)
      z = MatMul(y, b)
    }""")
    for value in graph.inputs[1:]:
        value.const = Tensor(np.ones((64, 64), np.int8))
    del graph.inputs[1:]
    streamed = stream(graph, graph.outputs, Runner)
    assert streamed is not None and len(streamed._parts) == 2


def test_a_graph_that_fits_is_run_as_a_whole() -> None:
    assert stream(chain(), chain().outputs, Runner) is None


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_large_tensors_are_kept_on_disk(dtype: type) -> None:
    data = np.arange(1 << 20).astype(dtype)
    with spilling():
        tensors = [Tensor(data), Tensor(data[:3]), Tensor(data[::-1])]
    assert [isinstance(t.source, ExternalSource) for t in tensors] == [True, False, True]
    for tensor, expected in zip(tensors, (data, data[:3], data[::-1]), strict=True):
        np.testing.assert_array_equal(tensor.numpy(), expected)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_weights(tmp_path: Path) -> None:
    """0.4 GB of weights of at most 33 MB each: Python, numpy and onnx alone take 0.1 GB."""
    script = Path(__file__).parents[1] / "large_weights.py"
    command = [sys.executable, script, "--gigabytes=0.4", "--width=512", "--tokens=16000"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"peak memory ([\d.]+) GB", told)
    assert found is not None and float(found[1]) < 0.35, told
