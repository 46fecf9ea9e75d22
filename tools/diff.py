"""`ptq-opt diff`: how two models differ, as graphs and in numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..ir import load
from ..ir.samples import open_samples, random_samples
from . import completion
from .compare import Comparison, TensorDifference, compare
from .files import Existing, check_writable, write_text
from .terminal import leaving, screen

HELP = """Compare the models FIRST and SECOND: operators, constants, outputs, and tensor by tensor.

\b
  ptq-opt diff model.onnx model.int8.onnx --data calib/
  ptq-opt diff yesterday.onnx today.onnx --below=60

Tensors are compared by name, in the order of FIRST; where one is stored as integers, what is read
back of them. The first below the limit is where the models part.
"""
EXISTING = Existing()
SHOWN = 8
"""Names or tensors of a kind that are listed, unless all are asked for."""
EQUAL_DB = 100.0
"""Above this, float32 sums in another order explain a difference."""


@click.command(help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("first", type=EXISTING)
@click.argument("second", type=EXISTING)
@click.option(
    "--data",
    metavar="DATA",
    shell_complete=completion.files,
    help="Samples as for ptq-opt; without them, noise.",
)
@click.option("--samples", type=click.IntRange(1), default=4, show_default=True, help="Of them.")
@click.option("--below", default=20.0, show_default=True, help="dB that count as parted.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Write all of it here.")
@click.option("-v", "--verbose", is_flag=True, help="List everything.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(**values: Any) -> None:
    """Parse, run, and turn errors into one message and an exit code."""
    with leaving("ptq-opt diff", debug=values.pop("debug")):
        run(**values)


def run(
    first: Path,
    second: Path,
    data: str | None,
    samples: int,
    below: float,
    target: Path | None,
    verbose: bool,
) -> None:
    """Do what the command line says."""
    if target is not None:
        check_writable(target)
    graphs = load(first), load(second)
    inputs = graphs[0].inputs
    feeds = open_samples(data, inputs, samples) if data else random_samples(inputs, samples)
    with feeds:
        found = compare(*graphs, feeds)
    if target is not None:
        write_text(target, json.dumps(asdict(found), indent=1) + "\n")
    _show(screen(), found, below, None if verbose else SHOWN)


def _show(console: Console, found: Comparison, below: float, most: int | None) -> None:
    if found.same_graph:
        console.print("The graphs are the same.")
    for line in found.interface:
        console.print(escape(line))
    if found.operators:
        table = Table("operator", "first", "second", title="Operators", title_justify="left")
        for op, counts in found.operators.items():
            table.add_row(escape(op), *(str(count) for count in counts))
        console.print(table)
    for title, names in (
        ("Only in the first", found.removed),
        ("Only in the second", found.added),
        ("Other operator or attributes", found.changed),
        ("Constants that differ", [_constant(*entry) for entry in found.constants.items()]),
    ):
        _list(console, title, names, most)
    if found.missing:
        console.print(f"Numbers are not compared: {escape(found.missing)}")
        return
    for output in found.outputs:
        told = f"{100 * output.equal:.1f} % equal"
        told = told if output.sqnr_db is None else f"{output.sqnr_db:.1f} dB, {told}"
        console.print(f"output '{escape(output.output)}': {told}")
    _tensors(console, found, below, most)


def _tensors(console: Console, found: Comparison, below: float, most: int | None) -> None:
    console.print(
        f"{len(found.tensors)} tensors in both models, {found.unmatched} in the first only"
    )
    parted = found.first_below(below)
    for told, first in (
        ("first difference", found.first_below(EQUAL_DB)),
        (f"first below {below:g} dB", parted),
    ):
        console.print(f"{told}: {_tensor(first) if first else 'none'}", soft_wrap=True)
    worst = found.tensors if most is None else sorted(found.tensors, key=lambda t: t.sqnr_db)[:most]
    table = Table("tensor", "made by", "SQNR", "", title="Tensors" if most is None else "Worst")
    for tensor in worst:
        mark = "rescaled" if tensor.rescaled else ""
        table.add_row(escape(tensor.tensor), escape(tensor.node), f"{tensor.sqnr_db:.1f} dB", mark)
    if table.row_count:
        console.print(table)


def _tensor(found: TensorDifference) -> str:
    return escape(f"'{found.tensor}' of {found.node}, {found.sqnr_db:.1f} dB")


def _constant(name: str, largest: float | None) -> str:
    return f"'{name}', {'other type or shape' if largest is None else f'by up to {largest:.3g}'}"


def _list(console: Console, title: str, names: Sequence[str], most: int | None) -> None:
    if not names:
        return
    console.print(f"{title}: {len(names)}")
    for name in names[:most]:
        console.print(f"  {escape(name)}", soft_wrap=True)
    if most is not None and len(names) > most:
        console.print(f"  and {len(names) - most} more; -v lists them")
