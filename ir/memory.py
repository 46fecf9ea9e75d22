"""How much memory a run may use, asked before large arrays are made and held by the kernel."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .errors import OutOfMemory, UsageError

LIMIT: ContextVar[int | None] = ContextVar("memory", default=None)
"""Bytes that this process may allocate; None for all that the machine has."""
ROOM = 128 << 20
"""Bytes beyond what is in use below which a limit is refused: ONNX Runtime does not start."""
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {f"{unit}i": 1 << 10 * power for power, unit in enumerate(("k", "m", "g", "t"), 1)}


def parse_size(text: str | int) -> int:
    """Bytes of a text like "4GB" (10^9 each), "512MiB" (2^20 each) or "1000000"."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([kmgt]?i?)b?", str(text).strip().lower())
    if found is None or found[2] not in _UNITS:
        raise UsageError(f"'{text}' is no size: write 4GB, 512MB or a number of bytes")
    return int(float(found[1]) * _UNITS[found[2]])


def check(nbytes: int, what: str) -> None:
    """`OutOfMemory` when `what` needs more bytes than the limit, or than the machine has."""
    limit = LIMIT.get()
    if nbytes > (_machine() if limit is None else limit):
        raise OutOfMemory(f"{what} needs {nbytes:,} bytes, more than {allowed()}")


def allowed() -> str:
    """How much memory there is, for messages."""
    limit = LIMIT.get()
    if limit is None:
        return f"this machine has ({_machine():,} bytes)"
    return f"the limit allows ({limit:,} bytes, see --memory)"


@contextmanager
def limited(limit: int | None) -> Iterator[None]:
    """Keep this process within `limit` bytes while the block runs; None: do nothing.

    What counts is what the kernel calls data (RLIMIT_DATA, from Linux 4.7 on): arrays, sessions,
    code that was imported, stacks of threads; not files that are mapped, as weights in data files
    and large samples are, whose memory the kernel takes back when it needs it.

    Raises:
        UsageError: the limit cannot be held here, or is too low to begin with.
        OutOfMemory: the block needed more.
    """
    if limit is None:
        yield
        return
    if sys.platform != "linux":
        raise UsageError("a memory limit can be held on Linux only")
    import resource

    used = in_use()
    if limit < used + ROOM:
        raise UsageError(
            f"a limit of {limit:,} bytes is too low: {used:,} are in use before the model is "
            f"read, give at least {used + ROOM:,}"
        )
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    if most not in (resource.RLIM_INFINITY, limit) and most < limit:
        raise UsageError(f"a limit of {limit:,} bytes is above what the system allows, {most:,}")
    token = LIMIT.set(limit)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
    try:
        with told("this run"):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))
        LIMIT.reset(token)


@contextmanager
def told(what: str) -> Iterator[None]:
    """Say that it was `what` that ran out of memory."""
    try:
        yield
    except MemoryError as error:
        reason = f" ({error})" if str(error) else ""
        raise OutOfMemory(f"{what} needs more memory than {allowed()}{reason}") from error


def _machine() -> int:
    """Bytes of memory of the machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return sys.maxsize


def in_use() -> int:
    """Bytes of this process that count, on Linux."""
    with open("/proc/self/status", encoding="ascii") as status:
        found = re.search(r"VmData:\s*(\d+) kB", status.read())
    return int(found[1]) << 10 if found else 0
