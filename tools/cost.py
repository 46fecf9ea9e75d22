"""`ptq-opt cost`: time operators and conversions on this machine, for `--costs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..ir import load
from ..ir.samples import open_samples, random_samples
from ..ir.target import DEFAULT as DEFAULT_TARGET
from ..ir.target import find_target
from ..ir.timings import Timings, merged, write_timings
from ..passes import Context, Pipeline
from ..passes.base import no_progress
from ..passes.measure import Measure, need_engine
from . import completion
from .files import Existing, check_writable, write_text
from .terminal import leaving

HELP = """Time the operators of MODELs and conversions in the engine of a target.

\b
  ptq-opt cost model.onnx --target=ort-cpu -o costs.toml
  ptq-opt model.onnx --data calib/ --costs=costs.toml

The file says what an operator takes in float and in integers on this machine. It serves other
models, too: an operator that was not measured takes the time of the nearest of its class, one whose
class was not is estimated from its bytes and operations.
"""
EXISTING = Existing()


@click.command(help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("models", type=EXISTING, nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--target",
    default=DEFAULT_TARGET,
    show_default=True,
    shell_complete=completion.targets,
    help="Name or TOML file.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("costs.toml"),
              show_default=True, help="Write here.")  # fmt: skip
@click.option(
    "--data",
    metavar="DATA",
    shell_complete=completion.files,
    help="Samples; times seldom depend on them.",
)
@click.option("--runs", type=click.IntRange(1), default=20, show_default=True)
@click.option("--threads", type=click.IntRange(0), default=1, show_default=True)
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(**values: Any) -> None:
    """Parse, run, and turn errors into one message and an exit code."""
    with leaving("ptq-opt cost", debug=values.pop("debug")):
        run(**values)


def run(
    models: tuple[Path, ...],
    target: str,
    output: Path,
    data: str | None,
    runs: int,
    threads: int,
    quiet: bool,
) -> None:
    """Do what the command line says."""
    from .progress import Bars

    check_writable(output)
    goal = find_target(target)
    need_engine(goal)
    progress = no_progress if quiet else Bars(Console(stderr=True))
    found: list[Timings] = []
    for model in models:
        graph = load(model)
        samples = open_samples(data, graph.inputs, 4) if data else random_samples(graph.inputs, 2)
        context = Context(goal, samples=samples, progress=progress)
        steps = Pipeline(["calibrate{method=min-max}", Measure(runs, threads)])
        reports = steps.run(graph, context)
        assert context.timings is not None
        found.append(context.timings)
        if not quiet:
            click.echo(f"{model}: {reports[-1].matched} operators")
            for note in reports[-1].notes:
                click.echo(f"  {note}")
    write_text(output, write_timings(joined(found)))
    if not quiet:
        click.echo(f"Written\n  {output}")


def joined(found: list[Timings]) -> Timings:
    """The measurements of several models as one."""
    paces = [
        sum(each.pace(integer=integer) for each in found) / len(found) for integer in (False, True)
    ]
    rows = merged(row for each in found for row in each.rows)
    return Timings(found[0].machine, found[0].engine, rows, paces[0], paces[1])
