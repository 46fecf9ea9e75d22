"""Every example of the README runs as printed."""

import re
import sys
from pathlib import Path

import pytest
from doc_examples import blocks, run

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = blocks(ROOT / "README.md")
COMMANDS = [line for b in BLOCKS if b.language == "sh" for line in b.text.strip().splitlines()]
PROGRAMS = [b.text for b in BLOCKS if b.language == "python"]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Look like the root of the repository, but keep files the examples write out of it."""
    for entry in ROOT.iterdir():
        if not entry.name.startswith(".") and entry.name != "build":
            (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


def test_has_the_examples() -> None:
    assert {block.language for block in BLOCKS} == {"sh", "python"}
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
