"""What this machine's processor is."""

from __future__ import annotations

import functools
import re
from pathlib import Path


@functools.cache
def description() -> str:
    """What Linux tells of it, "" elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def saturates_pairs() -> bool:
    """Whether sums of two products of bytes may be cut at 16 bits, as on x86 before VNNI.

    True of every processor that does not tell of VNNI: asking for exact sums harms none of them.
    """
    return re.search(r"\bavx(512)?_vnni\b", description()) is None
