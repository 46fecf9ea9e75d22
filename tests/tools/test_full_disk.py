"""No room on the disk: one sentence, and what was there stays good."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from disk import full_disk
from small_model import make_samples, small_model

from ptq_opt import UsageError, quantize
from ptq_opt.ir import Tensor, Value, external
from ptq_opt.passes.walk import Store
from ptq_opt.tools.cli import main

COMMAND = ["model.onnx", "--data=calib", "--output=out.onnx", "--threads=1"]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(*words: str) -> str:
    done = CliRunner().invoke(main, [*COMMAND, *words])
    assert done.exit_code != 0, done.output
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr
    return done.stderr


def test_no_room_for_the_output(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "out.onnx").write_text("of an earlier run")
    before = contents(folder)
    with full_disk(4000):
        assert "cannot write 'out.onnx': File too large" in refused()
    assert contents(folder) == before


def test_no_room_for_the_work_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept there stays, and serves as soon as there is room again."""
    monkeypatch.chdir(folder)
    assert CliRunner().invoke(main, [*COMMAND, "--work=work", "--samples=6"]).exit_code == 0
    before = contents(folder)
    with full_disk(1000):
        message = refused("--work=work")
    assert "cannot keep results in the work folder 'work': File too large; make room" in message
    assert contents(folder) == before
    found = []
    for words in (["--work=work"], []):
        assert CliRunner().invoke(main, [*COMMAND, *words]).exit_code == 0
        found.append((folder / "out.onnx").read_bytes())
    assert found[0] == found[1]


def test_no_room_for_samples_of_a_stream() -> None:
    def stream() -> Iterator[dict[str, np.ndarray]]:
        yield from make_samples(3)

    with full_disk(1000), pytest.raises(UsageError, match=r"cannot keep samples in .* TMPDIR"):
        quantize(small_model(), stream())


def test_no_room_for_activations(tmp_path: Path) -> None:
    """Small ones too, of which numpy does not notice that they are not written."""
    store = Store(0, tmp_path)
    for size in (1000, 10**6):
        with (
            full_disk(1000),
            pytest.raises(UsageError, match=r"cannot keep activations in .* TMPDIR"),
        ):
            store.put(Value("v"), 0, np.zeros(size, np.float32))


def test_no_room_for_weights() -> None:
    """Those that passes make of weights in data files."""
    large = np.zeros(external.LARGE // 4, np.float32)
    with (
        external.spilling(),
        full_disk(1000),
        pytest.raises(UsageError, match=r"cannot keep weights in .* TMPDIR"),
    ):
        Tensor(large)
