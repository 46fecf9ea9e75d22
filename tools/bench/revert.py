"""``python -m ptq_opt.tools.bench.revert``: holding a score, beside a greedy revert.

The greedy way scores the model once per operator, with it alone in float; then it leaves one after
the other in float, the one that gains most first, and scores the model each time, until the drop
is allowed, as POT and the accuracy control of NNCF do. The cut ranks by `sensitivity` instead, and
places by times that are measured first; where weights have fewer than eight bits, `bits` gives them
eight before it does so. Every run of the score counts, be it of all in integers, of one operator
for the ranking, or of a candidate; the two of the float model do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from ...ir import load, save
from ...ir.engines import latencies
from ...ir.samples import open_samples
from ...ir.target import Target, find_target
from ...passes import Context, Instruments, Pipeline
from ...passes.accuracy import Search, Trial
from ...passes.hold import Attempt, Drop
from ...passes.metric import Metric, Run
from ...passes.placement import Placement
from ...passes.registry import DEFAULT
from ..api import storing
from ..report import conversions
from .cases import Case, find_cases
from .options import of_cases, of_timing, write_rows
from .ranking import prepared

CASES = ("posenet_mobilenet_v1", "mobilenet_v2$", "squeezenet1_1")
"""Models whose score falls with weights of 4 bits."""


@dataclass
class Row:
    """One way to hold a score.

    Attributes:
        evaluations: of the score, the float model's left out.
        reverted: operators back in float.
        conversions: QuantizeLinear and DequantizeLinear an engine has to run.
        predicted_ms, timed_ms: of a run, by the target's costs and in its engine.
        megabytes: of the file.
    """

    model: str
    way: str
    drop: float
    evaluations: int
    reverted: int
    conversions: int
    predicted_ms: float
    timed_ms: float
    megabytes: float


@click.command()
@of_cases(f"trained/({'|'.join(CASES)})")
@of_timing(5.0)
@click.option("--weights", default="int4", show_default=True, help="As for ptq-opt.")
@click.option("--passes", default=DEFAULT, help="As for ptq-opt; shorter ones run quicker.")
@click.option("--max-drop", default=0.02, show_default=True, help="Of each model's own score.")
@click.option("--samples", default=64, show_default=True, help="For calibration.")
@click.option("--scored", default=96, show_default=True, help="Samples that are scored.")
def main(
    zoo: Path | None,
    models: str,
    cache: Path,
    json_file: Path | None,
    target: str,
    seconds: float,
    weights: str,
    passes: str,
    max_drop: float,
    samples: int,
    scored: int,
) -> None:
    """Hold the score of trained models with least loss of speed, and greedily."""
    if zoo is None:
        raise click.UsageError("only the models of a --zoo have scores")
    rows: list[Row] = []
    for case in find_cases(zoo, cache, models):
        engine = prepared(case, find_target(target))[1].target
        asked = Asked(
            storing(engine, weights, None, ()), passes, max_drop, samples, scored, seconds
        )
        found = compare(case, asked)
        rows += found
        Console().print(table(found))
        write_rows(json_file, rows)


@dataclass(frozen=True)
class Asked:
    """The options, with the times of operators in the target."""

    target: Target
    passes: str
    max_drop: float
    samples: int
    scored: int
    seconds: float


def compare(case: Case, asked: Asked) -> list[Row]:
    """Rows of a model: as planned, reverted greedily, and placed by the cut."""
    graph = load(case.model)
    goal = Drop(Metric(score_of(case, asked.scored)), graph, asked.max_drop)
    context = Context(asked.target)
    context.samples = open_samples(case.calibration, graph.inputs, asked.samples)
    attempt = Attempt.run(Pipeline(asked.passes), graph, context, Instruments(verify="none"))
    search = attempt.search(goal, miss := goal(attempt.graph))
    found = {"planned": (search.start, search.first, 1)}
    for way, hold in WAYS.items() if miss > 0 else ():
        before, search = len(goal.scores) - 1, attempt.search(goal, miss)
        if (held := hold(search)) is not None:
            found[way] = *held, len(goal.scores) - before
    engine, feeds = context.target.engine, next(iter(context.samples))
    graphs = {way: trial.graph for way, (_, trial, _) in found.items()}
    times = latencies(engine, graphs, feeds, threads=1, seconds=asked.seconds)
    return [
        row(case.name, way, search, placement, trial, goal, count, times[way])
        for way, (placement, trial, count) in found.items()
    ]


def score_of(case: Case, count: int) -> Callable[[Run], float]:
    """The main score of a model of the zoo on its first test samples; higher is better."""
    entry = case.entry
    pairs = list(entry.samples(1, min(count, entry.test_count)))
    sign = 1.0 if entry.higher_is_better else -1.0

    def score(run: Run) -> float:
        outputs = [run(feeds) for feeds, _ in pairs]
        scores = entry.score(outputs, [label for _, label in pairs])
        return sign * float(scores[entry.main_metric])

    return score


def by_bits(search: Search) -> tuple[Placement, Trial] | None:
    """As `--metric` does: eight bits for weights that have fewer come first."""
    search.run()
    return search.best


def by_cut(search: Search) -> tuple[Placement, Trial] | None:
    """Only by placements, as `--metric` does where weights have eight bits."""
    search.place()
    return search.best


def greedy(search: Search) -> tuple[Placement, Trial]:
    """Leave one operator after the other in float, that which gains most first."""
    search.price()
    integer, trial = list(search.start.integer), search.first
    for k in ranked(search):
        if trial.miss <= 0:
            break
        integer[k] = False
        trial = search.deploy(search.problem.placement(integer))
    return search.problem.placement(integer), trial


def ranked(search: Search) -> list[int]:
    """Operators in integers by the score with each alone in float; by their loss where equal."""
    problem, start = search.problem, search.start.integer
    misses: dict[int, tuple[float, float]] = {}
    for k in np.flatnonzero(start).tolist():
        integer = [chosen and j != k for j, chosen in enumerate(start)]
        placement = problem.placement(integer)
        misses[k] = search.deploy(placement).miss, placement.loss
    return sorted(misses, key=lambda k: misses[k])


WAYS: dict[str, Callable[[Search], tuple[Placement, Trial] | None]] = {
    "bits": by_bits,
    "cut": by_cut,
    "greedy": greedy,
}


def row(
    model: str,
    way: str,
    search: Search,
    placement: Placement,
    trial: Trial,
    goal: Drop,
    count: int,
    nanoseconds: float,
) -> Row:
    """What a way came to."""
    left = conversions(trial.graph)
    return Row(
        model,
        way,
        trial.miss + goal.most + goal.spread,
        count,
        sum(search.start.integer) - sum(placement.integer),
        left.quantize + left.dequantize + left.requantize,
        placement.time / 1e6,
        nanoseconds / 1e6,
        save(trial.graph).ByteSize() / 1e6,
    )


def table(rows: Sequence[Row]) -> Table:
    """One line for each way."""
    result = Table(title=rows[0].model, title_justify="left")
    for name in (
        "way",
        "drop",
        "scored",
        "in float",
        "conversions",
        "predicted ms",
        "timed ms",
        "MB",
    ):
        result.add_column(name, justify="left" if name == "way" else "right")
    for each in rows:
        result.add_row(
            each.way,
            f"{each.drop:.4f}",
            str(each.evaluations),
            str(each.reverted),
            str(each.conversions),
            f"{each.predicted_ms:.2f}",
            f"{each.timed_ms:.2f}",
            f"{each.megabytes:.2f}",
        )
    return result


if __name__ == "__main__":
    main()
