"""What must hold of our files, judged on the rows of one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .measure import FP32, OURS, Row, by_tool

NOISE = 1.03
"""Medians of two equal files differ by a few per cent."""

SAME_SCORE = 1e-9
MAX_CONVERSIONS = (1, 1)
FULLY_FUSED = ("resnet50", "densenet121", "shufflenet", "squeezenet")


@dataclass(frozen=True)
class Cost:
    """Bounds of the quantization command."""

    peak_bytes: float
    runs: float | None = None  # times the time to run the samples in ONNX Runtime...
    extra_seconds: float = 5  # ...and this on top


COSTS = {
    ("trained", "mobilenet_v2"): Cost(500e6, runs=2),
    ("topology", "resnet50"): Cost(1.2e9),
}


def misses(rows: Sequence[Row]) -> list[str]:
    """One sentence for each thing that must hold and does not."""
    named = by_tool(rows)
    fp32, ours = named[FP32], named[OURS]
    peers = [row for row in rows if row.tool not in (FP32, OURS)]
    found = [f"{stage}: {error}" for stage, error in ours.errors.items()]
    found += [*worse_scores(ours, peers), *slower(fp32, ours, peers), *cost(fp32, ours)]
    found += [
        f"native with {race.threads} thread(s): {race.ratio:.2f} x as fast as the better engine"
        for race in ours.races
        if race.ratio is not None and race.ratio < 1
    ]
    if (ours.kind == "light" and ours.model in FULLY_FUSED) and ours.conversions:
        left = ours.conversions
        if left[0] > MAX_CONVERSIONS[0] or left[1] > MAX_CONVERSIONS[1]:
            found.append(f"{left[0]} Q and {left[1]} DQ left after ONNX Runtime's optimizer")
    return [f"{ours.kind}/{ours.model}: {sentence}" for sentence in found]


def worse_scores(ours: Row, peers: Sequence[Row]) -> Iterator[str]:
    """Task metric or SQNR of an output below that of a peer."""
    for peer in peers:
        if ours.score is not None and peer.score is not None:
            if ours.score < peer.score - SAME_SCORE:
                yield f"{ours.metric} {ours.score:.4f} below {peer.score:.4f} of {peer.tool}"
            for output, theirs in peer.sqnr_db.items():
                if ours.sqnr_db[output] < theirs:
                    value = f"{ours.sqnr_db[output]:.2f} dB below {theirs:.2f} dB"
                    yield f"SQNR of {output} {value} of {peer.tool}"


def slower(fp32: Row, ours: Row, peers: Sequence[Row]) -> Iterator[str]:
    """Latency above that of a peer, or not below that of FP32."""
    if ours.latency_ms is None:
        return
    for row in (fp32, *peers):
        allowed = 1.0 if row is fp32 else NOISE
        if row.latency_ms is not None and ours.latency_ms >= row.latency_ms * allowed:
            yield f"{ours.latency_ms:.3f} ms, {row.tool} takes {row.latency_ms:.3f} ms"


def cost(fp32: Row, ours: Row) -> Iterator[str]:
    """Time or memory of the command above its bound."""
    bound = COSTS.get((ours.kind, ours.model))
    if bound is None:
        return
    if ours.peak_bytes is not None and ours.peak_bytes > bound.peak_bytes:
        yield f"peak {ours.peak_bytes / 1e6:.0f} MB above {bound.peak_bytes / 1e6:.0f} MB"
    if bound.runs and ours.seconds is not None and fp32.run_seconds is not None:
        allowed = bound.runs * fp32.run_seconds + bound.extra_seconds
        if ours.seconds > allowed:
            yield f"quantized in {ours.seconds:.1f} s, allowed are {allowed:.1f} s"
