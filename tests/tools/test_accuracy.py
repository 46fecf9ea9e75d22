"""Holding what is asked: fidelity from the plain command, or a metric's drop."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from click.testing import CliRunner
from small_nets import Net

from ptq_opt.ir import DataError, Graph, UsageError, save
from ptq_opt.ir.evaluate import Runner
from ptq_opt.passes import Instruments, accuracy
from ptq_opt.passes.base import Loss
from ptq_opt.passes.hold import STEPS
from ptq_opt.passes.metric import Run
from ptq_opt.passes.placement import Placement
from ptq_opt.tools import cli
from ptq_opt.tools.api import Result, quantize

SHAPE = (1, 3, 24, 24)


def detector() -> Graph:
    """A backbone, and a heat map that is the small sum of two large tensors.

    Their grids have steps far larger than the heat map, and no scaling of channels helps.
    """
    net = Net(SHAPE)
    x = net.x
    for channels in (16, 16, 16):
        x = net.like("Relu", net.conv(x, channels))
    plus, minus = net.conv(x, 4, 1), net.conv(x, 4, 1)
    for value, sign in ((plus, 1), (minus, -1)):
        node = value.producer
        weights = node.inputs[1].numpy() + np.float32(2000 * sign)
        net.graph.set_input(node, 1, net.graph.constant(weights, f"w{sign}"))
    heat = net.like("Add", plus, minus)
    return net.done(net.conv(net.like("Relu", heat), 2))


def samples_of(count: int, seed: int = 1) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(0.3, 1.0, SHAPE).astype(np.float32)} for _ in range(count)]


TEST = samples_of(4, seed=9)


@pytest.fixture(scope="module", autouse=True)
def _timed_shortly() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accuracy, "SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def model() -> object:
    return save(detector())


@pytest.fixture(scope="module")
def plain(model: object) -> Result:
    return quantize(model, samples_of(24), min_sqnr=0)


@pytest.fixture(scope="module")
def guarded(model: object) -> Result:
    return quantize(model, samples_of(24))


def spread(result: Result) -> float:
    """Correlation of the deviations from the mean heat map with those of the float model."""
    wanted, found = (
        np.stack([runner.run(s)[0].astype(np.float64) for s in TEST])
        for runner in (Runner(detector()), Runner(result.graph))
    )
    a, b = (outputs - outputs.mean(axis=0) for outputs in (wanted, found))
    return float(np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b)))


def worst(result: Result) -> float:
    return min(out.sqnr_db for out in result.report.fidelity.outputs)


def in_integers(result: Result) -> list[str]:
    return [d.op for d in result.report.decisions if d.precision != "float"]


# -- fidelity -------------------------------------------------------------------------------------


def test_a_heat_map_that_collapses_comes_out_usable(plain: Result, guarded: Result) -> None:
    assert spread(plain) < 0.3
    assert spread(guarded) > 0.95
    assert plain.report.accuracy == {}


def test_only_what_hurts_goes_back_to_float(guarded: Result) -> None:
    done = guarded.report.accuracy
    assert {row["node"].split()[0] for row in done["reverted"]} <= {"Conv", "Add"}
    assert 2 <= len(done["reverted"]) <= 4
    assert in_integers(guarded).count("Conv") >= 3  # the backbone
    times = done["milliseconds"]
    assert times["integers"] < times["placed"] < times["float"]
    assert times.keys() == done["timed"].keys()


def test_errors_that_do_not_add_up_are_measured_again(
    model: object, guarded: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the large tensors alone ruins the heat map; all together do not ruin it more."""
    assert guarded.report.accuracy["repaired"]
    monkeypatch.setattr(accuracy, "DISTORTED", np.inf)
    once = quantize(model, samples_of(24)).report.accuracy
    assert not once["repaired"]
    assert guarded.report.accuracy["trials"] <= once["trials"] + 3
    assert guarded.report.accuracy["milliseconds"]["placed"] <= once["milliseconds"]["placed"]


