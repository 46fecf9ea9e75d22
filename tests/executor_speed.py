"""Times of the same work in this process and on 2 and 4 others; run it to see.

python tests/executor_speed.py MODEL.onnx [samples]

Everything runs on one thread per process. Samples are made up. The results must be equal.
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptq_opt.ir import load
from ptq_opt.ir.calibration import calibrate
from ptq_opt.ir.evaluate import THREADS
from ptq_opt.ir.execution import EXECUTOR, Executor, InProcess, Item, Result, Work
from ptq_opt.ir.observers import Observed, Reducing
from ptq_opt.ir.processes import Processes
from ptq_opt.ir.samples import random_samples
from ptq_opt.ir.target import find_target
from ptq_opt.passes import Context, Pipeline
from ptq_opt.passes.judge import contest
from ptq_opt.passes.metric import Metric, Run
from ptq_opt.passes.scored_errors import Scores
from ptq_opt.passes.single_errors import single_errors

TARGET = find_target("ort-cpu")
NAP = 0.3


@dataclass(frozen=True)
class Clock:
    """Tells the processor time of each worker; starts it where there is none."""

    def open(self) -> Work:
        def work(item: Item) -> Result:
            time.sleep(NAP)  # so that each worker gets an item
            return [np.array([os.getpid(), time.process_time()])]

        return work


def clocks(executor: Executor) -> dict[float, float]:
    found = list(executor.start(Clock())(range(executor.workers)))
    return {float(pid): float(seconds) for ((pid, seconds),) in found}


def mean_of_first(run: Run) -> float:
    samples = random_samples(load(sys.argv[1]).inputs, 6)
    return float(np.mean([run(feeds)[0].mean() for feeds in samples]))


def main() -> None:
    """Measure, alternating where differences are small."""
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    THREADS.set(1)
    graph = load(sys.argv[1])
    samples = random_samples(graph.inputs, count)
    context = Context(TARGET, samples=samples)
    Pipeline("calibrate,plan,zero-filter,saturate").run(graph, context)
    many = random_samples(graph.inputs, 12 * count, seed=2)
    values = [value for node in graph for value in node.outputs]
    scores = Scores(graph, TARGET, Metric(mean_of_first))
    items = ["float", "whole", *([kind, k] for k in range(6) for kind in ("only", "without"))]
    jobs: dict[str, Callable[[], Any]] = {
        "sensitivity": lambda: [
            (s.alone.tolist(), s.gained.tolist(), s.rounding)
            for s in single_errors(graph, TARGET, samples, "sqnr").sources
        ],
        "comparison": lambda: contest((graph, ()), [(graph, ())], many, TARGET),
        "metric": lambda: [float(a) for (a,) in EXECUTOR.get().start(scores)(items)],
        "calibration": lambda: calibrate(graph, many, values).ranges,
    }
    found: dict[str, list[str]] = {name: [] for name in jobs}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for executor in [InProcess(), Processes(2), Processes(4)][: int(os.environ.get("UPTO", 3))]:
        EXECUTOR.set(executor)
        start = time.perf_counter()
        before = clocks(executor)
        took = time.perf_counter() - start - NAP
        print(f"{executor.workers} workers, started in {took:.1f} s")
        for name, job in jobs.items():
            start = time.perf_counter()
            found[name].append(repr(job()))
            seconds[name].append(time.perf_counter() - start)
            now = clocks(executor)
            busy = max(now[pid] - before.get(pid, 0.0) for pid in now)
            before = now
            one = seconds[name][0] / seconds[name][-1]
            same = found[name][-1] == found[name][0]
            print(
                f"  {name:12} {seconds[name][-1]:6.2f} s  {one:.2f} x  "
                f"processor {busy:6.2f} s  equal: {same}",
                flush=True,
            )
        if isinstance(executor, Processes):
            executor.close()
    EXECUTOR.set(InProcess())
    observer = Reducing(graph, [Observed(value) for value in values])
    plain, through = [], []
    for _ in range(5):
        start = time.perf_counter()
        [observer.observe(feeds) for feeds in many]
        plain.append(time.perf_counter() - start)
        through.append(overhead(graph, many, values))
    print(f"in process: {np.median(through) / np.median(plain) - 1:+.1%} over a plain loop")


def overhead(graph: Any, samples: Any, values: Any) -> float:
    """Seconds of calibration after its first shard, whole."""
    from ptq_opt.ir.observation import Observation
    from ptq_opt.ir.ranges import distinguish, key

    distinguish(graph)
    each = InProcess().start(
        Observation(graph, samples, tuple((key(v), None, 0) for v in values), False)
    )
    list(each([[0, 1]]))
    start = time.perf_counter()
    list(each([[k, k + 8] for k in range(0, len(samples), 8)]))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
