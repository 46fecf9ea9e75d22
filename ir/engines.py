"""Time whole models, and their operators one by one, in the engine they are made for."""

from __future__ import annotations

import importlib.util
import json
import platform
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ModelError, UsageError
from .graph import Graph
from .onnx_io import save
from .tensor import Array

Feeds = Mapping[str, Array]
Session = Callable[[Feeds], Any]
MODULES = {"onnxruntime": "onnxruntime", "openvino": "openvino"}
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
    return engine in MODULES and importlib.util.find_spec(MODULES[engine]) is not None


def version(engine: str) -> str:
    """The engine's name and version."""
    return f"{engine} {importlib.import_module(MODULES[engine]).__version__}"


def machine() -> str:
    """The name of this machine's processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def latencies(
    engine: str, graphs: Mapping[str, Graph], feeds: Feeds, *, threads: int, seconds: float
) -> dict[str, float]:
    """Median nanoseconds of each graph; they run in turn, so that a disturbance meets all.

    Args:
        engine: a key of `MODULES` that is `installed`.
        graphs: by name; quantized ones in Q/DQ form.
        feeds: one sample.
        threads: of each session; 0 for one per core.
        seconds: bound of the whole, once each graph has run `MIN_ROUNDS` times.

    Raises:
        ModelError: the engine refuses a graph.
    """
    with tempfile.TemporaryDirectory() as folder:
        sessions = {
            name: _open(engine, graph, Path(folder) / f"{k}.onnx", threads)
            for k, (name, graph) in enumerate(graphs.items())
        }
        return interleaved(sessions, feeds, seconds, alone=threads == 1)


def interleaved(
    sessions: Mapping[str, Session], feeds: Feeds, seconds: float, *, alone: bool = False
) -> dict[str, float]:
    """Median nanoseconds of sessions that run in turn.

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
    return {name: statistics.median(taken) for name, taken in times.items()}


def profile(
    engine: str, graphs: Sequence[Graph], feeds: Feeds, *, threads: int, runs: int
) -> list[list[Event]]:
    """The operators of each graph with their median times; the graphs run in turn.

    Raises:
        ModelError: the engine refuses a graph.
    """
    with tempfile.TemporaryDirectory() as folder:
        make = _OnnxRuntimeProfile if engine == "onnxruntime" else _OpenvinoProfile
        profiles = [
            make(graph, Path(folder) / f"{k}.onnx", threads) for k, graph in enumerate(graphs)
        ]
        for _ in range(runs + 1):
            for each in profiles:
                each.run(feeds)
        return [each.events() for each in profiles]


def _open(engine: str, graph: Graph, path: Path, threads: int) -> Session:
    save(graph, path)
    if engine == "onnxruntime":
        session = _onnxruntime(path, threads)
        names = {info.name for info in session.get_inputs()}
        return lambda feeds: session.run(None, {k: v for k, v in feeds.items() if k in names})
    if engine == "openvino":
        request = _openvino(path, threads)
        return lambda feeds: request.infer(_by_position(request, feeds))
    raise UsageError(f"there is no engine '{engine}' to time models with")


def _onnxruntime(path: Path, threads: int, **options: Any) -> Any:
    import onnxruntime as ort

    given = ort.SessionOptions()
    given.log_severity_level = 4
    given.intra_op_num_threads = threads
    # Idle threads of one session must not take the cores from the session that is timed.
    given.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in options.items():
        setattr(given, key, value)
    try:
        return ort.InferenceSession(str(path), given, providers=["CPUExecutionProvider"])
    except Exception as error:  # each status code of ONNX Runtime has a class of its own
        raise ModelError(f"ONNX Runtime refuses the model: {error}") from None


def _openvino(path: Path, threads: int, **config: Any) -> Any:
    import openvino

    config["PERFORMANCE_HINT"] = "LATENCY"
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    try:
        core = openvino.Core()
        return core.compile_model(core.read_model(path), "CPU", config).create_infer_request()
    except RuntimeError as error:
        raise ModelError(f"OpenVINO refuses the model: {str(error).strip()}") from None


def _by_position(request: Any, feeds: Feeds) -> list[Array]:
    return [feeds[port.any_name] for port in request.model_inputs]


class _OnnxRuntimeProfile:
    """Times of the nodes that ONNX Runtime executes."""

    def __init__(self, graph: Graph, path: Path, threads: int) -> None:
        save(graph, path)
        self._optimized = path.with_suffix(".optimized.onnx")
        self._session = _onnxruntime(
            path,
            threads,
            enable_profiling=True,
            profile_file_prefix=str(path.with_suffix("")),
            optimized_model_filepath=str(self._optimized),
        )
        self._names = {info.name for info in self._session.get_inputs()}

    def run(self, feeds: Feeds) -> None:
        self._session.run(None, {k: v for k, v in feeds.items() if k in self._names})

    def events(self) -> list[Event]:
        import onnx

        told = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        optimized = onnx.load(self._optimized, load_external_data=False)
        results = {node.name: tuple(node.output) for node in optimized.graph.node}
        taken: dict[tuple[str, str], list[float]] = defaultdict(list)
        for entry in told:
            name = entry.get("name", "")
            if entry.get("cat") == "Node" and name.endswith("_kernel_time"):
                key = entry["args"]["op_name"], name.removesuffix("_kernel_time")
                taken[key].append(1000.0 * entry["dur"])
        return [
            Event(op, (name, *results.get(name, ())), _settled(times))
            for (op, name), times in taken.items()
        ]


class _OpenvinoProfile:
    """Times of the operators that OpenVINO's CPU plugin executes."""

    def __init__(self, graph: Graph, path: Path, threads: int) -> None:
        save(graph, path)
        self._request = _openvino(path, threads, PERF_COUNT=True)
        self._taken: dict[tuple[str, str], list[float]] = defaultdict(list)

    def run(self, feeds: Feeds) -> None:
        self._request.infer(_by_position(self._request, feeds))
        for info in self._request.profiling_info:
            key = info.node_type, info.node_name
            self._taken[key].append(1e9 * info.real_time.total_seconds())

    def events(self) -> list[Event]:
        return [
            Event(op, (name,), _settled(times))
            for (op, name), times in self._taken.items()
            if max(times) > 0
        ]


def _settled(times: Sequence[float]) -> float:
    """The mean of the fastest quarter: other processes only add, profiles count microseconds."""
    fastest = sorted(times)[: max(len(times) // 4, 1)]
    return statistics.fmean(fastest)
