"""What the tab key offers, by the words that shells hand over and in the shells that are there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import get_completion_class

from ptq_opt.tools import cli, run

BIN = Path(sys.executable).parent


def offered(line: str, shell: str = "bash", command: str = "ptq-opt") -> list[str]:
    """Values for the last word; a kind where the shell looks for names itself."""
    program = {"ptq-opt": cli.main, "ptq-run": run.main}[command]
    found = get_completion_class(shell)
    assert found is not None
    *words, last = line.split(" ")
    items = found(program, {}, command, "").get_completions(words, last)
    return [item.value if item.type == "plain" else f"<{item.type}>" for item in items]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--passes=ali", ["align"]),
        ("--passes ali", ["align"]),
        ("--passes=align,bi", ["align,bits", "align,bias"]),
        ("--print-after=al", ["align", "all"]),
        ("--target=tens", ["tensorrt"]),
        ("--target=mine.t", ["<file>"]),
        ("--weights=uint", ["uint8", "uint16", "uint4", "uint2"]),
        ("--activations=no", ["none"]),
        ("--verify=nu", ["numerics"]),
        ("--data=ca", ["<file>"]),
        ("mod", ["<file>"]),
        ("", ["<file>"]),
        ("di", ["diff"]),
        ("diff a.onnx ", ["<file>"]),
        ("diff --be", ["--below"]),
        ("cost model.onnx --ru", ["--runs"]),
        ("--lay", ["--layer-weights"]),
    ],
)
def test_offers(line: str, expected: list[str]) -> None:
    assert offered(line) == expected


def test_offers_of_ptq_run() -> None:
    assert offered("m.onnx --back", command="ptq-run") == ["--backend"]
    assert offered("m.onnx --target=tens", command="ptq-run") == ["tensorrt"]


def test_zsh_replaces_the_whole_word() -> None:
    assert offered("--passes=align,bia", "zsh") == ["--passes=align,bias"]
    assert "compset -P '--*='; _path_files -f" in get_completion_class("zsh").source_template


def shell(name: str, script: str, folder: Path) -> list[str]:
    """Lines that a real shell prints."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} on this machine")
    done = subprocess.run(
        [path, "-c", script],
        cwd=folder,
        env=os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ptq-opt --passes = align,bi", ["align,bits", "align,bias"]),
        ("ptq-opt --passes = align --target = tens", ["tensorrt"]),
        ("ptq-opt di", ["diff"]),
    ],
)
def test_bash(words: str, expected: list[str], tmp_path: Path) -> None:
    """Which takes words apart at "="."""
    script = f"""
        eval "$(_PTQ_OPT_COMPLETE=bash_source ptq-opt)"
        COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
        _ptq_opt_completion ptq-opt
        echo "${{COMPREPLY[@]}}"
    """
    assert shell("bash", script, tmp_path) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ptq-opt --passes=align,bi", ["--passes=align,bias", "--passes=align,bits"]),
        ("ptq-opt --passes align,bia", ["align,bias"]),
        ("ptq-opt --report=rep", ["--report=report.html"]),
        ("ptq-opt mod", ["model.onnx"]),
    ],
)
def test_fish(line: str, expected: list[str], tmp_path: Path) -> None:
    for name in ("model.onnx", "report.html"):
        (tmp_path / name).touch()
    script = f"_PTQ_OPT_COMPLETE=fish_source ptq-opt | source; complete -C '{line}'"
    assert shell("fish", script, tmp_path) == expected
