"""Damaged and hostile files give a result or an error of ours; the fuzzer finds what does not."""

import ast
import os
import re
import subprocess
import sys
from importlib.util import find_spec
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


def fuzz(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the fuzzer."""
    command = [sys.executable, "-W", "ignore", "fuzz.py", *options]
    return subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True)


def test_ten_seconds_of_fuzzing_find_nothing() -> None:
    """In a process of its own, whose memory is limited."""
    done = fuzz("--seconds=10", "--seed=0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.splitlines()[-1].split()[0]) > len(READERS)


@pytest.mark.skipif(find_spec("atheris") is None, reason="Atheris is not installed")
def test_a_few_seconds_of_guided_fuzzing_find_nothing() -> None:
    """By Atheris; every reader was shown inputs that lead to code that none reached before."""
    done = fuzz("--engine=atheris", "--seconds=5")
    assert done.returncode == 0, done.stdout + done.stderr
    readers = [reader.name for reader in READERS if not reader.slow]
    ran = re.findall(r"(\w+): [1-9]\d* cases, [1-9]\d* went new ways, 0 findings", done.stdout)
    assert ran == readers, done.stdout


GUIDED = """
import os, signal, tempfile, time
from pathlib import Path
import fuzz
from fuzz_readers import Reader

def read(path):
    data = path.read_bytes()
    if data.startswith(b"raise"):
        raise KeyError("x")
    if data.startswith(b"wait"):
        time.sleep(60)
    if data.startswith(b"crash"):
        os.kill(os.getpid(), signal.SIGSEGV)

def reader(word):
    return Reader(word, "a", lambda: [word.encode()], lambda data, _: data, read, named=False)

signal.signal(signal.SIGALRM, fuzz.late)
fuzz.WAITING = 0.2
words = ["raise", "wait", "crash", "nothing"]
folder = Path(tempfile.mkdtemp())
print(fuzz.guided([reader(word) for word in words], 0, 2, 1, folder), "readers")
"""


@pytest.mark.skipif(find_spec("atheris") is None, reason="Atheris is not installed")
def test_what_guided_fuzzing_finds_is_told_and_kept(tmp_path: Path) -> None:
    """Exceptions, what takes too long, crashes; and a file can be read again."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", GUIDED],
        cwd=ROOT / "tests",
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert "KeyError: 'x'" in done.stdout, done.stdout + done.stderr
    assert "TooSlow: it takes too long" in done.stdout
    assert "crash: the process ended with" in done.stdout
    assert done.stdout.endswith("3 readers\n")
    kept = {file.read_bytes() for file in tmp_path.glob("fuzz_found_*")}
    assert kept == {b"raise", b"wait", b"crash"}


def test_a_file_can_be_read_again(tmp_path: Path) -> None:
    (tmp_path / "bad").write_text('{"data": ')
    done = fuzz("--reader=json", f"--file={tmp_path / 'bad'}")
    assert done.returncode == 0
    assert "refused: " in done.stdout


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
