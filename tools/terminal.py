"""What all commands share: the screen, and how an error ends them."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console

from ..ir import PtqError, UsageError
from .report import WIDTH


def screen() -> Console:
    """The terminal, or what stands for it in a file."""
    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)


@contextmanager
def leaving(command: str, *, debug: bool) -> Iterator[None]:
    """Turn what the block raises into a message of `command`, and leave.

    Exit codes: 1 when the model or the data is at fault, or we are; 2 when the command line is.
    """
    try:
        yield
    except Exception as error:
        if debug:
            traceback.print_exc()
        known = isinstance(error, PtqError | MemoryError)
        kind = "" if known else f"internal error, please report it: {type(error).__name__}: "
        click.echo(f"{command}: error: {kind}{error}", err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
