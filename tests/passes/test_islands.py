"""Float islands: what follows a layer that must stay in float, and what the whole model takes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rewriting import net, noise

from ptq_opt.ir import Graph, UsageError
from ptq_opt.ir.ranges import Calibration, Range
from ptq_opt.ir.target import Costs, Target, find_target
from ptq_opt.ir.timings import Timing, Timings
from ptq_opt.passes import Context, islands
from ptq_opt.passes.islands import FLOAT, INTEGER, PLACED, Islands, by_chance, fastest

Rounds = dict[str, list[float]]

BODY = """
a = Conv (x, w)
b = Add (a, x)
c = Conv (b, w)
d = Add (c, x)
y = Conv (d, w)
"""
PINS = ("^a$", "^c$")


def network() -> Graph:
    """Conv, Add, Conv, Add, Conv; x is read by the sums, too."""
    graph = net(BODY, "float[1,8,8,8] x", w=noise(8, 8, 1, 1))
    for node in graph:
        node.name = node.output.name
    return graph


def target(conv: float = 4.0, add: float = 0.02, convert: float = 0.5, engine: str = "") -> Target:
    """A product is `conv` times as fast in integers, 1 us in float; a tensor has 512 elements."""
    costs = Costs(
        gops=(8.192, 8.192 * conv),
        weights=(0, 0),
        operators={"Add": (add, add / 2)},
        quantize=convert,
        dequantize=convert,
    )
    return replace(find_target("ort-cpu"), costs=costs, engine=engine)


def place(graph: Graph, goal: Target, **options: Any) -> Context:
    rows = np.array([-1.0, 1.0, -1.0, 1.0, 0.0])
    table = {v.name: Range.of(rows, 1) for v in graph.values()}
    context = Context(goal, calibration=Calibration("mean-max", table))
    Islands(**options).run(graph, context)
    return context


def letters(graph: Graph) -> str:
    return "".join("I" if node.precision == "int8" else "F" for node in graph.order())


def test_the_question_of_the_talk() -> None:
    """Two layers must stay in float: the sums behind them follow, or would be converted twice."""
    graph = network()
    place(graph, target())
    assert letters(graph) == "IIIII"
    place(graph, target(), pin_float=PINS)
    assert letters(graph) == "FFFFI"


@pytest.mark.parametrize("pattern", ["^c$", "c", "op:Conv"])
def test_pins_by_name_expression_and_type(pattern: str) -> None:
    graph = network()
    context = place(graph, target(), pin_float=(pattern,))
    decision = context.results["plan"][2]
    assert decision["reason"] == f"pinned by '{pattern}'"
    assert decision["why"] == "must"


@pytest.mark.parametrize(("pool", "follows"), [("AveragePool", "FFI"), ("MaxPool", "FFF")])
def test_what_is_slow_behind_a_float_operator_follows_it(pool: str, follows: str) -> None:
    """In integers a pool is faster, but not behind a convolution in float: there it goes to float.

    Of a MaxPool the reader has to follow, too: ONNX Runtime quantizes before the pool otherwise.
    """
    body = f"a = Conv (x, w)\n b = {pool} <kernel_shape = [1,1]> (a)\n y = Conv (b, w)"
    for apart, expected in ((None, "FII"), (1000.0, follows)):
        graph = net(body, "float[1,8,8,8] x", w=noise(8, 8, 1, 1))
        for node in graph:
            node.name = node.output.name
        row = Timing(f"{pool} 1x1", "1x8x8x8", 512, 10.0, 5.0, None, apart)
        place(graph, replace(target(), timings=Timings(rows=(row,))), pin_float=("^a$",))
        assert letters(graph) == expected


def test_a_pin_to_integers() -> None:
    graph = network()
    place(graph, target(conv=0.9))
    assert letters(graph) == "FFFFF"
    place(graph, target(conv=0.9), pin_integer=("^c$",))
    assert letters(graph) == "FFIFF"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pin_float": ("z",)}, "no node matches pin-float 'z'"),
        ({"pin_integer": ("z",)}, "no node matches pin-integer 'z'"),
        ({"pin_float": ("c",), "pin_integer": ("c",)}, "'c' cannot be pinned to integers: pinned"),
    ],
)
def test_pins_that_cannot_hold(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        place(network(), target(), **options)


def test_float_activations_cannot_be_placed() -> None:
    with pytest.raises(UsageError, match="give them a type"):
        place(network(), replace(target(), activations=None))


def test_why_an_operator_is_in_float() -> None:
    graph = network()
    context = place(graph, target(), pin_float=PINS)
    told = {each["node"]: each for each in context.results["plan"]}
    assert told["c"]["why"] == "must"
    assert told["d"]["why"] == "converts"
    assert told["d"]["saves"] == pytest.approx(512 * 0.01 / 1000)
    assert told["d"]["converts"] == pytest.approx(512 * 0.5 / 1000)
    assert told["d"]["source"] == "estimated"


def test_the_fastest_as_timed_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def timed(_engine: str, graphs: Mapping[str, Graph], *_: Any, **__: Any) -> Rounds:
        ops = {name: [node.op for node in graph] for name, graph in graphs.items()}
        seen.extend(str(found.count("QuantizeLinear")) for found in ops.values())
        return {name: 5 * [100.0 + 50 * ("QuantizeLinear" in found)] for name, found in ops.items()}

    monkeypatch.setattr(islands, "rounds", timed)
    graph = network()
    context = place(graph, target(engine="onnxruntime"), pin_float=PINS)
    assert seen == ["2", "6", "0"], "placed, all in integers but the pinned, all in float"
    assert letters(graph) == "FFFFF"
    assert context.results["islands"]["kept"] == FLOAT
    reasons = {each["reason"] for each in context.results["plan"]}
    assert reasons == {
        "pinned by '^a$'",
        "pinned by '^c$'",
        "the whole model was timed, and is faster in float",
    }


def test_equal_choices_are_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(_engine: str, graphs: Mapping[str, Graph], *_: Any, **__: Any) -> Rounds:
        assert len(graphs) == 2
        return {name: 5 * [1000.0 * (k + 1)] for k, name in enumerate(graphs)}

    monkeypatch.setattr(islands, "rounds", timed)
    context = place(network(), target(engine="onnxruntime"))
    assert context.results["islands"]["timed_us"] == {PLACED: 1.0, INTEGER: 1.0, FLOAT: 2.0}


def test_timed_in_onnx_runtime() -> None:
    context = place(network(), target(engine="onnxruntime"), seconds=0.01)
    found = context.results["islands"]
    assert all(time > 0 for time in found["timed_us"].values())
    assert found["kept"] in found["timed_us"]


def test_sums_that_would_not_fit_32_bits_with_the_scales_of_the_plan() -> None:
    graph = net(BODY, "float[1,8,8,8] x", w=1e-20 * noise(8, 8, 1, 1))
    conv = next(node for node in graph.order() if node.op == "Conv")
    graph.set_input(conv, 2, graph.constant(noise(8)))
    found = place(graph, target(engine="onnxruntime"), seconds=0.01).results["islands"]
    assert all(time > 0 for time in found["timed_us"].values())


def test_a_target_without_engine_is_not_timed() -> None:
    context = place(network(), target())
    assert context.results["islands"]["timed_us"] == {}
    assert "not timed: no engine runs its files here" in context.report.notes


@pytest.mark.parametrize(
    ("timed", "kept"),
    [
        ((100.0, 120.0, 130.0), PLACED),
        ((100.0, 99.5, 130.0), PLACED),  # as good as equal
        ((100.0, 90.0, 130.0), INTEGER),
        ((100.0, 90.0, 80.0), FLOAT),
    ],
)
def test_which_is_kept(timed: tuple[float, ...], kept: str) -> None:
    choices = (PLACED, INTEGER, FLOAT)
    for slowed in (1.0, 2.0):  # by other work, from the fourth of six rounds on
        taken = [[time] * 3 + [slowed * time] * 3 for time in timed]
        assert fastest(dict(zip(choices, taken, strict=True))) == kept


def test_chance_does_not_decide_which_is_kept() -> None:
    """The median of `other` is 5 % less; but it wins four rounds of six, as a coin might."""
    placed = [100.0, 100.0, 100.0, 100.0, 100.0, 100.0]
    other = [95.0, 95.0, 95.0, 95.0, 120.0, 130.0]
    assert fastest({PLACED: placed, INTEGER: other}) == PLACED
    assert fastest({PLACED: placed, INTEGER: [95.0] * 6}) == INTEGER
    assert by_chance(6, 6) == 1 / 64
    assert by_chance(0, 6) == 1
    assert fastest({}) == PLACED, "nothing was timed"


@pytest.mark.parametrize("seed", range(40))
def test_never_predicted_slower_than_both_extremes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    goal = target(*(float(x) for x in rng.uniform(0.1, 5.0, 3)))
    predicted = place(network(), goal).results["islands"]["predicted_us"]
    assert predicted[PLACED] <= min(predicted[INTEGER], predicted[FLOAT])
