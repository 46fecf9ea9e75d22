"""Jobs for tests of executors: at the top of a module, so that workers can import them."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ptq_opt.ir import DataError
from ptq_opt.ir.execution import Item, Result, Work


@dataclass(frozen=True)
class Squares:
    """Squares of numbers, and how often the job was opened in the process that did it."""

    offset: np.ndarray

    def open(self) -> Work:
        OPENED.append(os.getpid())

        def work(item: Item) -> Result:
            if item == "wrong":
                raise DataError("no number")
            return [item * item + self.offset.sum(), np.array([len(OPENED), os.getpid()])]

        return work


OPENED: list[int] = []


@dataclass(frozen=True)
class Deadly:
    """Kills its process, once per item of `deadly` (or always), and gives the item."""

    folder: Path
    deadly: tuple[int, ...]
    always: bool = False

    def open(self) -> Work:
        def work(item: Item) -> Result:
            if item in self.deadly:
                try:
                    (self.folder / str(item)).touch(exist_ok=self.always)
                    os.kill(os.getpid(), signal.SIGKILL)
                except FileExistsError:
                    pass
            return [np.array(item)]

        return work
