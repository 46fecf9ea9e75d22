"""Time whole models, and their operators one by one, in the engine they are made for."""

from __future__ import annotations

import importlib.util
import math
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from ..errors import UsageError
from ..graph import Graph
from ..onnx_io import save
from ..processor import description
from ..tensor import Array

Feeds = Mapping[str, Array]
Session = Callable[[Feeds], Any]
ADAPTERS = {
    "native": "ptq_opt.native.engine",  # a layer above this one, named only
    "onnxruntime": "ptq_opt.ir.engines.onnxruntime",
    "openvino": "ptq_opt.ir.engines.openvino",
}
"""Engine -> the module that knows it, loaded on use."""
PACKAGES = {"native": "ptq_opt.native", "onnxruntime": "onnxruntime", "openvino": "openvino"}
"""Engine -> the Python package that has it."""
MIN_ROUNDS, MAX_ROUNDS = 5, 200


@dataclass(frozen=True)
class Event:
    """An operator of the engine's optimized graph.

    Attributes:
        op: its type there.
        names: its name and those of its results.
        time: nanoseconds of one run.
    """

    op: str
    names: tuple[str, ...]
    time: float


def installed(engine: str) -> bool:
    """True when this machine has the engine."""
    return engine in PACKAGES and importlib.util.find_spec(PACKAGES[engine]) is not None


def version(engine: str) -> str:
    """The engine's name and version."""
    return f"{engine} {_adapter(engine).version()}"


def machine() -> str:
    """The name of this machine's processor."""
    found = re.search(r"^model name\s*:\s*(.+)$", description(), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def latencies(
    engine: str, graphs: Mapping[str, Graph], feeds: Feeds, *, threads: int, seconds: float
) -> dict[str, float]:
    """Median nanoseconds of each graph, see `rounds`."""
    taken = rounds(engine, graphs, feeds, threads=threads, seconds=seconds)
    return {name: statistics.median(times) for name, times in taken.items()}


def rounds(
    engine: str, graphs: Mapping[str, Graph], feeds: Feeds, *, threads: int, seconds: float
) -> dict[str, list[float]]:
    """Nanoseconds of each graph in every round; in one all run, so that a disturbance meets all.

    Args:
        engine: a key of `PACKAGES` that is `installed`.
        graphs: by name; quantized ones in Q/DQ form.
        feeds: one sample.
        threads: of each session; 0 for one per core.
        seconds: bound of the whole, once each graph has run `MIN_ROUNDS` times.

    Raises:
        ModelError: the engine refuses a graph.
    """
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for k, (name, graph) in enumerate(graphs.items()):
            path = Path(folder) / f"{k}.onnx"
            save(graph, path)
            sessions[name] = opened(engine, path, threads)
        return in_turn(sessions, feeds, seconds, alone=threads == 1)


def opened(engine: str, path: Path, threads: int) -> Session:
    """A session of a file; inputs that the graph does not have may be fed.

    Raises:
        ModelError: the engine refuses the file.
    """
    return _adapter(engine).opened(path, threads)


def interleaved(
    sessions: Mapping[str, Session], feeds: Feeds, seconds: float, *, alone: bool = False
) -> dict[str, float]:
    """Median nanoseconds of sessions that run in turn, see `in_turn`."""
    taken = in_turn(sessions, feeds, seconds, alone=alone)
    return {name: statistics.median(times) for name, times in taken.items()}


def in_turn(
    sessions: Mapping[str, Session], feeds: Feeds, seconds: float, *, alone: bool
) -> dict[str, list[float]]:
    """Nanoseconds of sessions in every round, in which each runs once.

    Sessions of one thread (`alone`) are timed by what the process computes, so that others that
    share the processor do not count.
    """
    clock = time.process_time_ns if alone else time.perf_counter_ns
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for session in sessions.values():
        session(feeds)
    begin = time.perf_counter()
    for count in range(MAX_ROUNDS):
        if count >= MIN_ROUNDS and time.perf_counter() - begin > seconds:
            break
        for name, session in sessions.items():
            start = clock()
            session(feeds)
            times[name].append(clock() - start)
    return times


def profile(
    engine: str,
    graphs: Sequence[Graph],
    feeds: Feeds,
    *,
    threads: int,
    runs: int,
    seconds: float = math.inf,
) -> list[list[Event]]:
    """The operators of each graph with their times; the graphs run in turn.

    Args:
        engine: a key of `PACKAGES` that is `installed`.
        graphs: quantized ones in Q/DQ form.
        feeds: one sample.
        threads: of each session; 0 for one per core.
        runs: of each graph, after one that is not counted.
        seconds: bound of the whole, once each graph has run `MIN_ROUNDS` times.

    Raises:
        ModelError: the engine refuses a graph.
    """
    adapter = _adapter(engine)
    with tempfile.TemporaryDirectory() as folder:
        profiles = [
            adapter.Profile(graph, Path(folder) / f"{k}.onnx", threads)
            for k, graph in enumerate(graphs)
        ]
        begin = time.perf_counter()
        for count in range(runs + 1):
            if count > MIN_ROUNDS and time.perf_counter() - begin > seconds:
                break
            for each in profiles:
                each.run(feeds)
        return [each.events() for each in profiles]


class Profile(Protocol):
    """A session whose operators are timed."""

    def __init__(self, graph: Graph, path: Path, threads: int) -> None:
        """Open `graph`; `path` is where files of the session may go."""

    def run(self, feeds: Feeds) -> None:
        """Run once."""

    def events(self) -> list[Event]:
        """The operators and their times; the session ends."""


class Adapter(Protocol):
    """What is known of an engine: a module with these names."""

    Profile: type[Profile]

    def version(self) -> str:
        """The engine's version."""

    def opened(self, path: Path, threads: int) -> Session:
        """A session of a file; `ModelError` when the engine refuses it."""


def _adapter(engine: str) -> Adapter:
    if engine not in ADAPTERS:
        raise UsageError(f"there is no engine '{engine}' to time models with")
    return cast(Adapter, importlib.import_module(ADAPTERS[engine]))


def settled(times: Sequence[float]) -> float:
    """The mean of the fastest quarter: other processes only add, profiles count microseconds."""
    fastest = sorted(times)[: max(len(times) // 4, 1)]
    return statistics.fmean(fastest)
