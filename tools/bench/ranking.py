"""``python -m ptq_opt.tools.bench.ranking``: does predicted latency rank placements as measured?

For every model: operators and conversions are timed, then placements between all in integers and
all in float are predicted, and timed as whole models in the same engine.
"""

from __future__ import annotations

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
from ...passes.placement import solve
from ...passes.plan import candidates
from .cases import Case, find_cases
from .options import of_cases, of_timing, write_rows

ENOUGH = 0.9
SEED = 0
PLACEMENTS = 12


@dataclass
class Ranking:
    """Predicted and measured milliseconds of the placements of one model.

    Attributes:
        model: its name.
        correlation: of the ranks (Spearman).
        predicted, measured: one entry per placement: the cut, all in integers, all in float, and
            cuts for random losses and prices, spread over what is predicted.
    """

    model: str
    correlation: float
    predicted: list[float]
    measured: list[float]

    @property
    def misses(self) -> list[str]:
        """That the ranks agree too little."""
        told = f"predicted and measured ranks correlate by {self.correlation:.3f}"
        return [] if self.correlation >= ENOUGH else [f"{told}, at least {ENOUGH} wanted"]

    def __str__(self) -> str:
        """One line."""
        near = f"  below {ENOUGH}" if self.misses else ""
        return (
            f"{self.model}: {self.correlation:.3f} over {len(self.measured)} "
            f"placements, {min(self.measured):.2f} to {max(self.measured):.2f} ms{near}"
        )


def spearman(a: list[float], b: list[float]) -> float:
    """Correlation of ranks."""
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def rank(graph: Graph, context: Context, count: int, seconds: float) -> tuple[list[float], ...]:
    """Predicted and measured milliseconds of different placements of a calibrated graph."""
    target = context.target
    units, spans = candidates(graph, context)
    found = places(units, graph, target)
    problem, rng = found.problem, np.random.default_rng(SEED)
    choices = {tuple(solve(problem)), tuple(found.most), tuple(found.least)}
    typical = problem.cost(found.least) / max(len(units), 1)
    drawn = set()
    for _ in range(8 * count):
        losses = [0.0 if rng.random() < 0.5 else float(rng.exponential()) for _ in units]
        problem.loss = [*losses, 0.0]
        drawn.add(tuple(solve(problem, price=typical * 10 ** float(rng.uniform(-2, 1)))))
    spread = sorted(drawn - choices, key=problem.cost)
    picks = np.linspace(0, len(spread) - 1, min(count - len(choices), len(spread)))
    ordered = sorted(choices | {spread[round(pick)] for pick in picks})
    graphs = {
        str(k): deployed_choice(graph, units, choice, spans, target)
        for k, choice in enumerate(ordered)
    }
    assert context.samples is not None
    feeds = next(iter(context.samples))
    taken = latencies(target.engine, graphs, feeds, threads=1, seconds=seconds)
    return [problem.cost(c) / 1e6 for c in ordered], [time / 1e6 for time in taken.values()]


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
    predicted, measured = rank(graph, context, count, seconds)
    return Ranking(case.name, spearman(predicted, measured), predicted, measured)


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
