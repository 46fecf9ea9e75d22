"""Quantizes one model by one pipeline and scores it; what was measured is kept in files."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...ir import PtqError, load
from ...ir.evaluate import Runner
from ...ir.execution import Item, Result, Work
from ...ir.samples import open_samples
from ...ir.target import Target
from ...ir.tensor import Array
from ...passes import Context, Pipeline
from ..bench.cases import import_file
from ..files import write_text
from .variants import schemes

FLOAT = "float"
"""Key of the float model's cell."""
TEST = 1
"""The model zoo's stream of samples that score; calibration has 0."""
SLOW = {"brain_unet3d": 24, "handtrack_ssd_mobilenet_v2": 2, "posenet_mobilenet_v1": 2}
"""Models of seconds per sample get so many times fewer samples."""


@dataclass(frozen=True)
class Cell:
    """What one pipeline does to one model.

    Attributes:
        pipeline: as it was resolved.
        sqnr_db: output -> signal to noise ratio against float, in dB.
        score: the task's main metric.
        seconds: to quantize.
        error: why there is nothing else.
        date: when it was measured.
    """

    pipeline: str
    sqnr_db: dict[str, float] = field(default_factory=dict)
    score: float | None = None
    seconds: float | None = None
    error: str = ""
    date: str = field(default_factory=lambda: f"{datetime.datetime.now():%Y-%m-%d %H:%M}")

    @property
    def mean_db(self) -> float:
        """Mean over the outputs; not a number when there are none."""
        return float(np.mean([*self.sqnr_db.values()])) if self.sqnr_db else np.nan

    @property
    def worst_db(self) -> float:
        """Of the worst output; not a number when there are none."""
        return min(self.sqnr_db.values(), default=np.nan)


@dataclass(frozen=True)
class Budget:
    """How many samples a model gets.

    Attributes:
        learn: to calibrate and correct.
        test: to score.
    """

    learn: int
    test: int

    def of(self, name: str) -> Budget:
        """That of one model."""
        share = SLOW.get(name, 1)
        return Budget(max(self.learn // share, 2), max(self.test // share, 2))


class Bench:
    """One model of the zoo with its samples.

    Attributes:
        entry: the zoo's.
        budget: of this model.
    """

    def __init__(
        self, entry: Any, fidelity: Callable[..., dict[str, float]], budget: Budget
    ) -> None:
        """Make nothing yet: a run whose cells are all there needs no sample."""
        self.entry, self._fidelity, self.budget = entry, fidelity, budget.of(entry.name)

    @property
    def name(self) -> str:
        """Of the model."""
        return str(self.entry.name)

    @property
    def key(self) -> tuple[str, int, int]:
        """Begins the keys of its cells."""
        return self.name, self.budget.learn, self.budget.test

    @cached_property
    def learn(self) -> list[dict[str, Array]]:
        """Calibration samples."""
        found: list[dict[str, Array]] = self.entry.calibration(self.budget.learn)
        return found

    @cached_property
    def tests(self) -> list[tuple[dict[str, Array], Any]]:
        """Feeds with their label; no calibration sample is among them."""
        return list(self.entry.samples(TEST, self.budget.test))

    @cached_property
    def reference(self) -> list[list[Array]]:
        """The float model's outputs for `tests`."""
        runner = Runner(load(self.entry.path))
        return [runner.run(feeds) for feeds, _ in self.tests]

    def float_cell(self) -> Cell:
        """The float model's score."""
        return Cell("", score=self.scores(self.reference)[self.entry.main_metric])

    def scores(self, outputs: list[list[Array]]) -> dict[str, float]:
        """Task metrics and likeness to float."""
        found: dict[str, float] = self.entry.score(outputs, [label for _, label in self.tests])
        return found | self._fidelity(self.entry, self.reference, outputs)

    def cell(self, passes: str, target: Target) -> Cell:
        """Quantize and score; sums of products are exact whatever the machine.

        A pass that fails leaves its message: the other cells of the table do not depend on it.
        """
        start, pipeline = time.perf_counter(), Pipeline(passes)
        graph = load(self.entry.path)
        context = Context(target, samples=open_samples(self.learn, graph.inputs))
        try:
            pipeline.run(graph, context)
            seconds = time.perf_counter() - start
            runner = Runner(graph)
        except PtqError as error:
            return Cell(pipeline.spec, error=str(error).splitlines()[0])
        found = self.scores([runner.run(feeds) for feeds, _ in self.tests])
        noise = {
            key.removeprefix("sqnr_db/"): value
            for key, value in found.items()
            if key.startswith("sqnr_db/")
        }
        return Cell(pipeline.spec, noise, found[self.entry.main_metric], seconds)


class Cells:
    """Measured cells, one JSON file each, so that a run can be interrupted and parts redone."""

    def __init__(self, folder: Path) -> None:
        """Keep them in `folder`."""
        self.folder = folder

    def file(self, *key: object) -> Path:
        """Where the cell with this key is kept."""
        text = "\n".join(map(str, key))
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self.folder / str(key[0]) / f"{name}.json"

    def read(self, *key: object) -> Cell:
        """The cell with this key, which is there."""
        kept = json.loads(self.file(*key).read_text())
        return Cell(**kept["cell"])

    def keep(self, cell: Cell, *key: object) -> None:
        """Keep a cell under its key."""
        file = self.file(*key)
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"key": list(map(str, key)), "cell": dataclasses.asdict(cell)}, indent=1)
        write_text(file, text)


@dataclass(frozen=True)
class Matrix:
    """The job of measuring one model of a zoo; an item is [scheme, pipeline], or "float".

    Attributes:
        zoo: folder with zoo.py.
        name: of the model.
        budget: as it was asked for, for all models.
    """

    zoo: Path
    name: str
    budget: Budget

    def open(self) -> Work:
        """Open the zoo; samples are made when they are needed."""
        zoo = import_file(self.zoo / "zoo.py")
        bench, targets = Bench(zoo.ZOO[self.name], zoo.fidelity, self.budget), schemes()

        def work(item: Item) -> Result:
            cell = bench.float_cell() if item == FLOAT else bench.cell(item[1], targets[item[0]])
            return [np.array(json.dumps(dataclasses.asdict(cell)))]

        return work
