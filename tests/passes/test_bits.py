"""Formats of weights and activations, for a budget of bytes, time or accuracy."""

from typing import Any

import numpy as np
import pytest
from rewriting import net, noise

from ptq_opt.ir import DType, Graph, UsageError
from ptq_opt.ir.evaluate import Runner
from ptq_opt.ir.samples import random_samples
from ptq_opt.ir.target import find_target
from ptq_opt.ir.text import print_graph
from ptq_opt.passes import Context, Pipeline
from ptq_opt.passes.bits import Bits
from ptq_opt.passes.deployed import deployed
from ptq_opt.passes.front import front
from ptq_opt.passes.multilabel import Formats

BODY = """
a = Conv (x, w)
r = Relu (a)
b = Conv (r, v)
s = Add (b, r)
y = Conv (s, u)
"""


def network() -> Graph:
    weights = {name: noise(32, 32, 3, 3, seed=k) / 17 for k, name in enumerate("wvu")}
    weights["v"] *= 8  # matters most
    graph = net(
        BODY.replace("Conv (", "Conv <pads = [1,1,1,1]> ("), "float[1,32,14,14] x", **weights
    )
    for node in graph:
        node.name = node.output.name
    return graph


def assign(graph: Graph, **options: Any) -> Context:
    context = Context(find_target("ort-cpu"), samples=random_samples(graph.inputs, 4))
    Pipeline(["calibrate{method=min-max}", Bits(**options)]).run(graph, context)
    return context


def weights(graph: Graph) -> dict[str, str]:
    found = {}
    for node in graph:
        if node.op == "Conv" and node.inputs[1] is not None:
            quant = node.inputs[1].quant
            found[node.name] = "float" if quant is None else quant.dtype.name.lower()
    return found


def stored_bytes(graph: Graph) -> float:
    return sum(
        value.const.size * (4 if value.quant is None else value.quant.dtype.bits / 8)
        for value in graph.values()
        if value.const is not None and value.const.size > 1000
    )


@pytest.mark.parametrize("size", [0.17, 0.2, 0.3, 0.6])
def test_the_weights_fit_the_bytes(size: float) -> None:
    graph = network()
    whole = stored_bytes(graph)
    context = assign(graph, size=size)
    assert stored_bytes(graph) <= size * whole
    told = context.results["bits"]
    assert told["points"][told["chosen"]]["amount"] <= size * told["in_float"]
    assert all(point["proven"] for point in told["points"])


def test_the_front_trades_noise_for_bytes() -> None:
    points = assign(network(), size=0.2).results["bits"]["points"]
    assert len(points) > 2
    assert np.all(np.diff([point["amount"] for point in points]) >= 0)
    assert np.all(np.diff([point["sqnr_db"] for point in points]) > 0)
    assert points[-1]["sqnr_db"] == 120, "all in float"


def test_a_bound_of_noise() -> None:
    graph = network()
    told = assign(graph, sqnr=25.0).results["bits"]
    assert told["points"][told["chosen"]]["sqnr_db"] >= 25
    assert told["points"][told["chosen"] - 1]["sqnr_db"] < 25


def test_a_bound_of_time() -> None:
    graph = network()
    told = assign(graph, time=0.8, formats=("int8",)).results["bits"]
    assert told["paid_in"] == "time"
    assert "int8" in weights(graph).values()


def test_stored_in_few_bits_means_computed_in_float() -> None:
    graph = network()
    assign(graph, size=0.17)
    for node in graph:
        quant = node.inputs[1].quant if node.op == "Conv" and node.inputs[1] is not None else None
        if quant is not None:
            assert node.precision == ("int8" if quant.dtype.bits == 8 else "float")
    deployed(graph, find_target("ort-cpu"))  # the file has what the annotations say


def test_five_formats() -> None:
    """Half precision is what loses less than 16 bits of a grid where weights differ much."""
    formats = ("float16", "int16", "int8", "int4:block=32")
    told = assign(network(), size=0.4, formats=formats).results["bits"]
    used = {name for point in told["points"] for name in point["formats"].values()}
    assert used == {*formats}
    graph = network()
    assign(graph, size=0.51, formats=("float16",))
    assert weights(graph) == dict.fromkeys("aby", "float16")
    file = deployed(graph, find_target("ort-cpu"))
    casts = [node for node in file if node.op == "Cast"]
    assert [node.inputs[0].dtype for node in casts] == [DType.FLOAT16] * 3
    assert file.info.opsets[""] == 17
    feeds = next(iter(random_samples(graph.inputs, 1)))
    wanted, found = (Runner(each).run(feeds)[0] for each in (network(), file))
    assert 0 < np.abs(wanted - found).max() < 1e-2 * np.abs(wanted).max()


def test_what_overflows_half_precision_stays_in_float() -> None:
    graph = net("y = Conv (x, w)", "float[1,4,8,8] x", w=noise(4, 4, 1, 1) * 1e5)
    assign(graph, size=1.0, formats=("float16",))
    assert weights(graph) == {node.name: "float" for node in graph}


def test_a_budget_that_nothing_meets() -> None:
    with pytest.raises(UsageError, match=r"reaches 10% of the bytes in float; the least is 16\.4%"):
        assign(network(), size=0.1)


def test_one_budget() -> None:
    with pytest.raises(ValueError, match="give one budget"):
        Bits(size=0.2, time=0.5)


def test_the_usual_budget_is_a_fifth_of_the_bytes() -> None:
    usual, given = network(), network()
    assign(usual)
    assign(given, size=0.2)
    assert print_graph(usual) == print_graph(given)


def test_weights_that_two_operators_read_have_one_format() -> None:
    graph = net(
        "a = Conv (x, w)\n y = Conv (a, w)", "float[1,32,14,14] x", w=noise(32, 32, 1, 1) / 6
    )
    assign(graph, size=0.3)
    assert len({node.precision for node in graph}) == 1


def test_the_front_equals_that_of_all_choices() -> None:
    rng = np.random.default_rng(0)
    for seed in range(30):
        losses, amounts = Formats(), Formats()
        for _ in range(4):
            losses.add([0.0, *rng.integers(1, 20, 2)])
            amounts.add(np.sort(rng.integers(1, 50, 3))[::-1])
        every = [(losses.cost(c), amounts.cost(c)) for c in np.ndindex(3, 3, 3, 3)]
        points = front(losses, amounts)
        for price in (0.1, 0.5, 1.0, 2.0, 7.0):
            best = min(a + price * loss for loss, a in every)
            assert min(p.amount + price * p.loss for p in points) == pytest.approx(best), seed
