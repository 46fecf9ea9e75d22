"""How fast files run in ONNX Runtime, and what conversions its optimizer leaves in them."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray

Feeds = Mapping[str, NDArray[Any]]

MIN_ROUNDS, MAX_ROUNDS = 5, 200


def session_options(threads: int) -> ort.SessionOptions:
    """Quiet options; 0 threads means all cores."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    # Idle threads of one session must not take the cores from the session that is timed.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def interleaved_latency(
    files: Mapping[str, Path], feeds: Feeds, threads: int, seconds: float
) -> dict[str, float | str]:
    """Median milliseconds of each file, or why it does not run.

    The files run in turn, round after round, so that a disturbance meets all of them. ``seconds``
    bounds the time of all rounds together, once each file has run ``MIN_ROUNDS`` times.
    """
    sessions: dict[str, Any] = {}
    result: dict[str, float | str] = {}
    for name, file in files.items():
        try:
            session = ort.InferenceSession(
                file, session_options(threads), providers=["CPUExecutionProvider"]
            )
            session.run(None, dict(feeds))
            sessions[name] = session
        except Exception as error:  # the engine's own classes have no common base but this
            result[name] = first_line(error)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    begin = time.perf_counter()
    for count in range(MAX_ROUNDS):
        if count >= MIN_ROUNDS and time.perf_counter() - begin > seconds:
            break
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, dict(feeds))
            times[name].append(1000 * (time.perf_counter() - start))
    return result | {name: statistics.median(taken) for name, taken in times.items() if taken}


def conversions_left(file: Path) -> tuple[int, int]:
    """Number of QuantizeLinear and DequantizeLinear after the extended optimization."""
    options = session_options(1)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(optimized)
        ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        kinds = [node.op_type for node in onnx.load(optimized).graph.node]
    return kinds.count("QuantizeLinear"), kinds.count("DequantizeLinear")


def first_line(error: BaseException) -> str:
    """One line that tells what went wrong, short enough for a table."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]
