"""Models of the onnx package end well: here one in `EVERY`; `ptq_opt.tools.corpus` runs all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ptq_opt.ir import Graph, ModelError
from ptq_opt.ir.text import parse
from ptq_opt.tools.api import Result, quantize
from ptq_opt.tools.corpus import outcome
from ptq_opt.tools.corpus.__main__ import main
from ptq_opt.tools.corpus.cases import CONSTANTS, Case, all_cases, node_cases, stored_models
from ptq_opt.tools.corpus.outcome import (
    BUGS,
    CRASH,
    FAR,
    FLOAT,
    QUANTIZED,
    REFUSED,
    SILENT,
    UNLOADABLE,
    Outcome,
    run_case,
    worst,
)  # fmt: skip
from ptq_opt.tools.corpus.table import USUAL, changes, groups, read, versions, write

EVERY = 50
SHARDS = 4
LARGE = "light/"
"""Models of a hundred million weights: the command runs them."""
SNAPSHOT = Path(__file__).parents[1] / "data" / "corpus.txt"
"""Every outcome, by ``python -m ptq_opt.tools.corpus --snapshot tests/data/corpus.txt``."""


@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_case_crashes_or_is_silently_wrong(shard: int) -> None:
    cases = all_cases()
    names = [name for name in cases if not name.startswith(LARGE)][::EVERY]
    found = {name: run_case(cases[name]) for name in names[shard::SHARDS]}
    assert {name: each for name, each in found.items() if each.kind in BUGS} == {}
    assert any(each.kind == QUANTIZED for each in found.values())
    before = SNAPSHOT.read_text()
    if read(before)[0] == versions():
        assert changes(before, found) == []


def test_the_snapshot_is_of_all_cases_and_has_no_bug() -> None:
    taken, named = read(SNAPSHOT.read_text())
    assert not [name for name, group in named.items() if group.startswith(BUGS)]
    if taken == versions():
        assert set(named) < set(all_cases())


def test_the_cases_are_those_of_the_package() -> None:
    assert len(node_cases()) > 1000 and len(stored_models()) > 100
    cases = all_cases()
    assert {*node_cases(), *stored_models()} < set(cases)
    conv = cases[f"test_basic_conv_with_padding{CONSTANTS}"]
    assert [info.name for info in conv.model.graph.input] == ["x"]
    assert [tensor.name for tensor in conv.model.graph.initializer] == ["W"]


# -- what is told from what ------------------------------------------------------------------------

CASE = "test_basic_conv_with_padding+constants"


@pytest.fixture
def case() -> Case:
    return all_cases()[CASE]


def test_a_convolution_is_quantized_and_close(case: Case) -> None:
    found = run_case(case)
    assert found.kind == QUANTIZED
    assert found.db is not None and found.db > 35
    assert found.native is not None and found.native > 35


@pytest.mark.parametrize(
    ("error", "kind"), [(ValueError("oops"), CRASH), (ModelError("not that one"), REFUSED)]
)
def test_errors_for_the_user_are_no_crashes(
    case: Case, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: str
) -> None:
    def fail(*_: Any, **__: Any) -> Result:
        raise error

    monkeypatch.setattr(outcome, "quantize", fail)
    assert run_case(case).kind == kind


def test_a_wrapped_exception_is_a_crash(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Result:
        raise ModelError("pass failed") from ValueError("oops")

    monkeypatch.setattr(outcome, "quantize", fail)
    assert run_case(case).kind == CRASH


@pytest.mark.parametrize(
    ("change", "told", "kind"),
    [
        ("y = Strange(x)", False, UNLOADABLE),
        ("y = Neg(x)", False, SILENT),
        ("y = Neg(x)", True, FAR),
    ],
)
def test_a_bad_file_is_seen(
    monkeypatch: pytest.MonkeyPatch, change: str, told: bool, kind: str
) -> None:
    def text(body: str) -> Graph:
        head = '<ir_version: 8, opset_import: ["": 17]>'
        return parse(f"{head} g (float[2] x) => (float[2] y) {{ {body} }}")

    def spoiled(*args: Any, **options: Any) -> Result:
        result = quantize(*args, **options)
        warnings = [outcome.FAR_FROM_FLOAT] if told else []
        return Result(text(change), replace(result.report, warnings=warnings))

    model = Result(text("y = Abs(x)"), quantize(all_cases()[CASE].model).report).model
    monkeypatch.setattr(outcome, "quantize", spoiled)
    assert run_case(Case("own", model, {"x": np.array([1, -2], np.float32)})).kind == kind


def test_outputs_are_compared_by_kind() -> None:
    ones = np.ones(10, np.float32)
    assert worst([ones], [ones]) == 120
    assert worst([ones, ones], [ones, 0.9 * ones]) == pytest.approx(20, abs=1e-3)
    assert worst([ones], [ones[:9]]) == -120
    assert worst([np.arange(10)], [np.arange(10) % 9]) == pytest.approx(20)
    assert worst([[ones]], [[ones, ones]]) == -120
    assert worst([None], [None]) is None


def test_the_text_comes_back() -> None:
    found = {
        "test_a": Outcome(QUANTIZED, db=40.0),
        "test_b": Outcome(FLOAT, "no integer kernel"),
        "test_c": Outcome(REFUSED, "sample N (of two) is odd"),
        "x/test_d": Outcome(QUANTIZED, db=30.0),
    }
    text = write(found)
    assert "test_b" not in text
    taken, named = read(text)
    assert taken == versions()
    assert {n: named.get(n, USUAL) for n in found} == {n: each.group for n, each in found.items()}
    assert list(groups(found)) == [QUANTIZED, USUAL, found["test_c"].group]
    assert changes(text, found) == []


def test_a_case_that_ends_otherwise_is_named() -> None:
    before = {"test_a": Outcome(QUANTIZED), "test_b": Outcome(FLOAT, "no integer kernel")}
    after = {"test_a": Outcome(FAR), "test_b": Outcome(QUANTIZED)}
    text = write(before)
    assert changes(text, after) == [
        f"test_a: {QUANTIZED} -> {FAR}",
        f"test_b: {USUAL} -> {QUANTIZED}",
    ]
    older = text.replace(versions(), "onnx 1.0")
    assert changes(older, before) == [f"made with onnx 1.0, here is {versions()}"]


def test_the_command_prints_a_table_and_fails_where_something_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "found.txt"
    done = CliRunner().invoke(
        main, ["--match", "^test_(abs|relu)$", "--jobs", "1", "--snapshot", str(path)]
    )
    assert done.exit_code == 0, done.output
    assert "float: no integer kernel" in done.output and "2 cases" in done.output
    assert path.read_text() == f"{versions()}\n\n{USUAL} (2)\n"


def test_the_command_fails_where_an_outcome_changed(tmp_path: Path) -> None:
    path = tmp_path / "before.txt"
    path.write_text(write({"test_abs": Outcome(QUANTIZED)}))
    command = ["--match", "^test_abs$", "--jobs", "1", "--compare", str(path)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1, done.output
    assert f"test_abs: {QUANTIZED} -> {USUAL}" in done.output
