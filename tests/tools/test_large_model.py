"""The whole command on more than 2 GB of weights, which takes minutes: PTQ_OPT_LARGE=1 asks for it.

The files are sparse: the float model takes a few megabytes of disk, the quantized one 600 MB.
"""

import json
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from large_weights import write_model

from ptq_opt.tools.cli import main

SECOND = "more/second.data"


def spread(folder: Path) -> None:
    """Let every other weight come from another data file, which is a link."""
    model = onnx.load(folder / "float.onnx", load_external_data=False)
    outside = [tensor for tensor in model.graph.initializer if tensor.external_data]
    for tensor in outside[::2]:
        (where,) = (entry for entry in tensor.external_data if entry.key == "location")
        where.value = SECOND
    (folder / "more").mkdir()
    (folder / SECOND).symlink_to("../float.onnx.data")
    (folder / "float.onnx").write_bytes(model.SerializeToString())


@pytest.mark.skipif(
    "PTQ_OPT_LARGE" not in os.environ, reason="minutes: PTQ_OPT_LARGE=1 asks for it"
)
def test_more_than_two_gigabytes_in_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "float.onnx", 2.2, width=1024, tokens=8000)
    spread(tmp_path)
    assert (tmp_path / "float.onnx.data").stat().st_size > 2**31
    ids = np.arange(8).reshape(2, 1, 4) * 1000
    np.savez("calib.npz", ids=ids)
    command = ["float.onnx", "--data=calib.npz", "-o", "int8.onnx", "--json=r.json"]
    done = CliRunner().invoke(main, [*command, "--memory=5GB"])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "r.json").read_text())
    (output,) = report["fidelity"]["outputs"]
    assert output["sqnr_db"] > 20 or "far from" in " ".join(report["warnings"])
    session = ort.InferenceSession(tmp_path / "int8.onnx", providers=["CPUExecutionProvider"])
    assert session.run(None, {"ids": ids[0]})[0].shape == (1, 4, 8000)
    integers = (tmp_path / "int8.onnx.data").stat().st_size
    assert integers < (tmp_path / "float.onnx.data").stat().st_size / 3
    names = {"float.onnx", "float.onnx.data", "more", "calib.npz", "int8.onnx", "int8.onnx.data"}
    assert {path.name for path in tmp_path.iterdir()} == names | {"r.json"}
