"""Scores of quantized files by their models' own tasks, which workers can share.

Nothing here is timed. What is timed is quantized before and run behind, when no worker is left.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...ir.evaluate import THREADS
from ...ir.execution import Item, Result, Work, start
from .cases import import_file
from .measure import FP32, OURS, Made, Row
from .speed import first_line


@dataclass(frozen=True)
class Scoring:
    """The job of scoring files; an item is [model, file], its result JSON of scores or an error.

    Attributes:
        zoo: folder with zoo.py, an absolute path.
        test: samples to score with, 0 for as many as each model's entry says.
    """

    zoo: Path
    test: int = 0

    def open(self) -> Work:
        """Open the zoo."""
        zoo = import_file(self.zoo / "zoo.py")
        if self.test:
            for name, entry in zoo.ZOO.items():
                zoo.ZOO[name] = replace(entry, test_count=self.test)

        def work(item: Item) -> Result:
            name, file = item
            try:
                scores = zoo.ZOO[name].evaluate(zoo.session(file, THREADS.get()))
            except Exception as error:  # the engine's own classes have no common base but this
                scores = {"error": first_line(error)}
            return [np.array(json.dumps(scores))]

        return work


def score(zoo: Path, made: Sequence[Made], test: int) -> None:
    """Task metric and SQNR of each output; those of files that do not change are kept.

    `test` is the number of samples, see `Scoring`.
    """
    suffix = f".{test}.scores.json" if test else ".scores.json"
    files = {
        one.case.folder / f"{tool}{suffix}": [one.case.name, str(file.absolute())]
        for one in made
        if one.case.entry is not None
        for tool, file in one.files.items()
    }
    new = [kept for kept in files if kept.name == f"{OURS}{suffix}" or not kept.exists()]
    found = start(Scoring(zoo.absolute(), test))([files[kept] for kept in new])
    for kept, (text,) in zip(new, found, strict=True):
        kept.write_text(str(text))
    for one in made:
        for tool in one.files if one.case.entry is not None else ():
            scores = json.loads((one.case.folder / f"{tool}{suffix}").read_text())
            add_scores(one.rows[tool], one.case.entry.main_metric, scores)


def add_scores(row: Row, metric: str, scores: dict[str, float | str]) -> None:
    """Write scores of a file, or why there are none, into its row."""
    row.metric = metric
    if "error" in scores:
        row.errors["score"] = str(scores["error"])
        return
    row.score = float(scores[metric])
    if row.tool != FP32:
        prefix = "sqnr_db/"
        row.sqnr_db = {
            key.removeprefix(prefix): float(value)
            for key, value in scores.items()
            if key.startswith(prefix)
        }
