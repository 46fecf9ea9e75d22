"""``python -m ptq_opt.tools.corpus``: what becomes of every model that the onnx package brings."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import sys
import warnings
from pathlib import Path

import click
from rich.console import Console

from ..files import write_text
from .cases import all_cases
from .outcome import BUGS, Outcome, run_case
from .table import changes, table, write


@click.command()
@click.option("--match", default="", metavar="REGEX", help="Only cases named so.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default="cores", help="Processes.")
@click.option(
    "--snapshot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the outcomes to this file, for --compare.",
)
@click.option(
    "--compare",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Name every case with another outcome than in this file.",
)
def main(match: str, jobs: int, snapshot: Path | None, compare: Path | None) -> None:
    """Quantize every case by the default pipeline and compare the file with the original.

    Exits with 1 when a case crashes, gives a file that does not load, is far from float without a
    warning, or has another outcome than in the file given to --compare.
    """
    names = [name for name in all_cases() if re.search(match, name)]
    with multiprocessing.get_context("fork").Pool(jobs, quiet) as pool:
        found = dict(zip(names, pool.imap(outcome, names, chunksize=8), strict=True))
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table(found), f"\n{len(found)} cases")
    for name, each in found.items():
        if each.kind in BUGS:
            console.print(f"{name}: {each}", markup=False)
    if snapshot is not None:
        write_text(snapshot, write(found))
    changed = [] if compare is None else changes(compare.read_text(), found)
    for line in changed:
        console.print(line, markup=False)
    sys.exit(bool(changed) or any(each.kind in BUGS for each in found.values()))


def outcome(name: str) -> Outcome:
    """What becomes of one case."""
    return run_case(all_cases()[name])


def quiet() -> None:
    """Let a process say nothing of single cases."""
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


if __name__ == "__main__":
    main()
