"""``python -m ptq_opt.tools.ablation``: what each technique gains on the models of a zoo."""

from __future__ import annotations

import re
from pathlib import Path

import click
from rich.console import Console

from ...ir.target import Target
from ..bench.cases import import_file
from ..files import write_text
from .measure import Bench, Budget, Cell, Cells
from .tables import Found, document
from .variants import PLAIN, Technique, schemes, techniques


@click.command()
@click.option(
    "--zoo",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with zoo.py and trained/.",
)
@click.option("--models", default="", metavar="REGEX", help="Only models named so.")
@click.option("--schemes", "kinds", default="", metavar="REGEX", help="Only W8A8, W4A8 ... so.")
@click.option("--techniques", "chosen", default="", metavar="REGEX", help="Only techniques so.")
@click.option("--learn", default=64, show_default=True, help="Samples to calibrate with.")
@click.option("--test", default=96, show_default=True, help="Samples to score with.")
@click.option("--redo", is_flag=True, help="Measure again what was chosen.")
@click.option("--show", is_flag=True, help="Measure nothing, write the table of what is there.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/ablation"),
    show_default=True,
    help="Folder that keeps what was measured.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("docs/ablation.md"),
    show_default=True,
    help="The table.",
)
def main(
    zoo: Path,
    models: str,
    kinds: str,
    chosen: str,
    learn: int,
    test: int,
    redo: bool,
    show: bool,
    cache: Path,
    output: Path,
) -> None:
    """Measure every technique alone and in the default pipeline, and write the table.

    What is there already is not measured again: an interrupted run continues, and after a change
    of one technique only that is redone (--techniques=NAME --redo).
    """
    modules = import_file(zoo / "zoo.py")
    console, kept = Console(), Cells(cache)
    every = techniques()
    wanted = [each for each in every if re.search(chosen, each.name)]
    command = f"make ablation ZOO=folder ABLATION='--learn={learn} --test={test}'"
    found = []
    for scheme, target in schemes().items():
        for name, entry in modules.ZOO.items():
            bench = Bench(entry, modules.fidelity, Budget(learn, test))
            key = (name, bench.budget.learn, bench.budget.test)
            picked = bool(re.search(models, name) and re.search(kinds, scheme)) and not show
            if picked:
                measure(bench, (*key, scheme), target, wanted, kept, redo, console)
            if cells := known(kept, (*key, scheme), every):
                score = kept.get(bench.float_cell, False, *key, "float").score or 0.0
                found.append(Found(name, scheme, entry.main_metric, score, cells, bench.budget))
                write_text(output, document(found, every, PLAIN, command))
    if not found:
        raise click.UsageError("nothing was measured")


def measure(
    bench: Bench,
    key: tuple[object, ...],
    target: Target,
    wanted: list[Technique],
    kept: Cells,
    redo: bool,
    console: Console,
) -> None:
    """Make the cells of one model under one scheme."""
    pipelines = dict.fromkeys(
        text for each in wanted for pair in (each.alone, each.beside) for text in pair
    )
    for text in pipelines:
        cell = kept.get(lambda text=text: bench.cell(text, target), redo, *key, text)  # type: ignore[misc]
        shown = cell.error or f"{cell.mean_db:.1f} dB, {cell.seconds:.0f} s"
        console.print(*key, text, shown, markup=False, soft_wrap=True)


def known(kept: Cells, key: tuple[object, ...], every: list[Technique]) -> dict[str, Cell]:
    """Pipeline -> cell, of those that were measured."""
    texts = dict.fromkeys(
        text for each in every for pair in (each.alone, each.beside) for text in pair
    )
    return {text: kept.read(*key, text) for text in texts if kept.file(*key, text).exists()}


if __name__ == "__main__":
    main()
