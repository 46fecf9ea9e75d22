"""Every example of the README runs as printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
COMMANDS = [
    line for language, code in BLOCKS if language == "sh" for line in code.strip().splitlines()
]
PROGRAMS = [code for language, code in BLOCKS if language == "python"]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Look like the root of the repository, but keep files the examples write out of it."""
    for entry in ROOT.iterdir():
        if not entry.name.startswith(".") and entry.name != "build":
            (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


def run(command: list[str], folder: Path, **environment: str) -> str:
    """Run a command of this virtual environment; what it printed, and fail unless it succeeds."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PATH": path} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_has_the_examples() -> None:
    assert {language for language, _ in BLOCKS} == {"sh", "python"}
    assert COMMANDS[:2] == ["make demo", "make test"]
    assert [command.split()[0] for command in COMMANDS[2:]] == ["ptq-opt"]
    assert [len(re.findall(r"^.+$", program, re.M)) for program in PROGRAMS] == [5]


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, clone: Path) -> None:
    words = command.split()
    if words[0] == "make":  # with the environment of this very run, which stands already
        words += [f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.installed"]
    # `make test` would run this test again: it collects the tests and stops.
    assert run(words, clone, PYTEST_ADDOPTS="--collect-only -q")


@pytest.mark.parametrize("program", PROGRAMS)
def test_program(program: str, clone: Path) -> None:
    assert run([sys.executable, "-c", program], clone)
    assert (clone / "model.int8.onnx").stat().st_size > 0
