"""Whole models and single operators are timed in the engine that runs them."""

import numpy as np
import pytest
from rewriting import net, noise

from ptq_opt.ir import Graph, ModelError, UsageError
from ptq_opt.ir.engines import installed, interleaved, latencies, machine, profile, version

ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(not installed(name), reason="not installed"))
    for name in ("native", "onnxruntime", "openvino")
]
FEEDS = {"x": noise(1, 16, 8, 8)}


def two_operators() -> Graph:
    graph = net("t = Conv (x, w)\n y = Erf(t)", "float[1,16,8,8] x", w=noise(16, 16, 1, 1))
    for node in graph:
        node.name = f"the{node.op}"
    return graph


@pytest.mark.parametrize("engine", ENGINES)
def test_a_profile_names_every_operator(engine: str) -> None:
    (events,) = profile(engine, [two_operators()], FEEDS, threads=1, runs=3)
    names = {name for event in events for name in event.names}
    assert {"theErf", "y"} & names
    assert any("Conv" in event.op and event.time > 0 for event in events)
    assert all(event.time >= 0 for event in events)


@pytest.mark.parametrize("engine", ENGINES)
def test_graphs_are_timed_side_by_side(engine: str) -> None:
    graphs = {"a": two_operators(), "b": two_operators()}
    found = latencies(engine, graphs, FEEDS | {"unused": noise(3)}, threads=1, seconds=0.01)
    assert set(found) == {"a", "b"}
    assert all(time > 0 for time in found.values())
    assert version(engine).startswith(engine)
    assert machine()


def test_sessions_take_turns() -> None:
    calls: list[str] = []
    interleaved({"a": lambda _: calls.append("a"), "b": lambda _: calls.append("b")}, {}, 0.0)
    assert calls == ["a", "b"] * 6


def test_no_such_engine() -> None:
    assert not installed("tensorrt")
    with pytest.raises(UsageError, match="no engine 'tensorrt'"):
        latencies("tensorrt", {"a": two_operators()}, FEEDS, threads=1, seconds=0.01)


def test_a_model_that_the_engine_refuses() -> None:
    graph = net("y = NoSuchOperator(x)", "float[1,2] x")
    with pytest.raises(ModelError, match="refuses the model"):
        latencies("onnxruntime", {"a": graph}, {"x": np.zeros((1, 2))}, threads=1, seconds=0.01)
