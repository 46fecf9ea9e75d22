"""What both forms of a report say first: the few numbers that decide."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...ir.evaluate import MOST_DECIBEL
from ..report import Report

NAMES = {"placed": "this result", "all in integers": "all in integers", "all in float": "all float"}

SEARCHED = {"placed": "placed", "integers": "all in integers", "float": "all in float"}
LEAST = 1e-6
"""Smaller shares are not told apart."""


@dataclass(frozen=True)
class Times:
    """Microseconds of one inference.

    Attributes:
        by: "predicted" or "timed".
        rows: what, microseconds.
    """

    by: str
    rows: dict[str, float]

    @property
    def speedup(self) -> float | None:
        """How many times as fast as float the result is."""
        ours, theirs = (self.rows.get(NAMES[name]) for name in ("placed", "all in float"))
        return theirs / ours if ours and theirs else None


def times(report: Report) -> list[Times]:
    """What was predicted and what was timed, where it was; the last to look is believed."""
    held, islands = report.accuracy, report.islands
    predicted = _of_search(held.get("milliseconds")) or _of_islands(islands, "predicted_us")
    timed = _of_search(held.get("timed")) or _of_islands(islands, "timed_us")
    both = (("predicted", predicted or report.predicted_us), ("timed", report.timing.us or timed))
    return [Times(by, {NAMES[name]: us for name, us in us.items()}) for by, us in both if us]


def _of_search(milliseconds: Mapping[str, float] | None) -> dict[str, float]:
    """Of the search for what may stay in integers."""
    return {SEARCHED[name]: 1000 * time for name, time in (milliseconds or {}).items()}


def _of_islands(islands: Mapping[str, Any], which: str) -> dict[str, float]:
    """Of the pass `islands`, whose result is the choice that it kept."""
    found: dict[str, float] = islands.get(which, {})
    return {**found, "placed": found[islands["kept"]]} if found else {}


def reproduction(report: Report) -> str:
    """The command that does the same again, or the call where there was no command."""
    if report.command:
        return report.command
    given = f"passes={report.pipeline!r}, target={report.target!r}, samples={report.samples}"
    return f"ptq_opt.quantize({report.model!r}, data, {given}, seed={report.seed})"


def decibels(value: float) -> str:
    """A signal to noise ratio for people."""
    return "exact" if value >= MOST_DECIBEL else f"{value:.1f} dB"


def share(part: float) -> str:
    """A relative noise or another part of a whole, in percent."""
    if part < LEAST:
        return "< 0.0001 %" if part > 0 else "0 %"
    places = max(0, 1 - math.floor(math.log10(100 * part)))
    return f"{100 * part:.{places}f} %"


def microseconds(us: float) -> str:
    """A time with its unit."""
    return f"{us / 1000:.3g} ms" if us >= 1000 else f"{us:.3g} us"


def megabytes(size: float) -> str:
    """A size with its unit."""
    return f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
