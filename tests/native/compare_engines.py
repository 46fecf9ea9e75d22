"""Latency of quantized models here, in ONNX Runtime and in OpenVINO: one run, rounds interleaved.

    python compare_engines.py [--threads N] [--rounds N] MODEL.onnx ...

With one thread the clock is processor time, which other work on the machine disturbs little; with
more it is wall time. Each engine runs three times in a row before the next one does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from ptq_opt import native


def feeds_for(session: ort.InferenceSession) -> dict[str, Any]:
    rng = np.random.default_rng(7)
    feeds = {}
    for value in session.get_inputs():
        shape = [d if isinstance(d, int) else 1 for d in value.shape]
        feeds[value.name] = rng.standard_normal(shape).astype(np.float32)
    return feeds


def openvino_engine(path: Path, feeds: dict[str, Any], threads: int) -> Callable[[], Any] | None:
    """OpenVINO on this model; None where it is not installed or refuses the model."""
    try:
        import openvino
    except ImportError:
        return None
    core = openvino.Core()
    model = core.read_model(path)
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    try:
        model.reshape({name: array.shape for name, array in feeds.items()})
        request = core.compile_model(model, "CPU", options).create_infer_request()
    except RuntimeError as error:
        print(f"{path.stem}: OpenVINO refuses it: {str(error).splitlines()[0]}")
        return None
    return lambda: request.infer(feeds)


def engines(path: Path, threads: int) -> dict[str, Callable[[], Any]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = feeds_for(session)
    program = native.compile(path, threads=threads)
    found: dict[str, Callable[[], Any]] = {
        "ptq": lambda: program.run(feeds),
        "onnxruntime": lambda: session.run(None, feeds),
    }
    other = openvino_engine(path, feeds, threads)
    return {**found, "openvino": other} if other else found


def measure(runs: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]) -> Any:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            for _ in range(3):
                start = clock()
                run()
                times[name].append(1e3 * (clock() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("models", nargs="+", type=Path)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--rounds", type=int, default=10)
    options = arguments.parse_args()
    clock = time.process_time if options.threads == 1 else time.perf_counter
    ratios = []
    for path in options.models:
        medians = measure(engines(path, options.threads), options.rounds, clock)
        ratio = min(v for k, v in medians.items() if k != "ptq") / medians["ptq"]
        ratios.append(ratio)
        shown = "  ".join(f"{name} {value:.2f} ms" for name, value in medians.items())
        print(f"{path.stem:40s} {shown}  ratio to the better {ratio:.2f}", flush=True)
    print(f"geometric mean {np.exp(np.mean(np.log(ratios))):.2f}")


if __name__ == "__main__":
    main()
