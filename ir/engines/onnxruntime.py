"""ONNX Runtime on CPUs."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..graph import Graph
from ..onnx_io import save
from . import Event, Feeds, Session, settled


def version() -> str:
    """The installed one."""
    import onnxruntime as ort

    return str(ort.__version__)


def opened(path: Path, threads: int) -> Session:
    """A session; inputs that the graph does not have may be fed."""
    session = _session(path, threads)
    names = {info.name for info in session.get_inputs()}
    return lambda feeds: session.run(None, {k: v for k, v in feeds.items() if k in names})


def _session(path: Path, threads: int, **options: Any) -> Any:
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


class Profile:
    """Times of the nodes that ONNX Runtime executes."""

    def __init__(self, graph: Graph, path: Path, threads: int) -> None:
        save(graph, path)
        self._optimized = path.with_suffix(".optimized.onnx")
        self._session = _session(
            path,
            threads,
            enable_profiling=True,
            profile_file_prefix=str(path.with_suffix("")),
            optimized_model_filepath=str(self._optimized),
        )
        self._names = {info.name for info in self._session.get_inputs()}

    def run(self, feeds: Feeds) -> None:
        """Run once."""
        self._session.run(None, {k: v for k, v in feeds.items() if k in self._names})

    def events(self) -> list[Event]:
        """What ran, with its times."""
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
            Event(op, (name, *results.get(name, ())), settled(times))
            for (op, name), times in taken.items()
        ]
