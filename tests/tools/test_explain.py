"""`--explain`, `--suggest` and `--bisect`: why a result is as it is, and what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

import ptq_opt
from ptq_opt.ir import UsageError
from ptq_opt.passes.metric import Run
from ptq_opt.tools import cli
from ptq_opt.tools.bisect import first
from ptq_opt.tools.explain import explain, names, suggest
from ptq_opt.tools.report import Report

from ..small_model import make_samples, small_model

SAMPLES = make_samples(24)


@pytest.fixture(scope="module")
def report() -> Report:
    return ptq_opt.quantize(small_model(), SAMPLES, exclude=["second"]).report


def test_an_operator_in_integers(report: Report) -> None:
    lines = explain(report, "first").splitlines()
    assert lines[0] == "Conv 'first'"
    told = {line.split()[0]: line for line in lines[1:]}
    assert "integers" in told["precision"] and told["weights"].endswith("int8")
    assert "'x' as uint8, scale " in told["reads"]
    assert {"values", "grid", "error"} <= told.keys()
    assert any("ranges: calibrate" in line for line in lines)


def test_an_operator_in_float_with_the_reason(report: Report) -> None:
    text = explain(report, "second")
    assert "float: excluded" in text and "reads       'r1' as " in text


def test_every_operator_can_be_explained(report: Report) -> None:
    assert {"first", "second", "shortcut", "classifier"} <= set(names(report))
    assert all(explain(report, name) for name in names(report))


def test_a_name_that_is_not_there(report: Report) -> None:
    with pytest.raises(UsageError, match="no operator 'secand'; did you mean 'second'"):
        explain(report, "secand")


def test_suggestions_are_commands_that_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = 0.2 * rng.standard_normal((32, 32, 3, 3)).astype(np.float32)
    weights[:, 0] *= 60  # most of a sum comes from one channel: few steps for the others
    path = tmp_path / "model.onnx"
    onnx.save(small_model(w2=weights), path)
    for k, feeds in enumerate(SAMPLES):
        np.savez(tmp_path / f"{k}.npz", **feeds)  # type: ignore[arg-type]
    data = tmp_path / "calib"
    data.mkdir()
    for file in tmp_path.glob("*.npz"):
        file.rename(data / file.name)
    done = invoke(path, "--data", data, "--weights=int4", "--passes=quant", "--suggest",
                  "-o", tmp_path / "out.onnx")  # fmt: skip
    assert done.exit_code == 0, done.output
    told = done.output.partition("To try\n")[2]
    command = next(line.strip() for line in told.splitlines() if line.strip().startswith("ptq-opt"))
    assert "--passes=" in command or "--exclude=" in command


def test_nothing_to_suggest_where_nothing_is_lost(report: Report) -> None:
    assert suggest(report) == [] or all(command for _, command in suggest(report))


# -- bisect ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("culprit", range(7))
def test_bisection_finds_the_first(culprit: int) -> None:
    asked: list[int] = []

    def bad(k: int) -> bool:
        asked.append(k)
        return k >= culprit

    assert first(6, bad) == culprit
    assert len(asked) <= 3


def fidelity(model: onnx.ModelProto) -> Callable[[Run], float]:
    """Signal to noise ratio of the output in dB on a few samples."""
    from ptq_opt.ir import load
    from ptq_opt.ir.evaluate import Runner, signal_to_noise

    runner = Runner(load(model))
    expected = [runner.run(feeds)[0] for feeds in SAMPLES[:4]]

    def metric(run: Run) -> float:
        found = [run(feeds)[0] for feeds in SAMPLES[:4]]
        return min(signal_to_noise(np.stack(expected), np.stack(found)), 60.0)

    return metric


def fragile() -> onnx.ModelProto:
    """Channel 0 behind the second convolution is huge, and the classifier does not look at it."""
    rng = np.random.default_rng(0)
    weights = 0.2 * rng.standard_normal((32, 32, 3, 3)).astype(np.float32)
    weights[0] *= 1000
    last = 0.2 * rng.standard_normal((32, 5)).astype(np.float32)
    last[0] = 0
    return small_model(w2=weights, w3=last)


def test_the_plan_and_a_layer_are_named() -> None:
    model = fragile()
    result = ptq_opt.quantize(
        model, SAMPLES, passes="quant", metric=fidelity(model), max_drop=35, bisect=True
    )
    found = result.report.culprit
    assert found is not None
    assert found.step.startswith("plan")
    assert found.layer in ("Conv 'second'", "Add 'shortcut'")  # what makes the channel
    assert len(found.scores) <= 4


def test_no_culprit_where_the_metric_holds() -> None:
    model = small_model()
    result = ptq_opt.quantize(model, SAMPLES, metric=fidelity(model), max_drop=50, bisect=True)
    assert result.report.culprit is not None
    assert result.report.culprit.step == "" and "no pass" in str(result.report.culprit)


def test_bisect_needs_a_metric() -> None:
    with pytest.raises(UsageError, match="--bisect needs a --metric"):
        ptq_opt.quantize(small_model(), SAMPLES, bisect=True)


def invoke(*words: Any) -> Result:
    return CliRunner().invoke(cli.main, [str(word) for word in words])


def test_explain_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(small_model(), path)
    done = invoke(path, "-o", tmp_path / "o.onnx", "--explain=first", "--explain=classifier")
    assert done.exit_code == 0, done.output
    assert "Conv 'first'\n  precision" in done.output and "Gemm 'classifier'\n" in done.output
    done = invoke(path, "-o", tmp_path / "o.onnx", "--explain=clasifier")
    assert done.exit_code == 2
    assert "did you mean 'classifier'" in done.output
