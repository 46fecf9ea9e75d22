"""``python -m ptq_opt.tools.bench``: ptq-opt beside other quantizers."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
from rich.console import Console

from ...ir.engines import installed
from ...ir.target import find_target
from ..cluster import working
from . import placing, ranking
from .cases import Case, find_cases
from .engines import GOAL, geometric_means, show
from .measure import Row, Settings, quantize, time_files
from .options import of_cases, of_peers, of_workers
from .quantizers import DEFAULT_PEERS, PEER_SAMPLES
from .scoring import score
from .tables import errors, table, write_json
from .verdict import misses

PARTS = ("accuracy", "speed", "openvino", "native", "placement")
ENGINES = ("ort-cpu", "openvino-cpu")
"""Targets that models are placed for, where this Python has their engines."""


@click.command()
@of_cases()
@of_peers(DEFAULT_PEERS)
@click.option("--skip", multiple=True, type=click.Choice(PARTS), help="What not to measure.")
@click.option("--threads", default=1, show_default=True, help="Of each session; 0 means all cores.")
@click.option("--seconds", default=5.0, show_default=True, help="Timing of one model in an engine.")
@click.option(
    "--test", type=click.IntRange(1), help="Samples to score with; the zoo's numbers by default."
)
@of_workers()
@click.option("--options", default="", help="More options for ptq-opt, as on its command line.")
def main(
    zoo: Path | None,
    models: str,
    cache: Path,
    json_file: Path | None,
    peers: str,
    peer_python: Path,
    skip: tuple[str, ...],
    threads: int,
    seconds: float,
    test: int | None,
    workers: int,
    cluster: str | None,
    options: str,
) -> None:
    """Quantize models with ptq-opt and its peers, and compare the files in one run.

    All models are quantized first, one after the other, then workers share the scoring; what is
    timed has the machine to itself.
    """
    chosen = tuple(filter(None, peers.split(",")))
    for peer in set(chosen) - set(PEER_SAMPLES):
        raise click.UsageError(f"no peer {peer!r}; there are {', '.join(PEER_SAMPLES)}")
    extra = tuple(shlex.split(options))
    settings = Settings(peer_python, chosen, frozenset(skip), threads, seconds, extra)
    console = Console()
    made = [quantize(case, settings) for case in find_cases(zoo, cache, models)]
    if not made:
        raise click.UsageError(f"no model matches {models!r}")
    if zoo is not None and "accuracy" not in settings.skip:
        with working(workers, cluster):
            score(zoo, made, test or 0)
    rows: list[Row] = []
    missed: list[str] = []
    for one in made:
        time_files(one, settings)
        found = list(one.rows.values())
        rows += found
        missed += misses(found)
        console.print(table(found))
        if races := [each for row in found for each in row.races]:
            show(console, races)
        for line in errors(found):
            console.print(line, style="yellow", markup=False)
        if "placement" not in settings.skip:
            missed += placements(one.case, settings)
        if json_file is not None:
            write_json(json_file, rows, missed)
    for count, mean in geometric_means([each for row in rows for each in row.races]).items():
        console.print(f"native with {count} thread(s): {mean:.2f} x, geometric mean")
        if mean < GOAL:
            missed.append(f"native with {count} thread(s): {mean:.2f} x, at least {GOAL} x wanted")
    console.print(f"{len(missed)} of what must hold does not:" if missed else "All holds.")
    for line in missed:
        console.print(f"  {line}", markup=False)


def placements(case: Case, settings: Settings) -> list[str]:
    """Time what is placed for each engine, and rank placements; what does not hold."""
    missed: list[str] = []
    for name in ENGINES:
        target = find_target(name)
        if not installed(target.engine):
            click.echo(f"not placed for {name}: this Python has no {target.engine}")
            continue
        seconds = 2 * settings.seconds
        ranks = ranking.measure(case, target, ranking.PLACEMENTS, seconds)
        click.echo(f"ranks, {name}: {ranks}")
        missed += [f"{case.kind}/{case.name}, {name}: {miss}" for miss in ranks.misses]
        if case.kind == "topology":
            placed = placing.measure(case, target, settings.peers, settings.python, seconds)
            placing.show(placed)
            missed += [
                f"{case.kind}/{case.name}, {name}: slower than {other}" for other in placed.misses
            ]
    return missed


if __name__ == "__main__":
    main()
