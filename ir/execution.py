"""Work that falls into independent parts: done here, by processes, or by a cluster, and kept.

A `Job` says what is to be done for each of many items. Who does it is the executor of the context
(`EXECUTOR`); whether results are kept for another run is its work folder (`WORK`). Neither changes
a result: an item's result depends on the job and the item alone, and callers put results together
in the order of the items, however many worked on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from .tensor import Array

if TYPE_CHECKING:
    from .work_folder import WorkFolder

Item = Any
"""What JSON can say: a number, a text, a list or a dict of these."""
Result = Sequence[Array]
"""Arrays of numpy's own types."""
Work = Callable[[Item], Result]
"""Does what a job says for one item."""
Map = Callable[[Sequence[Item]], Iterator[Result]]
"""The results for many items, in their order."""


Keep = Callable[[Item, Callable[[], Result]], Result]
"""keep(step, make): what `make` returns, or returned in an earlier run for the same step."""


class Job(Protocol):
    """What to do: a frozen dataclass of graphs, samples and options, which travels as it is."""

    def open(self) -> Work:
        """Get ready, once per worker; what items have in common is done here."""
        ...


class Executor(Protocol):
    """Does jobs.

    Attributes:
        workers: how many items are worked on at a time.
    """

    workers: int

    def start(self, job: Job) -> Map:
        """What does the job; it may be called again and again."""
        ...


class InProcess:
    """One item after the other, here and now."""

    workers = 1

    def start(self, job: Job) -> Map:
        """Open the job with the first item."""
        opened: list[Work] = []

        def each(items: Sequence[Item]) -> Iterator[Result]:
            for item in items:
                if not opened:
                    opened.append(job.open())
                yield opened[0](item)

        return each


EXECUTOR: ContextVar[Executor] = ContextVar("executor", default=InProcess())  # noqa: B039
"""Who works; it has no state."""
WORK: ContextVar[WorkFolder | None] = ContextVar("work", default=None)
"""Where results are kept for another run."""


def start(job: Job) -> Map:
    """What does `job`: the executor of the context, for what its work folder does not have."""
    plain, folder = EXECUTOR.get().start(job), WORK.get()
    return plain if folder is None else folder.remembering(job, plain)


def keeper(what: object) -> Keep:
    """Keeps what steps of `what` make, which need each other's results and so are no items."""
    folder = WORK.get()
    return folder.keeper(what) if folder is not None else lambda _, make: make()
