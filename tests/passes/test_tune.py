"""Trials decide over grids; what they find stays only where it holds on samples of its own."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_nets import chain, data_for

from ptq_opt.ir import DType, Graph, UsageError
from ptq_opt.ir.grid_rule import GridRule
from ptq_opt.ir.samples import open_samples
from ptq_opt.ir.target import Costs, Target, find_target
from ptq_opt.ir.text import parse
from ptq_opt.passes import Context, Pipeline
from ptq_opt.passes.metric import Metric
from ptq_opt.passes.spec import parse as parse_spec
from ptq_opt.passes.trial import BIAS, BITS, GRANULARITY, chosen_layers, realized
from ptq_opt.passes.tune import Tune
from ptq_opt.passes.units import integer_layers

SLOW = replace(find_target("ort-cpu-vnni"), costs=Costs(gops=(1, 4)))
"""An engine on which even small layers pay for their conversions."""
Data = list[dict[str, np.ndarray]]


def saturating(last: str = "Tanh") -> Graph:
    return parse(f"""
    g (float[1,1,16,16] x) => (float[1,1,16,16] y) <
      float[1,1,1,1] w = {{1}}, float[1,1,1,1] v = {{0.25}}
    > {{
      t = Conv(x, w)
      u = Conv(t, v)
      y = {last}(u)
    }}""")


def outliers(where: int = 0) -> Data:
    """Normal samples; some elements of every fourth, or of all, are 40."""
    data = np.random.default_rng(0).standard_normal((24, 1, 1, 16, 16)).astype(np.float32)
    for k, x in enumerate(data):
        if where in (0, 4 - k % 4):
            x[0, 0, 3, :3] = 40
    return [{"x": x} for x in data]


def tuned(
    options: str, graph: Graph | None = None, samples: Data | None = None, **more: object
) -> tuple[Graph, Context]:
    graph = graph or saturating()
    data = outliers() if samples is None else samples
    context = Context(SLOW, open_samples(data, graph.inputs), **more)
    Pipeline(f"calibrate{{method=min-max}},tune{{{options}}}").run(graph, context)
    return graph, context


@pytest.mark.parametrize("method", ["coordinate", "lapq", "tpe", "genetic"])
def test_a_better_range_is_found_and_planned(method: str) -> None:
    graph, context = tuned(f"method={method},trials=16,over=[ranges]")
    found = context.results["tune"]
    assert found["best"] > found["start"] + 0.5
    assert found["trials"] <= 16
    assert context.calibration is not None
    factors = {name.split()[1]: factor for name, factor in found["changed"].items()}
    assert min(factors.values()) < 0.9  # the largest of t and of u
    for name, largest in (("t", 40), ("u", 10)):
        high = largest * factors.get(name, 1.0)
        assert context.calibration.ranges[name].high == pytest.approx(high)
    info = graph.find("t").quant
    assert info is not None
    assert info.range[1] == pytest.approx(40 * factors.get("t", 1.0), rel=0.02)
    assert "result kept" in context.report.notes[-1]
    assert all(node.precision for node in graph)


def test_what_does_not_hold_on_samples_of_its_own_is_dropped() -> None:
    """Only the samples of the verdict have outliers, and their outputs need them."""
    graph, context = tuned("trials=12,over=[ranges]", saturating("Elu"), outliers(where=1))
    found = context.results["tune"]
    assert found["best"] > found["start"]
    assert found["changed"] == {}
    assert "result dropped" in context.report.notes[-1]
    assert context.calibration is not None
    assert context.calibration.ranges["t"].high == 40
    assert any(True for _ in integer_layers(graph))


@pytest.mark.parametrize("lower", [False, True])
def test_the_callers_metric_decides(lower: bool) -> None:
    """The metric likes the output for 40 to be small, which no error would ask for."""
    feeds = {"x": np.full((1, 1, 16, 16), 40, np.float32)}

    def score(run) -> float:
        size = float(np.abs(run(feeds)[0]).mean())
        return size if lower else -size

    metric = Metric(score, lower)
    _, context = tuned("trials=8,over=[ranges]", saturating("Elu"), metric=metric)
    found = context.results["tune"]
    assert found["best"] > found["start"]
    assert found["changed"]


def test_trials_are_kept_in_a_file_and_not_repeated(tmp_path: Path) -> None:
    asked = []

    def score(run) -> float:
        asked.append(float(run(outliers()[0])[0].mean()))
        return asked[-1]

    options = f"trials=5,over=[ranges],storage={tmp_path / 'trials.log'}"
    first = tuned(options, metric=Metric(score))[1].results["tune"]
    assert len(asked) == 5
    again = tuned(options, metric=Metric(score))[1].results["tune"]
    assert len(asked) == 5
    assert again == first


def test_an_interrupted_search_keeps_the_best_so_far() -> None:
    scores = [1.0, 2.0]

    def score(_run) -> float:
        if not scores:
            raise KeyboardInterrupt
        return scores.pop(0)

    _, context = tuned("over=[ranges]", metric=Metric(score))
    assert context.results["tune"]["best"] == 2.0
    assert len(context.results["tune"]["changed"]) == 1
    assert "interrupted" in context.report.notes[0]


def planned(params: dict[str, object], target: Target = SLOW, bits: float = 0.0) -> Graph:
    graph = chain()
    context = Context(target, open_samples(data_for(graph, 8), graph.inputs))
    Pipeline("calibrate{method=min-max}").run(graph, context)
    return realized(graph, context, params, bits)


def test_parameters_of_a_trial() -> None:
    plain = [info for *_, info in integer_layers(planned({}))]
    assert all(info.scale.shape for info in plain)
    whole = planned({GRANULARITY: "tensor"})
    assert all(info.scale.shape == () for *_, info in integer_layers(whole))
    biased = planned({BIAS: "fast"}, SLOW.storing(weights="int4"))
    exact = planned({BIAS: "none"}, SLOW.storing(weights="int4"))
    pairs = zip(integer_layers(biased), integer_layers(exact), strict=True)
    assert any(
        not np.array_equal(a.inputs[2].numpy(), b.inputs[2].numpy()) for (a, *_), (b, *_) in pairs
    )


def test_layers_of_more_bits_in_the_order_of_their_numbers() -> None:
    sizes = {"a": 100, "b": 300, "c": 600}
    rule = GridRule(DType.INT4, symmetric=True, per_channel=True)

    def raised(bits: float, **numbers: float) -> set[str]:
        return chosen_layers(sizes, {BITS + k: v for k, v in numbers.items()}, rule, bits)

    assert raised(4.0, a=1, b=0.5, c=0) == set()
    assert raised(4.4, a=1, b=0.5, c=0) == {"a"}
    assert raised(5.7, a=0, b=0.5, c=1) == {"b", "a"}  # c does not fit
    assert raised(8.0, a=0, b=0, c=0) == {"a", "b", "c"}
    assert raised(0.0, a=1, b=1, c=1) == set()


def test_mean_bits_are_kept_in_a_plan() -> None:
    graph = planned({}, SLOW.storing(weights="int4"), bits=6.0)
    layers = [(w.numpy().size, info.dtype) for _, w, info in integer_layers(graph)]
    assert {dtype for _, dtype in layers} == {DType.INT4, DType.INT8}
    assert sum(n * dtype.bits for n, dtype in layers) <= 6.0 * sum(n for n, _ in layers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("trials=0", "at least 1"),
        ("over=[bits]", "go together"),
        ("bits=5", "go together"),
        ("over=[scales]", "not one of"),
    ],
)
def test_options_that_make_no_sense(options: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_spec(f"tune{{{options}}}")


def test_without_optuna_the_cure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install 'ptq-opt\[tune\]'"):
        Tune()


def test_nothing_in_integers_leaves_nothing_to_tune() -> None:
    graph = parse("g (float[4] x) => (float[4] y) { y = Erf(x) }")
    _, context = tuned("trials=2", graph, [{"x": np.ones(4, np.float32)}])
    assert context.report.notes == ["no layer runs in integers: nothing to tune"]
