"""Load and time model files in OpenVINO; runs under a Python that has it.

``python openvino_worker.py SAMPLE.npz THREADS SECONDS FILE...`` prints one JSON object: per file
the median milliseconds, or why it does not run. This file imports nothing of ptq_opt. Exits with 3
when OpenVINO is not installed.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
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
    times: dict[str, list[float]] = {file: [] for file in requests}
    begin = time.perf_counter()
    for count in range(MAX_ROUNDS):
        if count >= MIN_ROUNDS and time.perf_counter() - begin > float(seconds):
            break
        for file, request in requests.items():
            start = time.perf_counter()
            request(inputs)
            times[file].append(1000 * (time.perf_counter() - start))
    medians = {file: statistics.median(taken) for file, taken in times.items() if taken}
    print(json.dumps(result | medians))


if __name__ == "__main__":
    main()
