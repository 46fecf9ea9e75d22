"""Times of operators come out of the engine's profile, fused patterns as one."""

from dataclasses import replace

import numpy as np
import pytest
from rewriting import net, noise

from ptq_opt.ir import Graph, UsageError
from ptq_opt.ir.engines import Event
from ptq_opt.ir.ranges import Calibration, Range
from ptq_opt.ir.target import find_target
from ptq_opt.passes import Context
from ptq_opt.passes.conversions import EDGES, SIZES
from ptq_opt.passes.measure import Measure, Shares, as_whole, marked, variants
from ptq_opt.passes.units import find_units

IMAGE = "float[1,32,16,16] x"


def residual() -> Graph:
    return net(
        "c = Conv (x, w)\n r = Relu(c)\n d = Conv (r, w)\n s = Add(d, x)\n y = Erf(s)",
        IMAGE, w=noise(32, 32, 1, 1),
    )  # fmt: skip


def known(graph: Graph) -> Calibration:
    rows = np.array([-1.0, 1.0, -1.0, 1.0, 0.0])
    return Calibration("mean-max", {v.name: Range.of(rows, 1) for v in graph.values()})


@pytest.mark.parametrize("target", ["ort-cpu", "native"])
def test_every_operator_gets_its_times(target: str) -> None:
    graph = residual()
    context = Context(find_target(target), calibration=known(graph))
    Measure(runs=2).run(graph, context)
    assert context.timings is not None
    rows = {(row.kind, row.shape): row for row in context.timings.rows}
    conv, erf = rows["Conv 1x1", "1x32x16x16"], rows["Erf", "1x32x16x16"]
    assert conv.work == 2 * 32 * 32 * 16 * 16
    assert conv.in_float and conv.in_integers and erf.in_float
    assert erf.in_integers is None, "the target has no kernel for it"
    for op in ("QuantizeLinear", "DequantizeLinear"):
        assert all(rows[op, str(size)].in_integers for size in SIZES)
        assert all(rows[f"{op} image", str(32 * edge**2)].in_integers for edge in EDGES)
    assert [node.precision for node in graph] == [None] * 5, "the graph stays as it is"
    assert [note[:8] for note in context.report.notes] == ["in float", "in integ"]


def test_what_is_between_products_is_timed_among_those_of_the_other_precision() -> None:
    graph = net(
        "c = Conv (x, w)\n p = MaxPool <kernel_shape = [2,2]> (c)\n y = Conv (p, w)",
        IMAGE, w=noise(32, 32, 1, 1),
    )  # fmt: skip
    context = Context(find_target("ort-cpu"), calibration=known(graph))
    Measure(runs=2).run(graph, context)
    assert context.timings is not None
    rows = {row.kind: row for row in context.timings.rows}
    pool, conv = rows["MaxPool 2x2"], rows["Conv 1x1"]
    assert pool.float_apart and pool.integers_apart
    assert conv.float_apart is conv.integers_apart is None


def test_sums_that_would_not_fit_32_bits_with_the_scales_of_the_plan() -> None:
    graph = net("y = Conv (x, w, b)", IMAGE, w=1e-20 * noise(32, 32, 1, 1), b=noise(32))
    context = Context(find_target("ort-cpu"), calibration=known(graph))
    Measure(runs=2).run(graph, context)
    assert context.timings is not None
    assert all(r.in_integers for r in context.timings.rows if r.kind == "Conv 1x1")


def test_variants_of_a_network() -> None:
    graph = residual()
    context = Context(find_target("ort-cpu"), calibration=known(graph))
    units = marked(graph, context)
    found = [
        [node.op for node in each if node.precision == "int8"]
        for each in variants(graph, units, context)
    ]
    assert found == [[], ["Conv", "Relu", "Conv", "Add"], ["Add"], ["Conv", "Relu", "Conv"]]


def test_events_are_scaled_to_a_run_that_is_not_profiled() -> None:
    events = [Event("Conv", (), 110.0), Event("Relu", (), 30.0), Event("Reshape", (), 10.0)]
    assert [event.time for event in as_whole(events, 100.0)] == pytest.approx(
        [100 * 100 / 120, 100 * 20 / 120, 0.0]
    ), "10 of each are the profile's, the rest is scaled"
    assert [event.time for event in as_whole(events, 135.0)] == pytest.approx([105, 25, 5])
    assert [event.time for event in as_whole(events, 300.0)] == pytest.approx([220, 60, 20])


def test_time_goes_to_who_does_the_work() -> None:
    """A sum that is fused into the convolution before it takes no time of its own."""
    units = find_units(residual(), find_target("ort-cpu"))
    assert [unit.node.op for unit in units] == ["Conv", "Conv", "Add", "Erf"]
    shares = Shares.of(
        units,
        [
            Event("ReorderInput", ("Reorder",), 7.0),
            Event("Conv", ("unit0xresult_nchwc",), 100.0),
            Event("Conv", ("unit2x0_nchwc",), 120.0),
            Event("ReorderOutput", ("Reorder_1", "unit2x0"), 5.0),
            Event("Erf", ("unit3x", "y"), 30.0),
            Event("Gather", ("other",), 3.0),
        ],
    )
    assert shares.units == {0: 100.0, 1: 120.0, 3: 30.0}
    assert (shares.between, shares.unknown) == (12.0, 3.0)
    assert str(shares).endswith("5% of it conversions and changes of layout, 1% not attributed")


@pytest.mark.parametrize(
    ("engine", "message"),
    [("", "no engine runs its files"), ("nonesuch", "nonesuch is not installed")],
)
def test_without_the_engine(engine: str, message: str) -> None:
    graph = residual()
    target = replace(find_target("tensorrt"), engine=engine)
    with pytest.raises(UsageError, match=f"'tensorrt' here: {message}"):
        Measure().run(graph, Context(target, calibration=known(graph)))
