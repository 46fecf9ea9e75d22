"""Load and time model files in OpenVINO; runs under a Python that has it.

``python openvino_worker.py SAMPLE.npz THREADS SECONDS FILE...`` prints one JSON object: per file
the median milliseconds, or why it does not run. With ``serve`` for SECONDS it tells whether the one
FILE runs (``null``, or why not), then runs it as often as each line it reads says, and answers with
the milliseconds, of the processor for one thread. This file imports nothing of ptq_opt. Exits with
3 when OpenVINO is not installed.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

MIN_ROUNDS, MAX_ROUNDS = 5, 200


def main() -> None:
    """Run the command line."""
    sample, threads, seconds, *files = sys.argv[1:]
    try:
        import openvino
    except ModuleNotFoundError as error:
        print(error, file=sys.stderr)
        sys.exit(3)
    with np.load(sample) as arrays:
        inputs = list(dict(arrays).values())  # in the order of the graph
    core = openvino.Core()
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if int(threads):
        config["INFERENCE_NUM_THREADS"] = int(threads)
    requests: dict[str, Any] = {}
    result: dict[str, float | str] = {}
    for file in files:
        try:
            request = core.compile_model(core.read_model(file), "CPU", config)
            request(inputs)
            requests[file] = request
        except Exception as error:  # whatever the engine raises is its result
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            result[file] = f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300]
    if seconds == "serve":
        clock = time.process_time if threads == "1" else time.perf_counter
        serve(requests.get(files[0]), inputs, result.get(files[0]), clock)
        return
    times: dict[str, list[float]] = {file: [] for file in requests}
    begin = time.perf_counter()
    for count in range(MAX_ROUNDS):
        if count >= MIN_ROUNDS and time.perf_counter() - begin > float(seconds):
            break
        for file, request in requests.items():
            times[file].append(timed(request, inputs, time.perf_counter))
    medians = {file: statistics.median(taken) for file, taken in times.items() if taken}
    print(json.dumps(result | medians))


def timed(request: Any, inputs: list[Any], clock: Callable[[], float]) -> float:
    """Milliseconds of one run."""
    start = clock()
    request(inputs)
    return 1000 * (clock() - start)


def serve(request: Any, inputs: list[Any], error: Any, clock: Callable[[], float]) -> None:
    """Run when told to."""
    print(json.dumps(error), flush=True)
    for line in sys.stdin:
        print(json.dumps([timed(request, inputs, clock) for _ in range(int(line))]), flush=True)


if __name__ == "__main__":
    main()
