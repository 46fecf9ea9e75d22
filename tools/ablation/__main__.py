"""``python -m ptq_opt.tools.ablation``: what each technique gains on the models of a zoo."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
from rich.console import Console

from ...ir.execution import start
from ..bench.cases import import_file
from ..bench.options import of_workers
from ..cluster import working
from ..files import write_text
from .measure import FLOAT, Bench, Budget, Cell, Cells, Matrix
from .tables import Found, document
from .variants import Technique, schemes, techniques


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
@of_workers()
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
    workers: int,
    cluster: str | None,
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
    budget = Budget(learn, test)
    benches = [
        (Bench(entry, modules.fidelity, budget), scheme)
        for scheme in schemes()
        for entry in modules.ZOO.values()
    ]
    with working(workers, cluster):
        for bench, scheme in benches:
            if not show and re.search(models, bench.name) and re.search(kinds, scheme):
                matrix = Matrix(zoo.absolute(), bench.name, budget)
                measure(bench, scheme, wanted, kept, redo, matrix, console)
                rows = [row for other, kind in benches if (row := known(kept, other, kind, every))]
                write_text(output, document(rows, every, command))
    rows = [row for bench, scheme in benches if (row := known(kept, bench, scheme, every))]
    if not rows:
        raise click.UsageError("nothing was measured")
    write_text(output, document(rows, every, command))


def measure(
    bench: Bench,
    scheme: str,
    wanted: list[Technique],
    kept: Cells,
    redo: bool,
    matrix: Matrix,
    console: Console,
) -> None:
    """Make the cells of one model under one scheme, and of the float model."""
    keys: dict[str, tuple[object, ...]] = {json.dumps(FLOAT): (*bench.key, FLOAT)}
    keys |= {json.dumps([scheme, text]): (*bench.key, scheme, text) for text in pipelines(wanted)}
    missing = [item for item, key in keys.items() if redo or not kept.file(*key).exists()]
    found = start(matrix)([json.loads(item) for item in missing])
    for item, (text,) in zip(missing, found, strict=True):
        kept.keep(Cell(**json.loads(str(text))), *keys[item])
    for key in list(keys.values())[1:]:
        cell = kept.read(*key)
        shown = cell.error or f"{cell.mean_db:.1f} dB, {cell.seconds:.0f} s"
        console.print(*key, shown, markup=False, soft_wrap=True)


def known(kept: Cells, bench: Bench, scheme: str, every: list[Technique]) -> Found | None:
    """What was measured of a model under a scheme, None when nothing was."""
    files = {text: (*bench.key, scheme, text) for text in pipelines(every)}
    cells = {text: kept.read(*key) for text, key in files.items() if kept.file(*key).exists()}
    if not cells:
        return None
    score = kept.read(*bench.key, FLOAT).score or 0.0
    return Found(bench.name, scheme, bench.entry.main_metric, score, cells, bench.budget)


def pipelines(wanted: list[Technique]) -> list[str]:
    """All that the techniques compare, each once."""
    return list(dict.fromkeys(t for each in wanted for p in (each.alone, each.beside) for t in p))


if __name__ == "__main__":
    main()
