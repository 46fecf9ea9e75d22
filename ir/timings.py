"""Measured times of operators and conversions: a cost file, carried from machine to machine.

A row is keyed by what an operator is (type, kernel, strides, ...: its class), how large its result
is and how much work it does. Another operator of that class takes the time of the nearest row,
scaled by work.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf, log
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from .errors import UsageError
from .toml_file import read_toml

Source = Literal["measured", "scaled", "estimated"]
"""Where a time comes from: this operator, another of its class, or the target's rough costs."""
KEYS = {
    "float": "in_float",
    "integer": "in_integers",
    "float-apart": "float_apart",
    "integer-apart": "integers_apart",
}
"""Key in a cost file -> field of `Timing`, in their order there."""
HEADER = "# Times in nanoseconds, measured by `ptq-opt cost`.\n"


@dataclass(frozen=True)
class Timing:
    """What one operator or conversion took.

    Attributes:
        kind: its class, like "Conv 3x3 s2" or "QuantizeLinear".
        shape: of its result.
        work: operations, or elements where there are none to speak of.
        in_float, in_integers: nanoseconds in each precision, None where it was not seen.
        float_apart, integers_apart: the same where the products around are in the other precision.
    """

    kind: str
    shape: str
    work: float
    in_float: float | None = None
    in_integers: float | None = None
    float_apart: float | None = None
    integers_apart: float | None = None

    def time(self, *, integer: bool, apart: bool = False) -> float | None:
        """Nanoseconds in one precision, among products of the same or of the other one."""
        if apart:
            return self.integers_apart if integer else self.float_apart
        return self.in_integers if integer else self.in_float


@dataclass(frozen=True)
class Timings:
    """Measurements of one engine on one machine.

    Attributes:
        machine, engine: where they were made.
        rows: one per class and shape.
        pace_float, pace_integer: how much longer than the target's rough costs all that was
            measured took; estimates of the rest are multiplied by it.
    """

    machine: str = ""
    engine: str = ""
    rows: tuple[Timing, ...] = ()
    pace_float: float = 1.0
    pace_integer: float = 1.0
    _by_kind: dict[str, list[Timing]] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        """Index the rows."""
        by_kind: dict[str, list[Timing]] = defaultdict(list)
        for row in self.rows:
            by_kind[row.kind].append(row)
        object.__setattr__(self, "_by_kind", dict(by_kind))

    def pace(self, *, integer: bool) -> float:
        """The factor for estimates in one precision."""
        return self.pace_integer if integer else self.pace_float

    def find(
        self, kind: str, shape: str, work: float, *, integer: bool, apart: bool = False
    ) -> tuple[float, Source] | None:
        """Nanoseconds of such an operator and where they come from; None when nothing is near."""
        near: tuple[float, Timing, float] | None = None
        for row in self._by_kind.get(kind, ()):
            time = row.time(integer=integer, apart=apart)
            if time is None:
                continue
            if row.shape == shape and row.work == work:
                return time, "measured"
            if row.work > 0 and work > 0 and time > 0:  # 0: fused into a neighbour there
                distance = abs(log(row.work / work))
                if near is None or distance < near[0]:
                    near = distance, row, time
        return None if near is None else (near[2] * work / near[1].work, "scaled")


def merged(rows: Iterable[Timing]) -> tuple[Timing, ...]:
    """One row per class, shape and work: the mean of equal ones."""
    groups: dict[tuple[str, str, float], list[Timing]] = defaultdict(list)
    for row in rows:
        groups[row.kind, row.shape, row.work].append(row)
    return tuple(
        Timing(*key, *(_mean(getattr(row, name) for row in group) for name in KEYS.values()))
        for key, group in sorted(groups.items())
    )


def _mean(times: Iterable[float | None]) -> float | None:
    known = [time for time in times if time is not None]
    return round(fmean(known), 1) if known else None


def write_timings(timings: Timings) -> str:
    """The text of a cost file."""
    lines = [
        HEADER,
        f"machine = {_quoted(timings.machine)}",
        f"engine = {_quoted(timings.engine)}",
        f"pace = {{ float = {timings.pace_float:.4g}, integer = {timings.pace_integer:.4g} }}",
        "times = [",
    ]
    for row in timings.rows:
        known = {key: getattr(row, name) for key, name in KEYS.items()}
        parts = [f"kind = {_quoted(row.kind)}", f"shape = {_quoted(row.shape)}"]
        parts.append(f"work = {row.work:g}" if row.work % 1 else f"work = {int(row.work)}")
        parts += [f"{key} = {time:.1f}" for key, time in known.items() if time is not None]
        lines.append(f"  {{ {', '.join(parts)} }},")
    return "\n".join([*lines, "]", ""])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def read_timings(path: Path) -> Timings:
    """Read a cost file.

    Raises:
        UsageError: it cannot be read, or a key is missing or wrong.
    """
    data = read_toml(path, "cost file")
    try:
        pace = data.get("pace", {})
        return Timings(
            str(data["machine"]),
            str(data["engine"]),
            tuple(_row(row) for row in data["times"]),
            float(pace.get("float", 1.0)),
            float(pace.get("integer", 1.0)),
        )
    except KeyError as error:
        raise UsageError(f"cost file '{path}' has no {error}: make one by ptq-opt cost") from None
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UsageError(f"cost file '{path}' is malformed: {error}") from None


def _row(data: dict[str, Any]) -> Timing:
    unknown = data.keys() - {"kind", "shape", "work", *KEYS}
    if unknown:
        raise ValueError(f"times have no key '{min(unknown)}'")
    times = [None if data.get(key) is None else float(data[key]) for key in KEYS]
    work = float(data["work"])
    if work < 0 or any(time is not None and not 0 <= time < inf for time in times):
        raise ValueError(f"a time or the work of '{data['kind']}' is negative or not finite")
    return Timing(str(data["kind"]), str(data["shape"]), work, *times)
