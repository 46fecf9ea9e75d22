"""``python -m ptq_opt.tools.bench.guard``: at what fidelity do the scores of models fall?

The default of ``--min-sqnr`` follows from that. Trained models are quantized in ways from good to
useless; each file's fidelity is what the guard sees on samples held back, its score that of the
model's own task.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import click
import numpy as np

from ...ir import load
from ...ir.execution import Item, Result, Work, start
from ..api import Data, quantize
from ..cluster import working
from ..fidelity import Reference
from .cases import Case, find_cases, import_file, trained
from .options import of_cases, of_workers, write_rows

WAYS = ("int8", "int8:per-tensor", "int4", "int4:per-tensor", "int2")
"""To store weights, from good to useless."""
EDGES = (-100.0, 0.0, 5.0, 10.0, 15.0, 20.0, 200.0)
"""dB between which files are counted together."""


@dataclass(frozen=True)
class Row:
    """A quantized file.

    Attributes:
        model, weights: what was quantized and how.
        worst_db: of its outputs on samples held back, as the guard counts.
        in_float, score: of the model's task; higher is better.
    """

    model: str
    weights: str
    worst_db: float
    in_float: float
    score: float

    @property
    def kept(self) -> float:
        """Share of the float model's score."""
        return self.score / self.in_float

    def __str__(self) -> str:
        """One line."""
        told = f"{self.worst_db:.1f} dB, score {self.in_float:.3f} -> {self.score:.3f}"
        return f"{self.model} {self.weights}: {told}"


def measure(case: Case, weights: str, passes: str, samples: int) -> Row:
    """Quantize a model and score it."""
    data = str(case.calibration)
    activations = "int16" if weights.startswith("int2") else None  # with 8 bits there is no kernel
    found = quantize(
        case.model,
        data,
        passes=passes,
        weights=weights,
        activations=activations,
        samples=samples,
        min_sqnr=0.0,
    )
    graph = load(case.model)
    opened = Data.open(data, graph, samples, 0)
    worst = -Reference(graph, opened.judge, opened.unseen).short_of(0.0, found.graph)
    entry, sign = case.entry, 1.0 if case.entry.higher_is_better else -1.0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        found.save(file)
        before, after = (
            sign * float(entry.evaluate(case.session(path))[entry.main_metric])
            for path in (case.model, file)
        )
    return Row(case.name, weights, worst, before, after)


@dataclass(frozen=True)
class Matrix:
    """The job of measuring models; an item is [name, way to store weights], its result a `Row`.

    Attributes:
        zoo, cache: folders, absolute paths; the samples are there.
        passes, samples: to quantize with.
    """

    zoo: Path
    cache: Path
    passes: str
    samples: int

    def open(self) -> Work:
        """Open the zoo."""
        zoo = import_file(self.zoo / "zoo.py")

        def work(item: Item) -> Result:
            name, weights = item
            case = trained(name, zoo.ZOO[name], zoo.session, self.cache)
            row = measure(case, weights, self.passes, self.samples)
            return [np.array(json.dumps(asdict(row)))]

        return work


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """How much of the scores is kept, by fidelity."""
    for low, high in pairwise(EDGES):
        kept = [row.kept for row in rows if low <= row.worst_db < high]
        if kept:
            named = f"below {high:g} dB" if low == EDGES[0] else f"from {low:g} dB"
            yield f"{named}: {len(kept)} files keep {min(kept):.0%} to {max(kept):.0%}"


@click.command()
@of_cases("trained/(?!brain)")
@of_workers()
@click.option("--passes", default="plan,quant", show_default=True, help="As for ptq-opt.")
@click.option("--samples", default=40, show_default=True, help="For calibration.")
def main(
    zoo: Path | None,
    models: str,
    cache: Path,
    json_file: Path | None,
    workers: int,
    cluster: str | None,
    passes: str,
    samples: int,
) -> None:
    """Set scores of trained models beside the fidelity that the guard sees."""
    if zoo is None:
        raise click.UsageError("only the models of a --zoo have scores")
    rows: list[Row] = []
    names = [case.name for case in find_cases(zoo, cache, models) if case.entry]
    items = [[name, weights] for name in names for weights in WAYS]
    with working(workers, cluster):
        matrix = Matrix(zoo.absolute(), cache.absolute(), passes, samples)
        for (text,) in start(matrix)(items):
            rows.append(Row(**json.loads(str(text))))
            click.echo(str(rows[-1]))
            write_rows(json_file, rows)
    for line in summary(rows):
        click.echo(line)


if __name__ == "__main__":
    main()
