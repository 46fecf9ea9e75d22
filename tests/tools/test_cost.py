"""`ptq-opt cost`: measures on this machine, for --costs."""

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from ptq_opt.ir.timings import read_timings
from ptq_opt.tools import cli


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.main, [str(word) for word in words])


@pytest.fixture
def file(model: onnx.ModelProto, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return path


def test_measure_and_use(file: Path, tmp_path: Path) -> None:
    costs, told = tmp_path / "costs.toml", tmp_path / "report.json"
    done = run("cost", file, file, "-o", costs, "--runs=2")
    assert done.exit_code == 0, done.output
    assert done.output.count("operators\n  in float:") == 2
    timings = read_timings(costs)
    assert timings.engine.startswith("onnxruntime")
    assert {row.kind.split()[0] for row in timings.rows} >= {"Conv", "QuantizeLinear"}
    done = run(file, "-o", tmp_path / "out.onnx", f"--costs={costs}", "--json", told)
    assert done.exit_code == 0, done.output
    report = json.loads(told.read_text())
    assert f"--costs={costs}" in report["command"]
    assert {d["source"] for d in report["decisions"] if d["why"]} <= {
        "measured", "scaled", "estimated",
    }  # fmt: skip


def test_a_target_whose_engine_is_not_here(file: Path, tmp_path: Path) -> None:
    done = run("cost", file, "--target=tensorrt", "-o", tmp_path / "costs.toml")
    assert done.exit_code == 2
    assert "cannot time models for target 'tensorrt' here" in done.output
    assert not (tmp_path / "costs.toml").exists()


def test_a_cost_file_that_is_none(file: Path, tmp_path: Path) -> None:
    (tmp_path / "costs.toml").write_text("machine = 1")
    done = run(file, "-o", tmp_path / "out.onnx", "--costs", tmp_path / "costs.toml")
    assert done.exit_code == 2
    assert "make one by ptq-opt cost" in done.output
