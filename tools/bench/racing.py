"""Our kernels, ONNX Runtime and OpenVINO on every model of a zoo and the architectures it lacks.

``python -m ptq_opt.tools.bench.racing --zoo FOLDER``. Each model is quantized wherever it can be:
files that are placed for one engine have float parts, which are no matter of our kernels. The mean
is the geometric one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import click
from rich.console import Console

from ...native.kernels import best_isa
from ..profile import machine
from .cases import Case, find_architectures, find_cases
from .engines import THREADS, Race, geometric_means, race, race_table
from .options import of_cases, write_rows
from .quantizers import run_ours

INTEGERS = ("--target=generic", "--passes=fold-bn,quant", "--min-sqnr=0", "--samples=4", "-q")
"""Options for ptq-opt: everything on grids, however little that suits the model."""


def race_integers(case: Case, threads: Sequence[int], seconds: float, python: Path) -> list[Race]:
    """Quantize a model wherever it can be, and run the file in the three engines.

    Args:
        case: the model.
        threads: one race for each number.
        seconds: of one race.
        python: which has OpenVINO, if any does.
    """
    made = run_ours(case, INTEGERS, "integers")
    if made.file is None:
        return [Race(case.name, count, errors={"native": made.error}) for count in threads]
    sample = min(case.calibration.glob("*.npz"))
    return [race(case.name, made.file, sample, count, seconds, python) for count in threads]


@click.command()
@of_cases("trained|topology|architecture")
@click.option("--threads", type=int, multiple=True, default=THREADS, show_default=True)
@click.option("--seconds", default=5.0, show_default=True, help="Timing of one file.")
@click.option(
    "--peer-python",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=Path(sys.executable),
    help="Python that has OpenVINO; this one by default.",
)
def main(
    zoo: Path | None,
    models: str,
    cache: Path,
    json_file: Path | None,
    threads: tuple[int, ...],
    seconds: float,
    peer_python: Path,
) -> None:
    """Time every model in three engines; one table."""
    console = Console(width=120)
    races: list[Race] = []
    for case in chain(find_cases(zoo, cache, models), find_architectures(cache, models)):
        found = race_integers(case, threads, seconds, peer_python)
        console.print(race_table(found))
        races += found
        write_rows(json_file, races)
    console.print(f"{machine()}, {best_isa()}; medians")
    console.print(race_table(sorted(races, key=lambda one: one.threads)))
    for count, mean in geometric_means(races).items():
        console.print(f"geometric mean with {count} thread(s): {mean:.2f}")


if __name__ == "__main__":
    main()
