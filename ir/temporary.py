"""Temporary files, and what to do where there is no room for them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import UsageError


@contextmanager
def keeping(what: str) -> Iterator[None]:
    """Say how to go on (`UsageError`) where a temporary file of the block cannot be written."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"cannot keep {what} in '{tempfile.gettempdir()}': {error.strerror or error}; name a "
            "folder with more room in the environment variable TMPDIR"
        ) from None
