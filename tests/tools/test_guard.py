"""The benchmark behind the default of --min-sqnr."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx

from ptq_opt.ir import load
from ptq_opt.ir.evaluate import Runner
from ptq_opt.tools.bench.cases import Case, Feeds, store
from ptq_opt.tools.bench.guard import Row, measure, summary


def test_fidelity_and_score_of_a_file(
    model: onnx.ModelProto, samples: list[Feeds], tmp_path: Path
) -> None:
    file = tmp_path / "model.onnx"
    onnx.save(model, file)
    wanted = np.concatenate([Runner(load(file)).run(feeds)[0].ravel() for feeds in samples])

    def evaluate(path: Path) -> dict[str, float]:
        found = np.concatenate([Runner(load(path)).run(feeds)[0].ravel() for feeds in samples])
        return {"error": float(np.square(found - wanted).mean())}

    entry = SimpleNamespace(evaluate=evaluate, main_metric="error", higher_is_better=False)
    case = Case("m", "trained", file, tmp_path, entry, lambda path: path)
    store(case.calibration, samples)
    good, bad = (measure(case, weights, "plan,quant", 40) for weights in ("int8", "int2"))
    assert good.in_float == bad.in_float == 0
    assert bad.score < good.score < 0
    assert bad.worst_db < good.worst_db


def test_scores_by_fidelity() -> None:
    found = [(-3.0, 0.0), (7.0, 0.4), (9.0, 0.72), (12.0, 0.76), (30.0, 0.8)]
    rows = [Row("m", "int8", worst, 0.8, score) for worst, score in found]
    assert list(summary(rows)) == [
        "below 0 dB: 1 files keep 0% to 0%",
        "from 5 dB: 2 files keep 50% to 90%",
        "from 10 dB: 1 files keep 95% to 95%",
        "from 20 dB: 1 files keep 100% to 100%",
    ]
