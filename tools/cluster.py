"""Who does the work of a run: this process, processes on this machine, or a Dask cluster."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from ..ir import UsageError
from ..ir.execution import EXECUTOR, WORK, Item, Job, Map, Result
from ..ir.processes import AHEAD, Parcel, Processes, in_order, perform, wrap
from ..ir.work_folder import WorkFolder

PAUSE = 1.0
"""Seconds until a scheduler has missed a worker that died."""
TIMEOUT = 30
"""Seconds to wait for a scheduler."""


@contextmanager
def working(
    workers: int = 1,
    cluster: str | None = None,
    work: str | os.PathLike[str] | None = None,
    threads: int = 1,
) -> Iterator[None]:
    """Let what runs inside use workers, and keep results in a folder.

    Args:
        workers: processes on this machine; 1 for this one alone.
        cluster: a Dask scheduler, "tcp://host:port", or "local:N" for N workers of Dask here.
        work: folder that keeps results for another run, see `ir.work_folder`.
        threads: of one operator in each worker.

    Raises:
        UsageError: they make no sense, Dask is not installed, nobody answers, or the folder
            cannot be used.
    """
    if workers < 1:
        raise UsageError(f"workers must be at least 1, not {workers}")
    if cluster is not None and workers > 1:
        raise UsageError("give --workers (processes on this machine) or --cluster, not both")
    with ExitStack() as stack:
        if work is not None:
            stack.callback(WORK.reset, WORK.set(WorkFolder(work)))
        if cluster is not None:
            executor: Cluster | Processes = stack.enter_context(Cluster(cluster, threads))
            stack.callback(EXECUTOR.reset, EXECUTOR.set(executor))
        elif workers > 1:
            executor = stack.enter_context(Processes(workers, threads))
            stack.callback(EXECUTOR.reset, EXECUTOR.set(executor))
        yield


class Cluster:
    """The workers of a Dask scheduler.

    Large arrays are scattered to all workers under the digest of their content, so that a model
    travels to each once. What is mapped or spooled in files is read there: all must see the same
    paths.
    """

    def __init__(self, address: str, threads: int = 1) -> None:
        """Connect to a scheduler, or start "local:N" workers; operators run on `threads` each."""
        try:
            import distributed
        except ImportError:
            raise UsageError("--cluster needs Dask: pip install 'ptq-opt[cluster]'") from None
        local = re.fullmatch(r"local:([1-9]\d*)", address)
        if local is None and not re.match(r"\w+://", address):
            raise UsageError(f"no cluster '{address}': give tcp://host:port or local:N")
        self._started: Any = None
        self._threads = threads
        if local is not None:
            self._started = distributed.LocalCluster(
                n_workers=int(local[1]), threads_per_worker=1, dashboard_address=None
            )
        try:
            self._client = distributed.Client(self._started or address, timeout=TIMEOUT)
            self._client.wait_for_workers(1, timeout=TIMEOUT)
        except (OSError, TimeoutError) as error:
            raise UsageError(f"cluster '{address}' does not answer: {error}") from None
        self._broken = (
            distributed.scheduler.KilledWorker,
            distributed.client.FutureCancelledError,
            distributed.comm.CommClosedError,
            TimeoutError,
        )
        self._sent: dict[str, Any] = {}
        self.workers = len(self._client.scheduler_info()["workers"])

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        if self._started is not None:
            self._started.close()

    def start(self, job: Job) -> Map:
        """Hand the job to the workers with its first item."""
        parcels: list[Parcel] = []

        def submit(item: Item) -> Any:
            if not parcels or parcels[0].name not in self._sent:
                parcels[:] = [wrap(job, self._send)]
            name, arrays = parcels[0].name, parcels[0].arrays
            parts = [self._sent[each] for each in (name, *arrays)]
            return self._client.submit(_perform, name, item, self._threads, *parts, pure=False)

        return lambda items: in_order(
            items, submit, self._restart, self.workers * AHEAD, self._broken
        )

    def _restart(self) -> None:
        """Send again what goes next, once the scheduler knows which workers are left."""
        self._sent.clear()
        time.sleep(PAUSE)
        self._client.wait_for_workers(1, timeout=TIMEOUT)

    def _send(self, name: str, data: Any) -> None:
        if name not in self._sent:
            self._sent[name] = self._client.scatter(bytes(data), broadcast=True, hash=False)


def _perform(name: str, item: Item, threads: int, head: bytes, *arrays: bytes) -> Result:
    def fetch() -> tuple[bytes, Sequence[bytes]]:
        return head, arrays

    return perform(name, fetch, item, threads)
