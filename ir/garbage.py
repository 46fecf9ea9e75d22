"""When Python looks for unreachable cycles among the many small objects of a graph."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

PER_OPERATOR = 10
"""New objects per operator of a graph after which to look: a tenth or so of a copy of it."""


@contextmanager
def without_gc() -> Iterator[None]:
    """Never: building many small linked objects is ten times as fast."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def seldom_gc(operators: int) -> Iterator[None]:
    """As seldom as a graph of so many operators allows; for work that may leave graphs behind.

    By default Python looks after every 700 new objects, and while objects are made again and again
    among all there are.
    """
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], PER_OPERATOR * operators), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
