"""Graphs, samples and histograms go to other processes and stay what they are."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from small_model import make_samples, small_model
from small_nets import NETS

from ptq_opt.ir import DType, Graph, grid, load, save
from ptq_opt.ir.digest import Unnamed, digest
from ptq_opt.ir.histogram import Histogram
from ptq_opt.ir.samples import open_samples, random_samples
from ptq_opt.ir.text import parse, print_graph
from ptq_opt.ir.verify import verify

BODY = """
g (float[2] x, bool c) => (float[2] y) <float two = {2}> {
  y = If(c) <then_branch = t () => (float[2] a) { a = Mul(x, two) },
             else_branch = e () => (float[2] b) { b = Neg(x) }>
}"""


def travelled(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing, protocol=5))


@pytest.mark.parametrize("graph", [NETS["chain"](), parse(BODY), load(small_model())])
def test_a_graph_arrives_as_it_was(graph: Graph) -> None:
    found = travelled(graph)
    verify(found)
    assert print_graph(found) == print_graph(graph)
    assert save(found).SerializeToString(deterministic=True) == save(graph).SerializeToString(
        deterministic=True
    )
    assert digest(found) == digest(graph)


def test_annotations_arrive_and_shared_grids_stay_shared() -> None:
    graph = NETS["chain"]()
    first, second, *_ = graph.order()
    info = grid(np.float64(0), np.float64(1), DType.UINT8)
    first.output.quant = second.output.quant = info
    first.precision, first.output.origin = "int8", "elsewhere"
    a, b, *_ = travelled(graph).order()
    assert a.output.quant is b.output.quant
    assert (a.precision, a.output.origin) == ("int8", "elsewhere")
    assert (a.output.quant.scale, a.output.quant.dtype) == (info.scale, info.dtype)


def test_nothing_must_be_imported_to_send_a_graph() -> None:
    code = """
import pickle
from ptq_opt.ir import DType, Graph
graph = Graph()
value = graph.input("x", DType.FLOAT, (1,))
for _ in range(3000):
    value = graph.add("Relu", [value]).output
graph.set_outputs([value], ["y"])
assert len(pickle.loads(pickle.dumps(graph))) == 3000
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_deep_graph_does_not_exhaust_the_stack() -> None:
    graph = Graph()
    value = graph.input("x", DType.FLOAT, (1,))
    for _ in range(5000):
        value = graph.add("Relu", [value]).output
    graph.set_outputs([value], ["y"])
    assert len(travelled(graph)) == 5000


def test_any_change_gives_another_digest() -> None:
    graph = load(small_model())
    same, renamed, planned, changed = (load(small_model()) for _ in range(4))
    renamed.order()[0].name = "other"
    planned.order()[0].precision = "int8"
    weights = changed.order()[0].inputs[1]
    assert weights is not None
    bits = weights.numpy().copy()
    bits.flat[0] = np.nextafter(bits.flat[0], 9)
    changed.set_input(changed.order()[0], 1, changed.constant(bits, weights.name))
    assert digest(same) == digest(graph)
    assert len({digest(g) for g in (graph, renamed, planned, changed)}) == 4


def test_digests_tell_kinds_and_nesting_apart() -> None:
    things: list[Any] = [1, 1.0, "1", b"1", True, None, [1], [[1]], [1, 1], {"a": 1}, {"b": 1}]
    things += [np.float32([1]), np.float64([1]), np.float32([[1]]), np.int32([1]), DType.INT8]
    assert len({digest(thing) for thing in things}) == len(things)
    assert digest({"a": frozenset("xyz")}) == digest({"a": frozenset("zyx")})


def test_functions_made_on_the_fly_have_no_digest() -> None:
    with pytest.raises(Unnamed):
        digest({"metric": lambda run: 0.0})
    assert digest(small_model) == digest(small_model) != digest(make_samples)


def sources(folder: Path) -> dict[str, Any]:
    samples = make_samples(5)
    (folder / "each").mkdir()
    for k, feeds in enumerate(samples):
        np.savez(folder / "each" / f"{k}.npz", **feeds)
    np.savez(folder / "stacked.npz", x=np.concatenate([s["x"] for s in samples] * 20))
    np.save(folder / "stacked.npy", np.concatenate([s["x"] for s in samples] * 20))
    return {
        "folder": folder / "each",
        "npz": folder / "stacked.npz",
        "mapped": folder / "stacked.npy",
        "stream": iter(samples),
        "list": samples,
    }


@pytest.mark.parametrize("kind", ["folder", "npz", "mapped", "stream", "list"])
def test_samples_are_read_where_they_are(kind: str, tmp_path: Path) -> None:
    inputs = load(small_model()).inputs
    samples = open_samples(sources(tmp_path)[kind], inputs).spread(4)
    sent = pickle.dumps(samples, protocol=5)
    other = pickle.loads(sent)
    assert kind == "list" or len(sent) < 3000
    assert other.identity() == samples.identity()
    del other  # and its temporary files are not its own
    assert len(list(samples)) == len(samples) == 4
    assert samples[1]["x"].tobytes() == list(samples)[1]["x"].tobytes()
    samples.close()


def test_made_up_samples_are_made_again() -> None:
    samples = random_samples(load(small_model()).inputs, 3, seed=7)
    assert travelled(samples).identity() == samples.identity()
    assert len(set(samples.identity())) == 3


@given(
    st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8), max_size=6),
    st.integers(0, 6),
)
@example([[0.0], [0.0], [15.0], [-1.401298464324817e-45]], 3)  # found: the last one became 0
@example([[1e6], [-1.401298464324817e-45]], 1)
def test_merged_histograms_are_those_of_all(parts: list[list[float]], cut: int) -> None:
    def counted(groups: list[list[float]]) -> Histogram:
        found = Histogram(1, 16)
        for group in groups:
            data = np.float32([group])
            found.add(data, *(np.float64([f(data)]) for f in (np.min, np.max)))
        return found

    merged = counted(parts[cut:])
    merged.merge(counted(parts[:cut]))
    for a, b in zip(merged.parts, counted(parts).parts, strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_of_a_file_arrive(tmp_path: Path) -> None:
    onnx.save(small_model(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    graph = load(tmp_path / "m.onnx")
    assert digest(travelled(graph)) == digest(graph)
