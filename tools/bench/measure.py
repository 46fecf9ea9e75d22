"""What is timed of one model: quantizing it and running the files; a `Row` per file, FP32 first."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime as ort

from .cases import Case, load
from .engines import THREADS, Race
from .quantizers import NOT_INSTALLED, Outcome, run_ours, run_peer
from .racing import race_integers
from .speed import conversions_left, interleaved_latency

OURS = "ours"
FP32 = "fp32"


@dataclass(frozen=True)
class Settings:
    """What to measure, and with what."""

    python: Path  # of the peers
    peers: tuple[str, ...]
    skip: frozenset[str]  # accuracy, speed, openvino, native
    threads: int
    seconds: float
    options: tuple[str, ...]  # more of them for ptq-opt


@dataclass
class Row:
    """One file of one model. What could not be measured is None, and `errors` says why."""

    model: str
    kind: str
    tool: str
    errors: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None  # to quantize
    peak_bytes: int | None = None
    size_bytes: int | None = None
    metric: str | None = None
    score: float | None = None
    sqnr_db: dict[str, float] = field(default_factory=dict)
    latency_ms: float | None = None
    conversions: tuple[int, int] | None = None  # Q and DQ that ONNX Runtime cannot fuse
    openvino_ms: float | None = None
    run_seconds: float | None = None  # all calibration samples in ONNX Runtime, FP32 only
    races: list[Race] = field(
        default_factory=list
    )  # our kernels and the engines, all in integers; ours only


@dataclass(frozen=True)
class Made:
    """The files of one model, and what is known of each.

    Attributes:
        case: the model.
        files: tool -> its file; those that failed have none.
        rows: tool -> what was measured.
    """

    case: Case
    files: dict[str, Path]
    rows: dict[str, Row]


def quantize(case: Case, settings: Settings) -> Made:
    """Quantize one model with every tool."""
    outcomes = {FP32: Outcome(case.model), OURS: run_ours(case, settings.options)}
    outcomes |= {peer: run_peer(peer, case, settings.python) for peer in settings.peers}
    rows = {tool: start_row(case, tool, outcome) for tool, outcome in outcomes.items()}
    rows[FP32].run_seconds = seconds_to_run(case)
    return Made(case, {tool: one.file for tool, one in outcomes.items() if one.file}, rows)


def time_files(made: Made, settings: Settings) -> None:
    """Run the files in every engine."""
    case, files, rows = made.case, made.files, made.rows
    if "speed" not in settings.skip:
        add_latencies(rows, case, files, settings)
    if "openvino" not in settings.skip:
        add_openvino(rows, case, files, settings)
    if "native" not in settings.skip and OURS in files:
        rows[OURS].races = race_integers(case, THREADS, settings.seconds, settings.python)


def start_row(case: Case, tool: str, outcome: Outcome) -> Row:
    """A row with what quantizing gave."""
    row = Row(case.name, case.kind, tool, seconds=outcome.seconds, peak_bytes=outcome.peak_bytes)
    if outcome.file is not None:
        row.size_bytes = outcome.file.stat().st_size
    if outcome.error:
        row.errors["quantize"] = outcome.error
    return row


def seconds_to_run(case: Case) -> float:
    """Time to run all calibration samples through FP32 on all cores: what calibration costs."""
    start = time.perf_counter()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(case.model, options, providers=["CPUExecutionProvider"])
    for file in sorted(case.calibration.glob("*.npz")):
        session.run(None, load(file))
    return time.perf_counter() - start


def add_latencies(
    rows: dict[str, Row], case: Case, files: dict[str, Path], settings: Settings
) -> None:
    """Latency in ONNX Runtime and the conversions its optimizer leaves."""
    sample = case.sample()
    taken = interleaved_latency(files, sample, settings.threads, settings.seconds)
    for tool, value in taken.items():
        if isinstance(value, str):
            rows[tool].errors["run"] = value
            continue
        rows[tool].latency_ms = value
        if tool != FP32:
            rows[tool].conversions = conversions_left(files[tool])


def add_openvino(
    rows: dict[str, Row], case: Case, files: dict[str, Path], settings: Settings
) -> None:
    """Latency in OpenVINO, in a process of the Python that has it."""
    taken: dict[str, float | str] = {}
    try:
        taken = run_openvino(case, list(files.values()), settings)
    except subprocess.CalledProcessError:  # one file took the others along: each alone
        for file in files.values():
            try:
                taken |= run_openvino(case, [file], settings)
            except subprocess.CalledProcessError as error:
                taken[str(file)] = f"the process ended with {error.returncode}"
    for tool, file in files.items():
        value = taken.get(str(file))
        if isinstance(value, str):
            rows[tool].errors["openvino"] = value
        elif value is not None:
            rows[tool].openvino_ms = value


def run_openvino(case: Case, files: list[Path], settings: Settings) -> dict[str, float | str]:
    """Median milliseconds of each file in OpenVINO or why it has none; nothing without OpenVINO."""
    worker = Path(__file__).with_name("openvino_worker.py")
    sample = min(case.calibration.glob("*.npz"))
    command = [str(settings.python), str(worker), str(sample), str(settings.threads)]
    done = subprocess.run(
        [*command, str(settings.seconds), *map(str, files)],
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode == NOT_INSTALLED:
        return {}
    done.check_returncode()
    taken: dict[str, float | str] = json.loads(done.stdout.strip().splitlines()[-1])
    return taken


def by_tool(rows: Sequence[Row]) -> dict[str, Row]:
    """The rows of one model by the tool that made the file."""
    return {row.tool: row for row in rows}
