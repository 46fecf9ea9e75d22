"""What there is to name on the command line."""

from __future__ import annotations

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from ..ir.target import DEFAULT, find_target, names
from ..passes import registry
from ..passes.spec import describe


def passes() -> RenderableType:
    """Every pass: what it does, and its options."""
    table = _table("pass", "what it does; its options (default)")
    for name in registry.names():
        found = registry.find(name)
        options = [
            f"  {option}={kind}" + (f" ({default})" if default else "")
            for option, kind, default in describe(found)
        ]
        table.add_row(name, escape("\n".join([found.summary(), *options])))
    table.caption = f"By default: {registry.DEFAULT}"
    return table


def targets() -> RenderableType:
    """Every target in a line."""
    table = _table("target", "")
    for name in names():
        table.add_row(name, escape(find_target(name).summary) + " (default)" * (name == DEFAULT))
    return table


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None, header_style="dim", padding=(0, 2), caption_justify="left")
    table.columns[0].style = "bold"
    table.columns[0].no_wrap = True
    return table
