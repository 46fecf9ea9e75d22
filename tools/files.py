"""Output files appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..ir import UsageError
from ..ir.spelling import closest, near


class Existing(click.Path):
    """A file that is there; for one that is not, the message names the nearest.

    Attributes:
        words: what else could have been meant.
    """

    def __init__(self, words: Sequence[str] = ()) -> None:
        super().__init__(exists=True, dir_okay=False, path_type=Path)
        self.words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, or `click.BadParameter`."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            hint = closest(str(value), self.words) or near(Path(value))
            self.fail(error.message.rstrip(".") + (hint or "."), param, ctx)


def check_writable(path: Path) -> None:
    """`UsageError` unless a file can be made (or replaced) at `path`; nothing is left behind."""
    if path.is_dir():
        raise UsageError(f"cannot write '{path}': it is a folder; name a file")
    if path.exists() and not path.is_file():
        raise UsageError(f"cannot write '{path}': it is not a regular file")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write '{path}': make the folder '{path.parent}' first")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"cannot write '{path}': {error.strerror or error}") from None


def write_text(path: Path, text: str) -> None:
    """Write `text` under a temporary name, then rename it to `path`; `UsageError` if it cannot."""
    try:
        _replace(path, text)
    except OSError as error:
        raise UsageError(f"cannot write '{path}': {error.strerror or error}") from None


def _replace(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
