"""A folder of finished results, so that a run that was killed goes on where it was.

Results are named by what they are results of: the digest of model, samples, options, item and
software. So a folder may serve any number of runs, one after the other or at the same time, and a
change of anything leads to another name. Files are .npz, nothing in them is executed; they appear
whole or not at all, and one that is damaged all the same is made again.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .digest import Unnamed, digest, software
from .errors import DataError, UsageError
from .execution import Item, Job, Keep, Map, Result
from .sources import load_numpy

PARTIAL = ".partial"
STALE = 24 * 3600
"""Seconds after which an unfinished file belongs to a run that was killed."""


class WorkFolder:
    """Keeps results.

    Attributes:
        path: of the folder.
        used: how many results were taken from it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Use the folder `path`, which is made where it is not there.

        Raises:
            UsageError: it cannot be made, or not be written to.
        """
        self.path = Path(path)
        self.used = 0
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
            for file in self.path.glob(f"*/*{PARTIAL}"):
                if file.stat().st_mtime < time.time() - STALE:
                    file.unlink(missing_ok=True)
        except OSError as error:
            raise self._full(error) from None

    def remembering(self, job: Job, plain: Map) -> Map:
        """What does `job` as `plain` does, for the items that the folder does not have."""
        try:
            name = digest(job)
        except Unnamed:
            return plain

        def each(items: Sequence[Item]) -> Iterator[Result]:
            files = [self._file(name, item) for item in items]
            kept = [file.exists() for file in files]
            missing = plain([item for item, there in zip(items, kept, strict=True) if not there])
            for item, file, there in zip(items, files, kept, strict=True):
                found = self._read(file) if there else None
                if found is None:
                    found = next(plain([item]) if there else missing)
                    self._write(file, found)
                yield found

        return each

    def keeper(self, what: object) -> Keep:
        """See `execution.keeper`."""
        try:
            name = digest(what)
        except Unnamed:
            return lambda _, make: make()

        def keep(step: Item, make: Callable[[], Result]) -> Result:
            file = self._file(name, step)
            found = self._read(file) if file.exists() else None
            if found is None:
                found = make()
                self._write(file, found)
            return found

        return keep

    def _file(self, name: str, item: Item) -> Path:
        full = digest(software(), name, item)
        return self.path / full[:2] / f"{full[2:]}.npz"

    def _read(self, file: Path) -> Result | None:
        """The result in a file, None when it is damaged."""
        try:
            parts: dict[str, Any] = load_numpy(file)
            found = [parts[f"arr_{k}"] for k in range(len(parts))]
        except (DataError, KeyError):
            return None
        self.used += 1
        return found

    def _write(self, file: Path, result: Result) -> None:
        try:
            file.parent.mkdir(exist_ok=True)
            handle, name = tempfile.mkstemp(PARTIAL, dir=file.parent)
            try:
                with os.fdopen(handle, "wb") as out:
                    np.savez(out, *result)
                os.replace(name, file)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise self._full(error) from None

    def _full(self, error: OSError) -> UsageError:
        return UsageError(
            f"cannot keep results in the work folder '{self.path}': {error.strerror or error}; "
            "make room or name another one (--work), what it holds stays good"
        )
