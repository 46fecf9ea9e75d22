"""``python -m ptq_opt.tools.bench.ranking``: does predicted latency rank placements as measured?

For every model: operators and conversions are timed, then placements between all in integers and
all in float are predicted, and timed as whole models in the same engine, all of them twice: how
well the ranks of these two agree bounds how well any prediction can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np

from ...ir import Graph, load
from ...ir.engines import latencies
from ...ir.samples import open_samples
from ...ir.target import Target, find_target
from ...passes import Context, Pipeline
from ...passes.deployed import deployed_choice
from ...passes.measure import Measure
from ...passes.place import places
from ...passes.placement import Problem, solve
from ...passes.plan import candidates
from .cases import Case, find_cases
from .options import of_cases, of_timing, write_rows

ENOUGH = 0.9
SEED = 0
APART = 1.01
"""Placements whose predicted times differ by less than this factor have no order."""
PLACEMENTS = 12
DRAWN = 32
"""Times as many placements are drawn as are timed."""
Choice = tuple[bool, ...]


@dataclass
class Ranking:
    """Predicted and measured milliseconds of the placements of one model.

    Attributes:
        model: its name.
        correlation: of the ranks (Spearman).
        repeated: the same of two measurements.
        predicted, measured: one entry per placement, in even steps of predicted time.
    """

    model: str
    correlation: float
    repeated: float
    predicted: list[float]
    measured: list[float]

    @property
    def misses(self) -> list[str]:
        """That the ranks agree too little."""
        told = f"predicted and measured ranks correlate by {self.correlation:.3f}"
        return [] if round(self.correlation, 3) >= ENOUGH else [f"{told}, at least {ENOUGH} wanted"]

    def __str__(self) -> str:
        """One line."""
        near = f"  below {ENOUGH}" if self.misses else ""
        return (
            f"{self.model}: {self.correlation:.3f} over {len(self.measured)} "
            f"placements, {min(self.measured):.2f} to {max(self.measured):.2f} ms, measured twice "
            f"{self.repeated:.3f}{near}"
        )


def spearman(a: list[float], b: list[float]) -> float:
    """Correlation of ranks."""
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def placements(problem: Problem, ends: Sequence[Sequence[bool]], count: int) -> list[Choice]:
    """At most `count` placements in even steps of predicted time, no two as good as equal.

    They are the cut, the `ends` (the last in float), and cuts for random costs of integers or of
    float.
    """
    rng, size = np.random.default_rng(SEED), len(problem.loss)
    drawn = {tuple(solve(problem)), *map(tuple, ends)}
    for _ in range(DRAWN * count):
        some = rng.random(size) < rng.random()
        price = problem.cost(ends[-1]) / size * 10 ** rng.uniform(-2, 1)
        more = np.where(some, price * rng.exponential(size=size), 0.0)
        if rng.random() < 0.5:
            changed = replace(problem, loss=more.tolist())
        else:
            changed = replace(problem, float_time=(problem.float_time + more).tolist())
        drawn.add(tuple(solve(changed, price=1.0)))
    ordered = sorted(drawn, key=problem.cost)
    times = np.array([problem.cost(choice) for choice in ordered])
    kept: list[int] = []
    for time in np.linspace(times[0], times[-1], count):
        near = int(np.abs(times - time).argmin())
        if not kept or times[near] > APART * times[kept[-1]]:
            kept.append(near)
    return [ordered[k] for k in kept]


def rank(graph: Graph, context: Context, count: int, seconds: float) -> tuple[list[float], ...]:
    """Predicted and twice measured milliseconds of different placements of a calibrated graph."""
    target = context.target
    units, spans = candidates(graph, context)
    found = places(units, graph, target)
    chosen = placements(found.problem, (found.most, found.least), count)
    graphs = {
        str(k): deployed_choice(graph, units, choice, spans, target)
        for k, choice in enumerate(chosen)
    }
    assert context.samples is not None
    feeds = next(iter(context.samples))
    twice = [
        latencies(target.engine, graphs, feeds, threads=1, seconds=seconds / 2) for _ in range(2)
    ]
    predicted = [found.problem.cost(choice) / 1e6 for choice in chosen]
    return predicted, *([time / 1e6 for time in taken.values()] for taken in twice)


def prepared(case: Case, target: Target) -> tuple[Graph, Context]:
    """A calibrated graph, and a context whose target has the times of its operators."""
    graph = load(case.model)
    context = Context(target, samples=open_samples(str(case.calibration), graph.inputs, 2))
    Pipeline(["calibrate{method=min-max}", Measure()]).run(graph, context)
    assert context.timings is not None
    context.target = replace(target, timings=context.timings)
    return graph, context


def measure(case: Case, target: Target, count: int, seconds: float) -> Ranking:
    """Rank placements of one model."""
    graph, context = prepared(case, target)
    predicted, first, second = rank(graph, context, count, seconds)
    measured = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    ranks, repeated = spearman(predicted, measured), spearman(first, second)
    return Ranking(case.name, ranks, repeated, predicted, measured)


@click.command()
@of_cases()
@of_timing(20.0)
@click.option("--placements", default=PLACEMENTS, show_default=True, help="Of each model.")
def main(
    zoo: Path | None,
    models: str,
    cache: Path,
    json_file: Path | None,
    target: str,
    seconds: float,
    placements: int,
) -> None:
    """Correlate predicted and measured latency of placements, model by model."""
    rows: list[Ranking] = []
    for case in find_cases(zoo, cache, models):
        rows.append(measure(case, find_target(target), placements, seconds))
        click.echo(f"{case.kind}/{rows[-1]}")
        write_rows(json_file, rows)


if __name__ == "__main__":
    main()
