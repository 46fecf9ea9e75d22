"""Quantize the example model from FP32 to INT8 and prove the result on samples it has not seen.

Run as ``python -m ptq_opt.tools.demo`` (``make demo``) at the root of the repository. Exits with 1
when the INT8 model misses a bound.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from .api import quantize

Array = NDArray[np.float32]

FIRST_BIN_CENTS, BIN_CENTS = 1997.3794, 20.0
"""Pitch of the first of the network's bins above 10 Hz, and the distance between bins."""

MAX_DROP = 0.01
MIN_SQNR_DB = 30.0
MAX_SIZE_RATIO = 0.35


@dataclass(frozen=True)
class Scores:
    """What one model does with the held-back sounds."""

    rpa50: float  # raw pitch accuracy: share of sounds within 50 cents of their pitch
    sqnr_db: float  # energy of the FP32 output over that of the difference from it
    size_bytes: int
    milliseconds: float  # median time of one sound


def open_session(model: bytes) -> ort.InferenceSession:
    """Open a serialized model in ONNX Runtime on the CPU."""
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"])


def raw_pitch_accuracy(probabilities: Array, pitch_hz: Array) -> float:
    """Share of ``probabilities`` [N, 360] whose best bin is within 50 cents of the pitch."""
    found = FIRST_BIN_CENTS + BIN_CENTS * probabilities.argmax(axis=1)
    return float(np.mean(np.abs(found - 1200 * np.log2(pitch_hz / 10)) < 50))


def sqnr_db(reference: Array, output: Array) -> float:
    """Signal to quantization noise ratio of ``output`` in dB, pooled over all elements."""
    noise = np.square(reference.astype(np.float64) - output).sum()
    return float(10 * np.log10(np.square(reference.astype(np.float64)).sum() / max(noise, 1e-30)))


def interleaved_milliseconds(
    sessions: list[ort.InferenceSession], feeds: dict[str, Array], rounds: int = 200
) -> list[float]:
    """Median time of each session, run in turn so that all of them meet the same machine."""
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(rounds):
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, feeds)
            taken.append(1000 * (time.perf_counter() - start))
    return [statistics.median(taken) for taken in times]


def measure(models: list[bytes], frames: Array, pitch_hz: Array) -> list[Scores]:
    """Score models on ``frames`` [N, 1024]; the first one is the reference of the others."""
    sessions = [open_session(model) for model in models]
    outputs = [np.asarray(session.run(None, {"frames": frames})[0]) for session in sessions]
    latencies = interleaved_milliseconds(sessions, {"frames": frames[:1]})
    return [
        Scores(raw_pitch_accuracy(out, pitch_hz), sqnr_db(outputs[0], out), len(model), latency)
        for model, out, latency in zip(models, outputs, latencies, strict=True)
    ]


def verdicts(fp32: Scores, int8: Scores) -> list[tuple[str, str, str, str, bool | None]]:
    """Rows of the proof: what, FP32, INT8, bound, and whether it holds (None: not checked)."""
    size, speed = int8.size_bytes / fp32.size_bytes, fp32.milliseconds / int8.milliseconds
    return [
        (
            "pitch within 50 cents",
            f"{fp32.rpa50:.4f}",
            f"{int8.rpa50:.4f}",
            f"drop <= {MAX_DROP}",
            fp32.rpa50 - int8.rpa50 <= MAX_DROP,
        ),
        (
            "SQNR of the output",
            "",
            f"{int8.sqnr_db:.1f} dB",
            f">= {MIN_SQNR_DB:.0f} dB",
            int8.sqnr_db >= MIN_SQNR_DB,
        ),
        (
            "size",
            f"{fp32.size_bytes / 1e6:.2f} MB",
            f"{int8.size_bytes / 1e6:.2f} MB",
            f"<= {MAX_SIZE_RATIO:.2f} x FP32",
            size <= MAX_SIZE_RATIO,
        ),
        (
            "latency in ONNX Runtime",
            f"{fp32.milliseconds:.3f} ms",
            f"{int8.milliseconds:.3f} ms",
            f"{speed:.2f} x as fast",
            None,
        ),
    ]


def load_samples(folder: Path) -> list[dict[str, Any]]:
    """Calibration samples of a folder: one ``{input name: array}`` per ``.npz`` file."""
    samples = []
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as arrays:
            samples.append(dict(arrays))
    return samples


@click.command()
@click.option(
    "--data",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("tests/data/crepe_tiny"),
    show_default=True,
    help="Folder with model.onnx, calib/ and test.npz.",
)
def main(folder: Path) -> None:
    """Quantize the example model and prove the result on samples it has not seen."""
    console = Console()
    samples = load_samples(folder / "calib")
    console.print(f"Quantizing {folder / 'model.onnx'} with {len(samples)} samples")
    start = time.perf_counter()
    result = quantize(folder / "model.onnx", samples)
    console.print(result.report)
    console.print(f"Quantized in {time.perf_counter() - start:.1f} s")

    with np.load(folder / "test.npz") as held_back:
        frames, pitch_hz = held_back["frames"], held_back["pitch_hz"]
    onnx.checker.check_model(result.model)
    models = [(folder / "model.onnx").read_bytes(), result.model.SerializeToString()]
    rows = verdicts(*measure(models, frames, pitch_hz))
    table = Table("", "FP32", "INT8", "bound", "", title=f"On {len(frames)} held-back samples")
    for *cells, holds in rows:
        table.add_row(*cells, {True: "holds", False: "[red]FAILS[/]", None: "measured"}[holds])
    console.print(table)
    if any(holds is False for *_, holds in rows):
        raise click.ClickException("the INT8 model misses a bound above")


if __name__ == "__main__":
    main()
