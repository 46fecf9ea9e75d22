"""The table of speed-ups: what is timed, and what it says of results that differ."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from ptq_opt.ir.execution import InProcess
from ptq_opt.tools.bench import workers
from ptq_opt.tools.bench.cases import Case

CREPE = Path(__file__).resolve().parents[1] / "data/crepe_tiny"


def test_work_that_gives_something_else_is_shown() -> None:
    timing, results = workers.Timing("guess"), iter([1.0, 1.0, 2.0])
    timing.measure(lambda: next(results), InProcess())
    timing.measure(lambda: next(results), InProcess())
    assert timing.row[-1] == "yes"
    timing.measure(lambda: next(results), InProcess())
    assert timing.row[-1] == "NO"


def test_work_that_grows_with_the_workers_counts_as_often() -> None:
    timing = workers.Timing("shared", True, {1: 3.0, 2: 4.0}, {1: 3.0, 2: 3.0}, ["a"])
    assert timing.row == ["shared", "3.00 s", "4.00 s", "1.50 x", "2.00 x", "yes"]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("crepe_tiny", "trained", CREPE / "model.onnx", CREPE)
    monkeypatch.setattr(workers, "find_cases", lambda *_: [case])
    monkeypatch.setattr(workers, "FEW", 2)
    monkeypatch.setattr(workers, "MANY", 16)
    monkeypatch.setattr(workers, "TIMES", 1)
    found = CliRunner().invoke(workers.main, ["--rounds=1", f"--json={tmp_path / 'rows.json'}"])
    assert found.exit_code == 0, found.output
    for name in ("sensitivity", "metric", "comparison", "calibration"):
        (line,) = (line for line in found.output.splitlines() if line.startswith(f"| {name} |"))
        assert line.endswith("| yes |")
    assert "In process the interface costs" in found.output
    assert (tmp_path / "rows.json").exists()
