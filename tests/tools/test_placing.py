"""Benchmarks of placements: ranks, and the fastest file."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ptq_opt.passes.placement import Problem
from ptq_opt.tools.bench import __main__ as bench
from ptq_opt.tools.bench import placing, ranking
from ptq_opt.tools.bench.cases import Case
from ptq_opt.tools.bench.measure import Settings
from ptq_opt.tools.bench.placing import FLOAT, INTEGER, PLACED, Placed

LIGHT = ("--models", "light/shufflenet")


@pytest.mark.parametrize("command", [placing.main, ranking.main], ids=["placing", "ranking"])
def test_a_light_model(command: object, tmp_path: Path) -> None:
    words = [*LIGHT, "--seconds=0.01", "--cache", str(tmp_path), "--json", str(tmp_path / "j")]
    words += ["--peers="] if command is placing.main else ["--placements=3"]
    done = CliRunner().invoke(command, words, catch_exceptions=False)  # type: ignore[arg-type]
    assert done.exit_code == 0, done.output
    assert "shufflenet: " in done.output
    assert (tmp_path / "j").exists()


def test_files_are_made_first_and_timed_later(tmp_path: Path) -> None:
    words = [*LIGHT, "--seconds=0.01", "--cache", str(tmp_path), "--peers="]
    made = CliRunner().invoke(placing.main, [*words, "--stage=make"], catch_exceptions=False)
    assert (made.exit_code, made.output) == (0, "")
    file = next(tmp_path.glob("*/ort-cpu-placed.onnx"))
    written = file.stat().st_mtime_ns
    timed = CliRunner().invoke(placing.main, [*words, "--stage=time"], catch_exceptions=False)
    assert "placed" in timed.output
    assert file.stat().st_mtime_ns == written


def test_a_file_that_the_engine_refuses_is_an_error(tmp_path: Path) -> None:
    words = [*LIGHT, "--seconds=0.01", "--cache", str(tmp_path), "--peers="]
    CliRunner().invoke(placing.main, [*words, "--stage=make"], catch_exceptions=False)
    folder = next(tmp_path.glob("*/ort-cpu-placed.onnx")).parent
    (folder / "ort.onnx").write_bytes(b"no model")
    (folder / "ort.json").write_text("{}")
    words[-1] = "--peers=ort"
    timed = CliRunner().invoke(placing.main, [*words, "--stage=time"], catch_exceptions=False)
    assert "  ort: ModelError: ONNX Runtime refuses the model" in timed.output


def test_what_is_faster_than_the_placed_file_is_a_miss() -> None:
    times = {FLOAT: 5.0, INTEGER: 4.0, PLACED: 4.1, "ort": 3.0}
    found = Placed("m", "placed", times, {PLACED: (1, 2)})
    assert found.misses == ["ort"]
    told = "placed 4.10 ms (1 Q, 2 DQ), ort 3.00 ms; kept placed  slower than ort"
    assert str(found).endswith(told)


def test_the_whole_benchmark_places_and_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = ranking.Ranking("m", 0.5, 1.0, [1.0, 2.0], [2.0, 1.0])
    placed = Placed("m", "placed", {FLOAT: 5.0, PLACED: 4.1, "nncf": 3.0}, {}, {"ort": "failed"})
    monkeypatch.setattr(ranking, "measure", lambda *_: ranks)
    monkeypatch.setattr(placing, "measure", lambda *_: placed)
    monkeypatch.setattr(bench, "installed", lambda engine: engine == "onnxruntime")
    settings = Settings(Path(sys.executable), ("ort", "nncf"), frozenset(), 1, 0.1, ())
    low = "correlate by 0.500, at least 0.9 wanted"
    for kind, expected in (
        ("trained", [f"trained/m, ort-cpu: predicted and measured ranks {low}"]),
        (
            "topology",
            [
                f"topology/m, ort-cpu: predicted and measured ranks {low}",
                "topology/m, ort-cpu: slower than nncf",
            ],
        ),
    ):
        case = Case("m", kind, Path("m.onnx"), Path("m"))
        assert bench.placements(case, settings) == expected


def test_ranks() -> None:
    assert ranking.spearman([1.0, 2.0, 3.0], [10.0, 11.0, 30.0]) == pytest.approx(1.0)
    assert ranking.spearman([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)


def test_placements_that_are_ranked_differ_in_predicted_time() -> None:
    problem = Problem()
    for _ in range(8):
        problem.add(float_time=100.0, integer_time=40.0)
    problem.add(float_time=100.0, integer_time=99.9)  # either way the same, within noise
    found = ranking.placements(problem, ([True] * 9, [False] * 9), count=5)
    times = [problem.cost(choice) for choice in found]
    assert times == [pytest.approx(time, abs=1) for time in (420, 540, 660, 780, 900)]
