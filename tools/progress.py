"""Progress bars for terminals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

DELAY = 0.7
"""Seconds before a step is shown: what is over at once needs no bar."""


class Bars:
    """Shows long steps on a terminal; a `passes.base.Progress`.

    Steps may nest. Nothing is written where the console is no terminal, and nothing stays.
    """

    def __init__(self, console: Console) -> None:
        """Write to `console`."""
        self._display = _Display(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            _Count(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    @contextmanager
    def __call__(self, title: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Show a step of `total` parts (None: unknown); the function given back advances it."""
        if not self._display.tasks:
            self._display.start()
        task = self._display.add_task(title, total=total)
        try:
            yield lambda steps: self._display.advance(task, steps)
        finally:
            self._display.remove_task(task)
            if not self._display.tasks:
                self._display.stop()


class _Count(MofNCompleteColumn):
    def render(self, task: Task) -> Text:
        """Render how many parts are done, where it is known how many there are."""
        return super().render(task) if task.total is not None else Text()


class _Display(Progress):
    def get_renderables(self) -> Iterable[RenderableType]:
        """Render the steps that have taken a while."""
        yield self.make_tasks_table([t for t in self.tasks if (t.elapsed or 0.0) >= DELAY])
