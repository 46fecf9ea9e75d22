"""Memory stays bounded: however many samples there are, and by --memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from ptq_opt import UsageError, quantize
from ptq_opt.ir import memory, save
from ptq_opt.ir.errors import OutOfMemory
from ptq_opt.ir.text import parse
from ptq_opt.tools.cli import main

SCRIPT = Path(__file__).parents[1] / "peak_memory.py"
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits are held on Linux only")

GROWS = """
g (float[1,1,1] x) => (float[1,1,1] y) <int64[3] size = {1, 16384, 16384}> {
  big = Expand(x, size)
  [costly] h = Sigmoid(big)
  y = ReduceMean(h)
}
"""


def peak(samples: int) -> int:
    done = subprocess.run(
        [sys.executable, SCRIPT, str(samples)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@linux
def test_calibration_and_bias_correction_take_no_more_for_512_samples_than_for_16() -> None:
    """The activations of 496 samples more would be 320 MB, their inputs alone 65 MB."""
    assert peak(512) < peak(16) + (8 << 20)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(save(parse(GROWS)), "model.onnx")
    np.save("calib.npy", np.ones((4, 1, 1, 1), np.float32))
    return tmp_path


@linux
def test_what_is_beyond_the_limit_is_told_and_no_file_is_touched(folder: Path) -> None:
    """Activations of 1 GB each, and room for less."""
    limit = memory.in_use() + memory.ROOM + (64 << 20)
    command = ["model.onnx", "--data=calib.npy", "-o", "out.onnx", f"--memory={limit}"]
    before = {path: path.read_bytes() for path in folder.iterdir()}
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1, done.output
    assert "cannot run Expand" in done.stderr
    assert f"more memory is needed than the limit allows ({limit:,} bytes" in done.stderr
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@linux
def test_python_takes_a_limit_too(folder: Path) -> None:
    limit = memory.in_use() + memory.ROOM + (64 << 20)
    with pytest.raises(OutOfMemory, match="cannot run Expand"):
        quantize("model.onnx", "calib.npy", memory=limit)
    assert memory.LIMIT.get() is None
    with pytest.raises(UsageError, match="is no size"):
        quantize("model.onnx", "calib.npy", memory="much")


@linux
def test_a_limit_holds_in_its_block_only() -> None:
    with (
        pytest.raises(OutOfMemory, match=r"pass 'x' needs more memory than the limit .*--memory"),
        memory.limited(memory.in_use() + memory.ROOM + (64 << 20)),
        memory.told("pass 'x'"),
    ):
        np.ones(1 << 29)
    assert np.ones(1 << 25)[-1] == 1
    assert memory.LIMIT.get() is None


@linux
def test_a_limit_too_low_to_begin_with() -> None:
    with (
        pytest.raises(UsageError, match=r"1,000 bytes is too low: .* give at least"),
        memory.limited(1000),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4 * 10**9),
        ("1.5 GiB", 3 << 29),
        ("512mb", 512 * 10**6),
        ("64Ki", 1 << 16),
        ("123", 123),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert memory.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "4XB", "iB", "9" * 40])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="is no size: write 4GB"):
        memory.parse_size(text)