def test_what_a_placement_that_fails_implies_is_not_run() -> None:
    """Of two placements the one that has more in integers holds no better."""
    fails = (True, False, True, False)
    for integer, implied in (("TFTF", True), ("TTTF", True), ("TFFF", False), ("FTTT", False)):
        placement = Placement(tuple(letter == "T" for letter in integer), 1.0, 1.0)
        assert accuracy.implies(fails, placement) == implied


def test_losses_around_a_placement() -> None:
    """What is in integers there has its part in the error, half alone and half as it is missed."""
    losses = {"a": Loss(1.0, 3.0), "b": Loss(2.0, 2.0)}
    row = {"tensor": "b", "alone": [3.0, 1.0], "gained": [1.0, -1.0], "rounding": 0.25}
    assert accuracy.around(losses, {"operators": [row]}, 0.5) == {
        "a": Loss(0.5, 1.5),
        "b": Loss(0.5, 1.5),
    }
    row["gained"] = [-9.0, 0.0]
    found = accuracy.around(losses, {"operators": [row]}, 0.5)
    assert found["b"] == Loss(0.0, 0.0), "what makes others better costs nothing"


def test_the_report_says_what_was_done_and_what_it_cost(guarded: Result) -> None:
    done = guarded.report.accuracy
    assert done["worst_at_first"] < 5
    assert done["worst"] >= 10
    assert done["steps"][0]["step"] == "ranges of least squared error"
    text = str(guarded.report)
    assert "every output has at least 10 dB" in text
    assert "back to float" in text
    assert done["reverted"][0]["node"] in text


def test_operators_left_in_float_for_accuracy_say_so(guarded: Result) -> None:
    reverted = {row["node"] for row in guarded.report.accuracy["reverted"]}
    hurting = [d for d in guarded.report.decisions if d.why == "hurts"]
    assert hurting
    assert {f"{d.op} '{d.node}'" for d in hurting} <= reverted | {d.op for d in hurting}


def test_nothing_more_is_run_where_fidelity_holds(model: object) -> None:
    seen: list[str] = []
    tools = Instruments(before=[lambda item, _: seen.append(item.name)])
    quantize(save(harmless()), samples_of(24), instruments=tools)
    assert seen.count("plan") == 1


def harmless() -> Graph:
    net = Net(SHAPE)
    return net.done(net.conv(net.like("Relu", net.conv(net.x, 8)), 2))


def test_weights_are_rounded_better_before_anything_goes_to_float() -> None:
    net = Net(SHAPE := (1, 3, 10, 10))
    x = net.like("Relu", net.conv(net.like("Relu", net.conv(net.x, 8)), 8))
    graph = save(net.done(net.conv(x, 2)))
    rng = np.random.default_rng(1)
    data = [{"x": rng.normal(0.3, 1.0, SHAPE).astype(np.float32)} for _ in range(24)]
    done = quantize(graph, data, weights="int4", min_sqnr=19).report.accuracy
    assert [step["step"] for step in done["steps"]] == [step.title for step in (
        STEPS[0], STEPS[1], STEPS[3]
    )], "biases are corrected by the default pipeline"  # fmt: skip
    assert done["steps"][-1]["kept"]
    assert done["worst_at_first"] < 18
    assert done["worst"] >= 19
    assert "reverted" not in done and "widened" not in done


def test_pipelines_of_the_user_are_not_changed_unless_asked(model: object) -> None:
    passes = "bias{samples=8},quant"
    assert quantize(model, samples_of(24), passes=passes).report.accuracy == {}
    held = quantize(model, samples_of(24), passes=passes, min_sqnr=8)
    assert worst(held) >= 8


