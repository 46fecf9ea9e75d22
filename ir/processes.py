"""An executor of processes on this machine."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .blas import one_thread
from .errors import PtqError, UsageError
from .evaluate import THREADS
from .execution import Item, Job, Map, Result, Work
from .sources import TemporaryFolder, importable

AHEAD = 4
"""Items per worker that are handed out before the first of them is done."""
APART = 1 << 16
"""Arrays of at least so many bytes travel beside a job, each once, whatever jobs it is part of."""
MOST_DEATHS = 3
"""So often workers may die over one item."""


@dataclass(frozen=True)
class Parcel:
    """A job on its way: its pickle, and the large arrays in it, by name of what holds each."""

    name: str
    arrays: tuple[str, ...]


def wrap(job: Job, send: Callable[[str, Any], None]) -> Parcel:
    """Take a job apart and `send` the parts, each with a name that tells its content."""
    large: list[pickle.PickleBuffer] = []

    def apart(buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes < APART:
            return True
        large.append(buffer)
        return False

    try:
        head = pickle.dumps(job, protocol=5, buffer_callback=apart)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(
            f"this work cannot be handed to other processes: {error}; functions must be at the top "
            'of a module (as metric="module:function" names them)'
        ) from None
    names = []
    for buffer in large:
        raw = buffer.raw()
        names.append(hashlib.sha256(raw).hexdigest())
        send(names[-1], raw)
    name = hashlib.sha256(head + "".join(names).encode()).hexdigest()
    send(name, head)
    return Parcel(name, tuple(names))


class _Bench:
    """What a worker has open: one job at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.name = ""
        self.work: Work | None = None


_BENCH = _Bench()


def perform(
    name: str, fetch: Callable[[], tuple[Any, Sequence[Any]]], item: Item, threads: int
) -> Result:
    """Do one item of job `name` here; `fetch` gives its pickle and its arrays when it is new."""
    with _BENCH.lock, one_thread():
        THREADS.set(threads)
        if _BENCH.name != name or _BENCH.work is None:
            _BENCH.work = None  # and its memory is free
            head, arrays = fetch()
            with importable():
                job: Job = pickle.loads(head, buffers=arrays)
            _BENCH.work, _BENCH.name = job.open(), name
        return _BENCH.work(item)


def _perform(folder: Path, parcel: Parcel, item: Item, threads: int) -> Result:
    def fetch() -> tuple[Any, Sequence[Any]]:
        arrays = [np.memmap(folder / name, np.uint8, "r") for name in parcel.arrays]
        return (folder / parcel.name).read_bytes(), arrays

    return perform(parcel.name, fetch, item, threads)


def _begin() -> None:
    """Make a process a worker: it ends with the one that started it, which alone heeds Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("ptq_opt").addHandler(logging.NullHandler())
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


class Processes:
    """Workers on this machine, started with the first job and kept until `close`.

    Jobs travel through files in a temporary folder, which all workers map: the weights of a model
    are in memory once. A worker that dies takes the others along; all are started anew, and what
    they had not finished is done again.
    """

    def __init__(self, workers: int, threads: int = 1) -> None:
        """Plan for so many workers, whose operators run on so many threads each."""
        self.workers, self._threads = workers, threads
        self._folder = TemporaryFolder()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, job: Job) -> Map:
        """Hand the job to the workers with its first item."""
        parcels: list[Parcel] = []

        def submit(item: Item) -> Future[Result]:
            if not parcels:
                parcels.append(wrap(job, self._send))
            return self._ready().submit(
                _perform, self._folder.path, parcels[0], item, self._threads
            )

        return lambda items: in_order(items, submit, self._restart, self.workers * AHEAD)

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        self._restart()
        self._folder.remove()

    def _ready(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, context, _begin)
        return self._pool

    def _restart(self) -> None:
        """End the workers; the next item finds new ones."""
        if self._pool is None:
            return
        processes = list((getattr(self._pool, "_processes", None) or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = None
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()

    def _send(self, name: str, data: Any) -> None:
        file = self._folder.path / name
        if file.exists():
            return
        try:
            file.write_bytes(data)
        except OSError as error:
            file.unlink(missing_ok=True)
            raise PtqError(
                f"cannot hand work to other processes in '{file.parent}': {error.strerror}; set "
                "TMPDIR to a folder with more room"
            ) from None


def in_order(
    items: Sequence[Item],
    submit: Callable[[Item], Future[Result]],
    restart: Callable[[], None],
    ahead: int,
    broken: tuple[type[BaseException], ...] = (BrokenExecutor,),
) -> Iterator[Result]:
    """Results of all items in their order, with at most `ahead` items on their way.

    After an error of the kinds `broken` what was on its way is submitted again.
    """
    waiting: dict[int, Future[Result]] = {}
    try:
        for number in range(len(items)):
            for deaths in range(MOST_DEATHS + 1):
                try:
                    for k in range(number, min(number + ahead, len(items))):
                        if k not in waiting:
                            waiting[k] = submit(items[k])
                    result = waiting[number].result()
                    break
                except broken:
                    if deaths == MOST_DEATHS:
                        raise PtqError(
                            f"workers died {deaths + 1} times over one piece of work: they may "
                            "lack memory, use fewer of them"
                        ) from None
                    waiting = {k: f for k, f in waiting.items() if _is_done(f)}
                    restart()
            del waiting[number]
            yield result
    finally:
        for future in waiting.values():
            future.cancel()


def _is_done(future: Future[Result]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
