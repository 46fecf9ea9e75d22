"""``python -m ptq_opt.tools.bench``: ptq-opt beside ONNX Runtime's quantizer and NNCF."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click
from rich.console import Console

from .cases import find_cases
from .engines import GOAL, geometric_means, show
from .measure import Row, Settings, measure
from .quantizers import PEER_SAMPLES
from .tables import errors, table, write_json
from .verdict import misses

PARTS = ("accuracy", "speed", "openvino", "native")


@click.command()
@click.option(
    "--zoo",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with zoo.py, trained/ and topologies/; without it only the light models of onnx.",
)
@click.option(
    "--models", default="", metavar="REGEX", help="Only trained/..., topology/... or light/... so."
)
@click.option(
    "--peer-python",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=Path(sys.executable),
    help="Python that has the peers and OpenVINO; this one by default.",
)
@click.option(
    "--peers",
    default=",".join(PEER_SAMPLES),
    show_default=True,
    help="Quantizers to compare with, separated by commas.",
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/bench"),
    show_default=True,
    help="Folder that keeps samples and the files of the peers between runs.",
)
@click.option("--skip", multiple=True, type=click.Choice(PARTS), help="What not to measure.")
@click.option("--threads", default=1, show_default=True, help="Of each session; 0 means all cores.")
@click.option("--seconds", default=5.0, show_default=True, help="Timing of one model in an engine.")
@click.option("--options", default="", help="More options for ptq-opt, as on its command line.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for all numbers.",
)
def main(
    zoo: Path | None,
    models: str,
    peer_python: Path,
    peers: str,
    cache: Path,
    skip: tuple[str, ...],
    threads: int,
    seconds: float,
    options: str,
    json_file: Path | None,
) -> None:
    """Quantize models with ptq-opt and its peers, and compare the files in one run."""
    chosen = tuple(filter(None, peers.split(",")))
    for peer in set(chosen) - set(PEER_SAMPLES):
        raise click.UsageError(f"no peer {peer!r}; there are {', '.join(PEER_SAMPLES)}")
    extra = tuple(shlex.split(options))
    settings = Settings(peer_python, chosen, frozenset(skip), threads, seconds, extra)
    console = Console()
    rows: list[Row] = []
    missed: list[str] = []
    cache.mkdir(parents=True, exist_ok=True)
    for case in find_cases(zoo, cache.resolve(), models):
        found = measure(case, settings)
        rows += found
        missed += misses(found)
        console.print(table(found))
        show(console, [one for row in found for one in row.races])
        for line in errors(found):
            console.print(line, style="yellow", markup=False)
        if json_file is not None:
            write_json(json_file, rows, missed)
    if not rows:
        raise click.UsageError(f"no model matches {models!r}")
    for count, mean in geometric_means([one for row in rows for one in row.races]).items():
        console.print(f"native with {count} thread(s): {mean:.2f} x, geometric mean")
        if mean < GOAL:
            missed.append(f"native with {count} thread(s): {mean:.2f} x, at least {GOAL} x wanted")
    console.print(f"{len(missed)} of what must hold does not:" if missed else "All holds.")
    for line in missed:
        console.print(f"  {line}", markup=False)


if __name__ == "__main__":
    main()