def test_an_order_of_scores_is_no_matter_of_fidelity() -> None:
    net = Net(SHAPE)
    flat = net.add("Flatten", net.conv(net.conv(net.x, 4), 2))
    k = net.graph.constant(np.array([5], np.int64))
    top = net.graph.add("TopK", [flat, k], {}, 2)
    seen: list[str] = []
    tools = Instruments(before=[lambda item, _: seen.append(item.name)])
    graph = net.done(*top.outputs)
    quantize(save(graph), samples_of(24), min_sqnr=100, instruments=tools)
    assert seen.count("plan") == 1


# -- a metric -------------------------------------------------------------------------------------


def likeness(
    test: Sequence[dict[str, np.ndarray]], graph: Graph | None = None
) -> Callable[[Run], float]:
    """Correlation with the float model's heat map, 1 at best."""
    float_model = Runner(graph or detector())
    wanted = np.concatenate([float_model.run(s)[0].ravel() for s in test])

    def metric(run: Run) -> float:
        found = np.concatenate([run(s)[0].ravel() for s in test])
        return float(np.corrcoef(wanted, found)[0, 1])

    return metric


def test_a_metric_is_held_at_the_least_time(model: object, plain: Result) -> None:
    metric = likeness(TEST)
    held = quantize(model, samples_of(24), metric=metric, max_drop=0.02)
    assert metric(Runner(plain.graph).run) < 0.98
    assert metric(Runner(held.graph).run) >= 0.98
    done = held.report.accuracy
    assert done["drop"] <= 0.02
    assert done["score"] == pytest.approx(metric(Runner(held.graph).run), abs=1e-6)
    assert done["evaluations"] <= 2 + 1 + 6
    assert in_integers(held).count("Conv") >= 3
    looser = quantize(model, samples_of(24), metric=metric, max_drop=1.5)
    assert looser.report.accuracy["evaluations"] == 3
    assert "reverted" not in looser.report.accuracy


def test_weights_of_four_bits_get_eight_before_anything_goes_to_float() -> None:
    """Only as many layers as it takes; that adds no conversions."""
    model, data = save(chain := plain_chain()), samples_of(24)
    metric = likeness(TEST, chain)
    narrow = quantize(model, data, weights="int4", min_sqnr=0)
    drop = 1 - metric(Runner(narrow.graph).run)
    held = quantize(model, data, weights="int4", metric=metric, max_drop=drop / 4)
    done = held.report.accuracy
    assert done["drop"] <= drop / 4
    assert done["reverted"] == []
    stored = [d.weights for d in held.report.decisions if d.weights]
    ends = 2  # have eight bits without being asked
    assert ends < stored.count("int8") == ends + len(done["widened"]) < len(stored)
    assert in_integers(held) == in_integers(narrow)
    assert done["evaluations"] <= 2 + 1 + 4


def plain_chain() -> Graph:
    net = Net(SHAPE)
    x = net.x
    for _ in range(5):
        x = net.like("Relu", net.conv(x, 8))
    return net.done(net.conv(x, 2))


def test_what_eight_bits_do_not_hold_goes_to_float(model: object) -> None:
    metric = likeness(TEST)
    held = quantize(model, samples_of(24), weights="int4", metric=metric, max_drop=0.02)
    done = held.report.accuracy
    assert done["drop"] <= 0.02
    stored = [d.weights for d in held.report.decisions if d.precision != "float" and d.weights]
    assert set(stored) == {"int8"}
    assert done["reverted"]
    in_float = {row["node"] for row in done["reverted"]}
    assert not in_float & {row["node"] for row in done["widened"]}


def test_islands_and_their_pins_take_part(model: object) -> None:
    metric = likeness(TEST)
    passes = "islands{pin-float=[^Conv_1$],time=false},quant"
    data = samples_of(24)
    assert metric(Runner(quantize(model, data, passes=passes).graph).run) < 0.98
    held = quantize(model, data, passes=passes, metric=metric, max_drop=0.02)
    assert metric(Runner(held.graph).run) >= 0.98
    reasons = {d.reason for d in held.report.decisions if d.precision == "float"}
    assert "pinned by '^Conv_1$'" in reasons
    assert {row["node"] for row in held.report.accuracy["reverted"]}
    notes = [note for done in held.report.passes for note in done.notes]
    assert "placed for accuracy: what is faster may not hold it" in notes


