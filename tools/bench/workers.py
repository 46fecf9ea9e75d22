"""``python -m ptq_opt.tools.bench.workers``: how much sooner several processes are done than one.

Every process runs operators on one thread. Workers are started before the clock; handing over the
model, opening it and putting results together count. What the machine itself allows is measured
beside it: processes that share nothing, each with the whole of the same work.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np

from ...ir import Graph, load
from ...ir.calibration import SHARD, calibrate
from ...ir.evaluate import THREADS, Runner
from ...ir.execution import EXECUTOR, Executor, InProcess, Item, Job, Result, Work
from ...ir.observation import Observation
from ...ir.processes import Processes
from ...ir.ranges import distinguish, key
from ...ir.samples import Samples, open_samples
from ...ir.target import DEFAULT, find_target
from ...passes import Context, Pipeline
from ...passes.error_sources import find_sources
from ...passes.judge import contest
from ...passes.metric import Metric, Run
from ...passes.scored_errors import Scores
from ...passes.single_errors import single_errors
from .cases import Case, find_cases
from .options import of_cases, write_rows

TARGET = find_target(DEFAULT)
MANY, FEW = 192, 16
"""Samples of calibration and comparison, and of the runs for each operator."""
SCORED = 12
"""Operators whose effect on the metric is measured."""
SHARED = "nothing shared"
"""Work that grows with the workers."""
NAP = 0.2
"""Seconds that workers take to tell their time."""
TIMES = 7
"""The overhead is that of the fastest of so many runs."""


@dataclass(frozen=True)
class Plain:
    """A job that shares nothing: each item runs all samples through the model."""

    graph: Graph
    samples: Samples

    def open(self) -> Work:
        """Open the model."""
        runner = Runner(self.graph)

        def work(_: Item) -> Result:
            for feeds in self.samples:
                runner.run(feeds)
            return [np.zeros(0)]

        return work


@dataclass(frozen=True)
class Clock:
    """A job that tells which process did an item, and the processor time it has taken so far.

    Attributes:
        nap: seconds that an item takes, so that each worker gets one.
    """

    nap: float

    def open(self) -> Work:
        """Nothing to open."""

        def work(_: Item) -> Result:
            time.sleep(self.nap)
            return [np.array([os.getpid(), time.process_time()])]

        return work


@dataclass(frozen=True)
class Agreement:
    """A metric: the share of samples whose first output is greatest where the float model's is."""

    samples: Samples
    wanted: tuple[int, ...]

    def __call__(self, run: Run) -> float:
        """Run all samples."""
        found = (int(run(feeds)[0].argmax()) for feeds in self.samples)
        return float(np.mean([a == b for a, b in zip(found, self.wanted, strict=True)]))


@dataclass
class Timing:
    """A piece of work, and what it took with each number of workers, the fastest of its runs.

    Attributes:
        name: of the work.
        grows: there is as much more to do as there are workers.
        seconds, processor: elapsed, and processor time of the busiest process, by workers.
        results: digests of the different ones.
    """

    name: str
    grows: bool = False
    seconds: dict[int, float] = field(default_factory=dict)
    processor: dict[int, float] = field(default_factory=dict)
    results: list[str] = field(default_factory=list)

    def measure(self, work: Callable[[], object], executor: Executor) -> None:
        """Do it once more; what `work` returns must not depend on the executor."""
        token, before, start = EXECUTOR.set(executor), clocks(executor), time.perf_counter()
        result = work()
        elapsed, after = time.perf_counter() - start, clocks(executor)
        EXECUTOR.reset(token)
        busiest = max(after[process] - before[process] for process in after)
        for times, found in ((self.seconds, elapsed), (self.processor, busiest)):
            times[executor.workers] = min(times.get(executor.workers, np.inf), found)
        digest = hashlib.sha256(repr(result).encode()).hexdigest()
        self.results = list(dict.fromkeys([*self.results, digest]))

    @property
    def row(self) -> list[str]:
        """Cells of a table."""
        cells = [self.name, f"{self.seconds[1]:.2f} s"]
        for count, seconds in [*self.seconds.items()][1:]:
            times = count if self.grows else 1
            gain = times * self.seconds[1] / seconds
            busy = times * self.processor[1] / self.processor[count]
            cells += [f"{seconds:.2f} s", f"{gain:.2f} x", f"{busy:.2f} x"]
        return [*cells, "yes" if len(self.results) == 1 else "NO"]


