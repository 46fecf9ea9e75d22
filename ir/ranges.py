"""What calibration learned: ranges of tensors, kept in memory and in files."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .errors import DataError, UsageError
from .graph import Graph
from .sources import load_numpy
from .tensor import Array
from .value import Value

HISTOGRAM_METHODS = ("percentile", "mse", "entropy", "aciq")
METHODS = ("mean-max", "min-max", *HISTOGRAM_METHODS)
VERSION = 1
"""Of the file format."""
_ROWS = 5


@dataclass
class Range:
    """What was learned of one tensor; float64 arrays of shape () or [channels].

    Attributes:
        low, high: the range the values are expected in, by the method of the calibration.
        seen_low, seen_high: the extremes of all samples (of a tensor that cannot be negative,
            like the output of a Relu, both lows are given as 0).
        mean: mean over samples of the mean of a sample.
        samples: how many samples that is; of some samples a tensor may be empty.
    """

    low: Array
    high: Array
    seen_low: Array
    seen_high: Array
    mean: Array
    samples: int

    @classmethod
    def of(cls, rows: Array, samples: int) -> Range:
        """From float64 [5] or [5, channels]: low, high, seen_low, seen_high, mean."""
        low, high, seen_low, seen_high, mean = (np.array(row) for row in rows)
        return cls(low, high, seen_low, seen_high, mean, samples)

    @property
    def rows(self) -> Array:
        """The inverse of `of`."""
        return np.stack([self.low, self.high, self.seen_low, self.seen_high, self.mean])


@dataclass
class Calibration:
    """Ranges of the tensors of a model, by the name of the FP32 tensor (`Value.origin`).

    Attributes:
        method: how `low` and `high` were chosen.
        ranges: per tensor.
        channels: per channel, for the tensors that were asked for so.
    """

    method: str
    ranges: dict[str, Range] = field(default_factory=dict)
    channels: dict[str, Range] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """How many samples were seen."""
        return max((known.samples for known in self.ranges.values()), default=0)

    def __contains__(self, value: Value) -> bool:
        return key(value) in self.ranges

    def __getitem__(self, value: Value) -> Range:
        return self.ranges[key(value)]

    def get(self, value: Value) -> Range | None:
        """The range of `value`, None when it was not calibrated."""
        return self.ranges.get(key(value))

    def per_channel(self, value: Value) -> Range | None:
        """The ranges of the channels of `value`, None when they were not calibrated."""
        return self.channels.get(key(value))

    def merge(self, other: Calibration) -> None:
        """Add what `other` learned by the same method, of other tensors or from other samples.

        Raises `UsageError` when methods differ, and for methods with histograms when both know a
        tensor: its range needs all samples at once.
        """
        if self.method != other.method:
            raise UsageError(f"cannot merge ranges by '{self.method}' and by '{other.method}'")
        for mine, theirs in ((self.ranges, other.ranges), (self.channels, other.channels)):
            for name, found in theirs.items():
                known = mine.get(name)
                mine[name] = _merged(name, self.method, known, found) if known else found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz file; the same calibration always gives the same bytes."""
        parts = {"version": np.array(VERSION), "method": np.array(self.method)}
        for kind, known in (("ranges", self.ranges), ("channels", self.channels)):
            rows = [found.rows.reshape(_ROWS, -1) for found in known.values()]
            parts[f"{kind}.names"] = np.array(list(known), np.str_)
            parts[f"{kind}.samples"] = np.array([r.samples for r in known.values()], np.int64)
            parts[f"{kind}.sizes"] = np.array([row.shape[1] for row in rows], np.int64)
            parts[f"{kind}.data"] = np.concatenate([np.zeros((_ROWS, 0)), *rows], axis=1)
        target = Path(path)
        partial = target.with_name(f".{target.name}.partial")
        with partial.open("wb") as file:
            np.savez(file, **parts)  # type: ignore[arg-type]  # of its own option
        partial.replace(target)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what `save` wrote; `DataError` when the file is anything else."""
        parts = load_numpy(Path(path))
        try:
            if parts["version"].tolist() != VERSION:
                raise ValueError(f"its version is {parts['version']}, not {VERSION}")
            found = cls(str(parts["method"]))
            if found.method not in METHODS:
                raise ValueError(f"there is no method '{found.method}'")
            found.ranges = _unpacked(parts, "ranges", scalar=True)
            found.channels = _unpacked(parts, "channels", scalar=False)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(f"'{path}' is no calibration of ptq-opt: {error}") from None
        return found


def _merged(name: str, method: str, a: Range, b: Range) -> Range:
    if method in HISTOGRAM_METHODS:
        raise UsageError(f"tensor '{name}' has two ranges by '{method}': use all samples at once")
    if a.low.shape != b.low.shape:
        raise UsageError(f"tensor '{name}' has {a.low.size} and {b.low.size} channels")
    total = a.samples + b.samples
    rows = (a.rows * a.samples + b.rows * b.samples) / total
    rows[2] = np.minimum(a.seen_low, b.seen_low)
    rows[3] = np.maximum(a.seen_high, b.seen_high)
    if method == "min-max":
        rows[:2] = rows[2:4]
    return Range.of(rows, total)


def _unpacked(parts: dict[str, Array], kind: str, scalar: bool) -> dict[str, Range]:
    """Ranges of one kind from a file's arrays; ValueError and the like when they do not fit."""
    names, samples, sizes, data = (
        parts[f"{kind}.{part}"] for part in ("names", "samples", "sizes", "data")
    )
    count = len(names)
    if names.dtype.kind != "U" or names.ndim != 1 or len(set(names.tolist())) != count:
        raise ValueError(f"the names of {kind} are not distinct texts")
    if data.dtype != np.float64 or not np.isfinite(data).all():
        raise ValueError(f"the {kind} are not finite numbers")
    if not samples.dtype == sizes.dtype == np.int64 or not samples.shape == sizes.shape == (count,):
        raise ValueError(f"there are not {count} {kind}")
    if (samples < 1).any() or (sizes < 1).any() or (scalar and (sizes != 1).any()):
        raise ValueError(f"the {kind} have impossible sizes")
    if data.shape != (_ROWS, sum(sizes.tolist())):
        raise ValueError(f"the {kind} have sizes that do not add up")
    if (data[0] > data[1]).any() or (data[2] > data[3]).any():
        raise ValueError(f"some of the {kind} end below their start")
    found = {}
    ends = np.cumsum(sizes)
    for name, seen, size, end in zip(names, samples, sizes, ends, strict=True):
        rows = data[:, end - size : end]
        found[str(name)] = Range.of(rows[:, 0] if scalar else rows, int(seen))
    return found


def key(value: Value) -> str:
    """The name under which statistics of `value` are kept."""
    return value.origin or value.name


def distinguish(graph: Graph) -> None:
    """Give every value of `graph` a `key` of its own; those that have one keep it.

    Values that passes made may have no name, or stand for the same tensor as another one.
    """
    taken: set[str] = set()
    for number, value in enumerate(graph.values()):
        if not key(value) or key(value) in taken:
            made_by = value.producer.op if value.producer else "value"
            value.origin = next(
                name
                for tail in itertools.count()
                if (name := f"{made_by}_{number}" + f"_{tail}" * bool(tail)) not in taken
            )
        taken.add(key(value))
