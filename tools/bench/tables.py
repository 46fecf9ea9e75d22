"""The rows of one model as a table on the terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from .measure import FP32, Row


def table(rows: Sequence[Row]) -> Table:
    """One column for each file, one line for each thing measured."""
    first = rows[0]
    result = Table(title=f"{first.kind}/{first.model}", title_justify="left")
    result.add_column("", no_wrap=True)
    for row in rows:
        result.add_column(row.tool, justify="right")
    for label, cells in lines(rows):
        if any(cells):
            result.add_row(label, *map(escape, cells))
    return result


def lines(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """Label and cells of each line; a cell is empty where there is nothing to tell."""
    metric = next((row.metric for row in rows if row.metric), "score")
    found = [(metric, [number(row.score, ".4f") for row in rows])]
    outputs = {output: None for row in rows for output in row.sqnr_db}
    for output in outputs:
        found.append(
            (f"{output}, dB SQNR", [number(row.sqnr_db.get(output), ".2f") for row in rows])
        )
    fp32 = next(row for row in rows if row.tool == FP32)
    return [
        *found,
        ("ONNX Runtime, ms", [latency(row.latency_ms, fp32.latency_ms) for row in rows]),
        ("OpenVINO, ms", [latency(row.openvino_ms, fp32.openvino_ms) for row in rows]),
        ("Q/DQ left", [conversions(row) for row in rows]),
        ("size, MB", [number(row.size_bytes, ".2f", 1e6) for row in rows]),
        ("quantized in, s", [number(row.seconds, ".1f") for row in rows]),
        ("sample runs, s", [number(row.run_seconds, ".1f") for row in rows]),
        ("peak memory, MB", [number(row.peak_bytes, ".0f", 1e6) for row in rows]),
    ]


def number(value: float | None, form: str, unit: float = 1) -> str:
    """A formatted number, or nothing."""
    return "" if value is None else format(value / unit, form)


def latency(value: float | None, fp32: float | None) -> str:
    """Milliseconds and how many times as fast as FP32."""
    if value is None:
        return ""
    return f"{value:.3f}" + (f" ({fp32 / value:.2f}x)" if fp32 and value != fp32 else "")


def conversions(row: Row) -> str:
    """QuantizeLinear / DequantizeLinear that ONNX Runtime cannot fuse."""
    return "" if row.conversions is None else "{} / {}".format(*row.conversions)


def errors(rows: Sequence[Row]) -> list[str]:
    """What failed, one line each."""
    return [f"{row.tool}, {stage}: {why}" for row in rows for stage, why in row.errors.items()]


def write_json(file: Path, rows: Sequence[Row], misses: Sequence[str]) -> None:
    """Write all rows so far and what does not hold."""
    content = {"rows": [asdict(row) for row in rows], "misses": list(misses)}
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(content, indent=1))
    partial.rename(file)
