"""`ptq-run` on a small model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import parser

from ptq_opt.tools.run import main

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
main (float[1,8] x) => (float[1,8] y) <float s = {0.25}, uint8 z = {128}> {
  q = QuantizeLinear(x, s, z)
  d = DequantizeLinear(q, s, z)
  t = Tanh(d)
  p = QuantizeLinear(t, s, z)
  y = DequantizeLinear(p, s, z)
}"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(parser.parse_model(TEXT), path)
    return path


def test_outputs_comparison_times_and_profile(model: Path, tmp_path: Path) -> None:
    data, report = tmp_path / "data", tmp_path / "r.json"
    data.mkdir()
    for i in range(3):
        np.savez(data / f"{i}.npz", x=np.full((1, 8), i, np.float32))
    command = [str(model), "--data", str(data), "--compare", str(model), "--bench", "3"]
    command += ["--threads", "2", "--isa", "scalar", "--profile", "--json", str(report)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert "ms median" in done.output and "lut" in done.output
    found = json.loads(report.read_text())
    assert found["compare"][0]["steps"] == 0 and found["compare"][0]["agreement"] == 1
    assert found["bench"]["runs"] == 3 and found["bench"]["threads"] == 2
    assert [op["kind"] for op in found["operators"]] == ["quantize", "lut", "dequantize"]
    assert all(op["nanoseconds"] > 0 for op in found["operators"])


@pytest.mark.parametrize("backend", ["native", "ort"])
def test_backends_print_the_same(model: Path, backend: str) -> None:
    done = CliRunner().invoke(main, [str(model), "--backend", backend])
    assert done.exit_code == 0, done.output
    assert "float32" in done.output and "[1, 8]" in done.output


def test_mistakes_have_exit_codes(model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    assert CliRunner().invoke(main, [str(broken)]).exit_code == 1
    done = CliRunner().invoke(main, [str(model), "--backend", "ort", "--profile"])
    assert done.exit_code == 2 and "native" in done.output
    done = CliRunner().invoke(main, [str(model), "--data", str(tmp_path / "none")])
    assert done.exit_code in (1, 2) and "none" in done.output