def test_what_cannot_be_placed_for_accuracy(model: object) -> None:
    metric = likeness(TEST)
    with pytest.raises(UsageError, match="where plan or islands place them"):
        quantize(model, samples_of(24), passes="bits,quant", metric=metric, max_drop=0.0)


def test_lower_is_better_and_zero_at_the_baseline(model: object) -> None:
    metric = likeness(TEST)

    def error(run: Run) -> float:
        return round(1 - metric(run), 6)

    held = quantize(model, samples_of(24), metric=error, max_drop=0.02, lower_is_better=True)
    assert held.report.accuracy["baseline"] == 0
    assert 0 < held.report.accuracy["score"] <= 0.02


def test_noise_of_the_metric_is_allowed_for(model: object) -> None:
    metric, noise = likeness(TEST), iter([0.0, -0.05, *[0.0] * 50])

    def noisy(run: Run) -> float:
        return metric(run) + next(noise)

    held = quantize(model, samples_of(24), metric=noisy, max_drop=0.0)
    assert held.report.accuracy["spread"] == pytest.approx(0.05)
    assert held.report.accuracy["drop"] <= 0.05
    assert "two scores of the float model differ by 0.05" in str(held.report)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda run: 1 / 0, "the metric failed: ZeroDivisionError: division by zero"),
        (lambda run: float("nan"), "the metric returned nan: it must be a finite number"),
        (lambda run: "good", "the metric returned str 'good', not a number"),
        (lambda run: run({})[0], "the metric failed: DataError: no data for the model's input 'x'"),
    ],
)
def test_a_metric_that_fails(model: object, metric: Callable[[Run], float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        quantize(model, samples_of(2), metric=metric)


def test_a_drop_that_cannot_be_reached(model: object) -> None:
    scores = iter([1.0, 1.0, *[0.5] * 50])
    with pytest.raises(DataError, match=r"drops by 0.5 even when no operator runs in integers"):
        quantize(model, samples_of(4), metric=lambda run: next(scores), max_drop=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_drop": 0.1}, "need a --metric"),
        ({"lower_is_better": True}, "need a --metric"),
        ({"metric": abs, "max_drop": -1.0}, "must be 0 or more"),
        ({"min_sqnr": -1.0}, "must be 0"),
        ({"metric": abs, "passes": "fold-bn"}, "needs a pipeline that quantizes"),
    ],
)
def test_options_that_make_no_sense(model: object, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        quantize(model, samples_of(2), **options)


def test_the_command_line(tmp_path, monkeypatch, model: object) -> None:
    save(detector(), tmp_path / "model.onnx")
    (tmp_path / "calib").mkdir()
    for k, feeds in enumerate(samples_of(24)):
        np.savez(tmp_path / "calib" / f"{k:02}.npz", **feeds)
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def spread(run):\n"
        "    x = np.random.default_rng(9).normal(0.3, 1.0, (1, 3, 24, 24)).astype(np.float32)\n"
        "    return float(run({'x': x})[0].std())\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["model.onnx", "--data=calib", "--metric=mine:spread", "--max-drop=0.05"]
    result = CliRunner().invoke(cli.main, [*words, "--lower-is-better"])
    assert result.exit_code == 0, result.output
    assert "the metric drops by at most 0.05" in result.output
    assert "--metric=mine:spread --max-drop=0.05 --lower-is-better" in result.output
    result = CliRunner().invoke(cli.main, ["model.onnx", "--data=calib", "--metric=mine:nothing"])
    assert result.exit_code == 2
    assert "cannot get a metric from 'mine:nothing'" in result.output
