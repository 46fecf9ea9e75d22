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
    profile = found["profile"]
    assert (profile["format"], profile["isa"], profile["threads"]) == (1, "scalar", 2)
    assert profile["machine"] and profile["runs"] == 5
    table = profile["operators"]
    assert [op["op"] for op in table] == ["quantize", "lut", "dequantize"]
    assert [op["nodes"] for op in table] == [["q"], ["d", "t", "p"], ["y"]]
    assert table[1]["inputs"] == [
        {"type": "u8", "shape": [1, 8]},
        {"type": "u8", "shape": [256]},
    ]
    assert table[1]["outputs"] == [{"type": "u8", "shape": [1, 8]}]
    assert table[1]["precision"] == "integer" and table[1]["bytes"] == 8 + 256 + 8
    assert all(op["nanoseconds"] > 0 and op["operations"] == 0 for op in table)


CONV = """
<ir_version: 8, opset_import: ["" : 17]>
main (float[1,4,6,6] x) => (float[1,3,6,6] y) <float s = {0.25}, uint8 z = {128}, float t = {0.5}> {
  q = QuantizeLinear(x, s, z)
  d = DequantizeLinear(q, s, z)
  e = DequantizeLinear(w, t, zero)
  [convolve] c = Conv<pads=[1,1,1,1]>(d, e)
  [clamp] r = Relu(c)
  p = QuantizeLinear(r, s, z)
  y = DequantizeLinear(p, s, z)
}"""


@pytest.mark.parametrize("backend", ["native", "ort"])
def test_a_profile_counts_operations_and_names_what_was_fused(backend: str, tmp_path: Path) -> None:
    proto = parser.parse_model(CONV)
    for name, array in (("w", np.ones((3, 4, 3, 3), np.int8)), ("zero", np.int8(0))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    onnx.save(proto, tmp_path / "m.onnx")
    report = tmp_path / "r.json"
    command = [str(tmp_path / "m.onnx"), "--backend", backend, "--profile", "--json", str(report)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    table = json.loads(report.read_text())["profile"]["operators"]
    conv = next(op for op in table if op["operations"])
    assert conv["operations"] == 2 * (3 * 6 * 6) * (4 * 3 * 3)
    if backend == "native":  # the other computes it in float because of the Relu
        assert conv["precision"] == "integer"
        assert [o["type"] for o in conv["inputs"]] == ["u8", "s8", "f32"]
        assert sorted(conv["nodes"]) == ["clamp", "convolve", "d", "e", "p"]


@pytest.mark.parametrize("backend", ["native", "ort"])
def test_backends_print_the_same(model: Path, backend: str) -> None:
    done = CliRunner().invoke(main, [str(model), "--backend", backend])
    assert done.exit_code == 0, done.output
    assert "float32" in done.output and "[1, 8]" in done.output


def test_mistakes_have_exit_codes(model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    assert CliRunner().invoke(main, [str(broken)]).exit_code == 1
    done = CliRunner().invoke(main, [str(model), "--backend", "ort", "--target", "ort-cpu"])
    assert done.exit_code == 2 and "--target is for the native backend" in done.output
    done = CliRunner().invoke(main, [str(model), "--target", "ort-cp"])
    assert done.exit_code == 2 and "did you mean" in done.output
    done = CliRunner().invoke(main, [str(model), "--data", str(tmp_path / "none")])
    assert done.exit_code in (1, 2) and "none" in done.output
