"""Output files appear whole or not at all; progress bars appear when needed."""

import io
import os
import time
from pathlib import Path

import pytest
from disk import full_disk
from rich.console import Console

from ptq_opt import UsageError
from ptq_opt.tools import progress
from ptq_opt.tools.files import check_writable, write_text
from ptq_opt.tools.progress import Bars


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "new.txt")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is a folder"):
        check_writable(tmp_path)
    with pytest.raises(UsageError, match=r"make the folder .*missing' first"):
        check_writable(tmp_path / "missing" / "file")
    with pytest.raises(UsageError, match="not a regular file"):
        check_writable(Path(os.devnull))
    with pytest.raises(UsageError, match=r"cannot write '/proc/out.onnx'"):  # even root may not
        check_writable(Path("/proc/out.onnx"))


def test_text_replaces_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    write_text(path, "new")
    assert path.read_text() == "new"
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \ud800")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    with (
        full_disk(100),
        pytest.raises(UsageError, match=r"cannot write '.*report.json': File too large"),
    ):
        write_text(path, "new" * 100)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=80)


def shown(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


def test_short_steps_are_not_shown() -> None:
    bars = Bars(out := console(terminal=True))
    with bars("short", 2) as advance:
        advance(2)
    assert "short" not in shown(out)


def test_long_steps_are_shown_with_their_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.0)
    bars = Bars(out := console(terminal=True))
    with bars("outer", None), bars("inner", 4) as advance:
        advance(3)
        deadline = time.monotonic() + 5
        while "3/4" not in shown(out) and time.monotonic() < deadline:
            time.sleep(0.02)
    assert "outer" in shown(out) and "inner" in shown(out)
    assert "3/4" in shown(out) and "?" not in shown(out).replace("[?25", "")


def test_nothing_is_shown_but_on_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.0)
    bars = Bars(out := console(terminal=False))
    with bars("step", 1) as advance:
        advance(1)
    assert shown(out) == ""


def test_a_step_that_fails_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.0)
    bars = Bars(out := console(terminal=True))
    with pytest.raises(ValueError, match="boom"), bars("failing", 1):
        raise ValueError("boom")
    before = len(shown(out))
    with bars("next", 1) as advance:
        advance(1)
    assert "failing" not in shown(out)[before:]
