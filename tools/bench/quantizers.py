"""Get the quantized files of one model: ours made anew, those of the peers once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .cases import Case

PEER_SAMPLES = {
    "ort": 100, "nncf": 300, "aimet": 100, "quark": 100, "modelopt": 100, "modelopt-max": 100,
}  # fmt: skip
"""Most keep all they collect in memory, so they get fewer; 300 is the default of NNCF."""
DEFAULT_PEERS = "ort,nncf"
"""What one environment can hold together; each other tool needs one of its own."""

TIME_LIMIT = 3600.0
NOT_INSTALLED = 3


@dataclass(frozen=True)
class Outcome:
    """A quantized file, or why there is none, and what making it took."""

    file: Path | None
    error: str = ""
    seconds: float | None = None
    peak_bytes: int | None = None


def run_ours(case: Case, options: Sequence[str], name: str = "ours") -> Outcome:
    """Quantize by ``ptq-opt`` in a process of its own; the file is called `name`."""
    out, peak = case.folder / f"{name}.onnx", case.folder / f"{name}.peak"
    for stale in (out, peak):
        stale.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"{__package__}.launch", str(peak), str(case.model)]
    command += ["-o", str(out), "--data", str(case.calibration), *options]
    start = time.perf_counter()
    code, last_line = run_logged(command, case.folder / f"{name}.log")
    seconds = time.perf_counter() - start
    peak_bytes = int(peak.read_text()) if peak.exists() else None
    if code or not out.exists():
        return Outcome(None, f"exit code {code}: {last_line}", seconds, peak_bytes)
    return Outcome(out, "", seconds, peak_bytes)


def run_peer(peer: str, case: Case, python: Path) -> Outcome:
    """Quantize by another tool, unless an earlier run did."""
    out = case.folder / f"{peer}.onnx"
    record = out.with_suffix(".json")
    if not record.exists():
        worker = str(Path(__file__).with_name("peer_worker.py"))
        count = str(PEER_SAMPLES[peer])
        command = [str(python.absolute()), worker, peer]
        own = case.folder / f"{peer}-fp32.onnx"  # some write into the file they are given
        shutil.copyfile(case.model, own)
        command += map(str, (own.absolute(), case.calibration, count, out))
        code, last_line = run_logged(command, case.folder / f"{peer}.log", case.folder)
        own.unlink(missing_ok=True)
        if code == NOT_INSTALLED:
            return Outcome(None, "not installed")
        if code:
            record.write_text(json.dumps({"error": f"exit code {code}: {last_line}"}))
    told = json.loads(record.read_text())
    error = told.get("error", "")
    return Outcome(None if error else out, error, told.get("seconds"))


def run_logged(command: Sequence[str], log: Path, folder: Path | None = None) -> tuple[int, str]:
    """Run a command, in `folder`, into a log file; its exit code and the last line it printed."""
    with log.open("w") as stream:
        try:
            done = subprocess.run(
                command, stdout=stream, stderr=subprocess.STDOUT, timeout=TIME_LIMIT, cwd=folder
            )
            code = done.returncode
        except subprocess.TimeoutExpired:
            return -1, f"no end after {TIME_LIMIT:.0f} s"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return code, lines[-1].strip()[:300] if lines else ""
