"""OpenVINO on CPUs."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..graph import Graph
from ..onnx_io import save
from ..tensor import Array
from . import Event, Feeds, Session, settled


def version() -> str:
    """The installed one."""
    import openvino

    return str(openvino.__version__)


def opened(path: Path, threads: int) -> Session:
    """A session; inputs that the graph does not have may be fed."""
    request = _request(path, threads)
    return lambda feeds: request.infer(_by_position(request, feeds))


def _request(path: Path, threads: int, **config: Any) -> Any:
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


class Profile:
    """Times of the operators that OpenVINO's CPU plugin executes."""

    def __init__(self, graph: Graph, path: Path, threads: int) -> None:
        save(graph, path)
        self._request = _request(path, threads, PERF_COUNT=True)
        self._taken: dict[tuple[str, str], list[float]] = defaultdict(list)

    def run(self, feeds: Feeds) -> None:
        """Run once."""
        self._request.infer(_by_position(self._request, feeds))
        for info in self._request.profiling_info:
            key = info.node_type, info.node_name
            self._taken[key].append(1e9 * info.real_time.total_seconds())

    def events(self) -> list[Event]:
        """What ran, with its times."""
        return [
            Event(op, (name,), settled(times))
            for (op, name), times in self._taken.items()
            if max(times) > 0
        ]