def clocks(executor: Executor) -> dict[int, float]:
    """Processor time of each worker so far, by process; all must have begun."""
    found = executor.start(Clock(NAP if executor.workers > 1 else 0.0))(range(executor.workers))
    times = {int(process): float(seconds) for ((process, seconds),) in found}
    assert len(times) == executor.workers
    return times


def works(case: Case) -> tuple[dict[str, Callable[[], object]], Observation]:
    """What is timed, with the executor of the context, and the job whose overhead is measured."""
    graph = load(case.model)
    everything = open_samples(str(case.calibration), graph.inputs)
    many, few = everything.spread(MANY), everything.spread(FEW)
    Pipeline("canonicalize,fold-bn").run(graph, Context(TARGET))
    plain = Plain(load(case.model), few)
    context = Context(TARGET, samples=few)
    planning = Pipeline("calibrate,plan,zero-filter,saturate", given=("canonical", "folded"))
    planning.run(graph, context)
    distinguish(graph)
    values = [value for node in graph for value in node.outputs if value.shape is not None]
    runner = Runner(graph)
    wanted = tuple(int(runner.run(feeds)[0].argmax()) for feeds in few)
    scores = Scores(graph, TARGET, Metric(Agreement(few, wanted)))
    scored = min(SCORED, len(find_sources(graph, TARGET)))
    kinds = [[kind, k] for k in range(scored) for kind in ("only", "without")]

    def sensitivity() -> object:
        found = single_errors(graph, TARGET, few, "sqnr")
        return [(s.alone.tolist(), s.gained.tolist(), s.rounding) for s in found.sources]

    def metric() -> object:
        return [float(score) for (score,) in EXECUTOR.get().start(scores)(kinds)]

    def comparison() -> object:
        return contest((graph, ()), [(graph, ())], many, TARGET)

    def calibration() -> object:
        found = calibrate(graph, many, values).ranges
        return {name: ranges.rows.tolist() for name, ranges in found.items()}

    def nothing_shared() -> object:
        executor = EXECUTOR.get()
        return {found.size for (found,) in executor.start(plain)(range(executor.workers))}

    sought = tuple((key(value), None, 0) for value in values)
    named = (sensitivity, metric, comparison, calibration)
    works = {work.__name__: work for work in named} | {SHARED: nothing_shared}
    return works, Observation(graph, many, sought, False)


def overhead(job: Job, items: Sequence[Item]) -> float:
    """Relative to a plain loop over the same items, in this process; processor time."""

    def loop() -> object:
        work = job.open()
        return [work(item) for item in items]

    def through() -> object:
        return list(InProcess().start(job)(items))

    best = [np.inf, np.inf]
    for _ in range(TIMES):
        for k, run in enumerate((loop, through)):
            start = time.process_time()
            run()
            best[k] = min(best[k], time.process_time() - start)
    return float(best[1] / best[0] - 1)


def table(timings: Sequence[Timing]) -> str:
    """Seconds and speed-ups, as Markdown."""
    heads = ["work", "one process"]
    for count in [*timings[0].seconds][1:]:
        heads += [f"{count} workers", "speed-up", "by processor time"]
    rows = [[*heads, "same results"], ["---"] * (len(heads) + 1), *(t.row for t in timings)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


@click.command()
@of_cases("trained/mobilenet_v2$")
@click.option("--workers", default=2, show_default=True, help="Compared with one process.")
@click.option("--rounds", default=2, show_default=True, help="The fastest counts.")
def main(
    zoo: Path | None, models: str, cache: Path, json_file: Path | None, workers: int, rounds: int
) -> None:
    """Time work on models with one process and with several."""
    THREADS.set(1)
    for case in find_cases(zoo, cache, models):
        named, observation = works(case)
        timings = [Timing(name, grows=name == SHARED) for name in named]
        start = time.perf_counter()
        with Processes(workers) as many:
            clocks(many)
            begun = time.perf_counter() - start - NAP
            for _ in range(rounds):
                for timing in timings:
                    timing.measure(named[timing.name], InProcess())
                    timing.measure(named[timing.name], many)
        size = len(observation.samples)
        shards = [[k, min(k + SHARD, size)] for k in range(0, size, SHARD)][:2]
        click.echo(
            f"{case.kind}/{case.name}\n\n{table(timings)}\n\n"
            f"Workers start in {begun:.1f} s. In process the interface costs "
            f"{overhead(observation, shards):+.1%} over a plain loop."
        )
        write_rows(json_file, timings)


if __name__ == "__main__":
    main()
