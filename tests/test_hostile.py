"""Damaged and hostile files give a result or an error of ours; the fuzzer finds what does not."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import TooSlow, found
from fuzz_edits import Chance
from fuzz_readers import READERS, Reader

from ptq_opt.ir import ModelError
from ptq_opt.passes.base import PassError

ROOT = Path(__file__).resolve().parents[1]
CODE = sorted(
    p for part in ("ir", "passes", "native", "tools") for p in (ROOT / part).rglob("*.py")
)
UNSAFE = {"marshal", "shelve", "dill", "joblib", "cloudpickle"}
OWN_PROCESSES = {"ir/processes.py"}
"""What hands jobs to processes of this program; no file of a user is read there."""


def test_ten_seconds_of_fuzzing_find_nothing() -> None:
    """In a process of its own, whose memory is limited."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "fuzz.py", "--seconds=10", "--seed=0"],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.splitlines()[-1].split()[0]) > len(READERS)


def raising(error: BaseException) -> Reader:
    def read(path: Path) -> None:
        raise error

    return Reader("test", "a.onnx", lambda: [b""], lambda data, _: data, read)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError("x"), "KeyError: 'x'"),
        (MemoryError("10 TB"), "MemoryError: 10 TB"),
        (RecursionError("deep"), "RecursionError: deep"),
        (TooSlow("late"), "TooSlow: late"),
        (ModelError("it is damaged"), "names no file: it is damaged"),
        (ModelError("a.onnx is damaged"), None),
    ],
)
def test_what_the_fuzzer_calls_a_finding(
    error: BaseException, told: str | None, tmp_path: Path
) -> None:
    assert found(raising(error), tmp_path) == told


def test_a_crash_inside_a_pass_is_a_finding(tmp_path: Path) -> None:
    wrapped = PassError("a.onnx: pass 'x' failed")
    wrapped.__cause__ = KeyError("y")
    assert found(raising(wrapped), tmp_path) == "a pass crashed: a.onnx: pass 'x' failed"


def test_a_case_can_be_made_again(tmp_path: Path) -> None:
    for reader in READERS:
        texts = []
        for _ in range(2):
            reader.write(tmp_path, Chance(f"0 {reader.name} 7"))
            texts.append((tmp_path / reader.file).read_bytes())
        assert texts[0] == texts[1]


@pytest.mark.parametrize("path", CODE, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_nothing_is_unpickled(path: Path) -> None:
    """Neither modules that unpickle, nor numpy's way to."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.partition(".")[0] for alias in node.names}
            names.add((getattr(node, "module", None) or "").partition(".")[0])
            assert not names & UNSAFE
            assert "pickle" not in names or path.relative_to(ROOT).as_posix() in OWN_PROCESSES
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False
