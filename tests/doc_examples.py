"""The examples in Markdown files, and how to run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

FENCED = re.compile(r"^```(\w*)(?: ([^\n]*))?\n(.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    """A fenced block: what follows the opening fence, the text, and the line it starts at."""

    language: str
    title: str
    text: str
    line: int


def blocks(document: Path) -> list[Block]:
    """All fenced blocks of a document."""
    text = document.read_text(encoding="utf-8")
    return [
        Block(found[1], found[2] or "", found[3], text.count("\n", 0, found.start(3)) + 1)
        for found in FENCED.finditer(text)
    ]


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
