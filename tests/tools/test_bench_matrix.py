"""The benchmark's matrices: workers share what is not timed, and score what one process does."""

import json
import multiprocessing
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from small_model import small_model

from ptq_opt.tools.bench import __main__ as bench
from ptq_opt.tools.bench import guard
from ptq_opt.tools.bench.measure import Made, Settings

ZOO = """
from dataclasses import dataclass
from pathlib import Path
import numpy as np
import onnxruntime as ort

@dataclass(frozen=True)
class Entry:
    name: str
    test_count: int = 8
    main_metric: str = "best"
    higher_is_better: bool = True

    @property
    def path(self):
        return Path(__file__).parent / f"{self.name}.onnx"

    def calibration(self):
        random = np.random.default_rng(0)
        return [{"x": random.standard_normal((1, 3, 32, 32)).astype("f4")} for _ in range(8)]

    def evaluate(self, run):
        samples = self.calibration()[: self.test_count]
        total = sum(float(np.abs(run(feeds)[0]).sum()) for feeds in samples)
        return {"best": total, "sqnr_db/y": total / 2}

def session(file, threads=0):
    run = ort.InferenceSession(file).run
    return lambda feeds: run(None, feeds)

ZOO = {name: Entry(name) for name in ("one", "other")}
"""


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """A zoo of two trained models."""
    (tmp_path / "topologies").mkdir()
    (tmp_path / "zoo.py").write_text(ZOO)
    (tmp_path / "materialize.py").write_text("fill = None")
    for name in ("one", "other"):
        onnx.save(small_model(), tmp_path / f"{name}.onnx")
    return tmp_path


def run(zoo: Path, command: object, *more: str) -> list[dict[str, object]]:
    """The rows that a command writes."""
    file = zoo / "rows.json"
    words = ["--zoo", str(zoo), "--models=trained", "--cache", str(zoo / "cache")]
    words += ["--json", str(file), *more]
    done = CliRunner().invoke(command, words, catch_exceptions=False)  # type: ignore[arg-type]
    assert done.exit_code == 0, done.output
    found = json.loads(file.read_text())
    rows: list[dict[str, object]] = found["rows"] if isinstance(found, dict) else found
    return rows


FAST = ("--peers=", "--options=--passes=plan,quant --min-sqnr=0")
UNTIMED = tuple(f"--skip={part}" for part in ("speed", "openvino", "native", "placement"))
SCORES = ("model", "tool", "errors", "metric", "score", "sqnr_db")


def test_workers_score_the_same(zoo: Path) -> None:
    alone = run(zoo, bench.main, *FAST, *UNTIMED)
    for kept in (zoo / "cache").glob("*/*.scores.json"):
        kept.unlink()
    shared = run(zoo, bench.main, *FAST, *UNTIMED, "--workers=2")
    assert [[row[key] for key in SCORES] for row in alone] == [
        [row[key] for key in SCORES] for row in shared
    ]
    assert [(row["model"], row["tool"]) for row in alone] == [
        (model, tool) for model in ("one", "other") for tool in ("fp32", "ours")
    ]
    assert all(isinstance(row["score"], float) for row in alone)
    assert [len(row["sqnr_db"]) for row in alone] == [0, 1, 0, 1]  # type: ignore[arg-type]


def test_more_or_fewer_samples_to_score_with(zoo: Path) -> None:
    usual = run(zoo, bench.main, *FAST, *UNTIMED)
    fewer = run(zoo, bench.main, *FAST, *UNTIMED, "--test=2")
    again = run(zoo, bench.main, *FAST, *UNTIMED)
    for eight, two, other in zip(usual, fewer, again, strict=True):
        assert 0 < two["score"] < eight["score"] / 2  # type: ignore[operator]
        assert other["score"] == eight["score"]


def test_what_is_timed_has_the_machine_to_itself(
    zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def time_files(made: Made, settings: Settings) -> None:
        timed.append(made.case.name)
        assert not multiprocessing.active_children()
        assert (made.case.folder / "ours.scores.json").exists()

    timed: list[str] = []
    monkeypatch.setattr(bench, "time_files", time_files)
    run(zoo, bench.main, *FAST, "--skip=placement", "--workers=2")
    assert timed == ["one", "other"]


def test_a_file_that_cannot_be_scored_tells_why(zoo: Path) -> None:
    (zoo / "zoo.py").write_text(ZOO.replace('{"best": total', '{"best": total / 0'))
    rows = run(zoo, bench.main, *FAST, *UNTIMED, "--workers=2")
    told = {"score": "ZeroDivisionError: float division by zero"}
    assert [row["errors"] for row in rows] == [told] * 4


def test_workers_measure_the_guard_the_same(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "WAYS", ("int8", "int4"))
    alone = run(zoo, guard.main)
    assert [(row["model"], row["weights"]) for row in alone] == [
        (model, way) for model in ("one", "other") for way in ("int8", "int4")
    ]
    assert run(zoo, guard.main, "--workers=2") == alone
