"""What quantization left over is gone: double conversions, dead operators, unused data."""

import numpy as np
import onnx
import pytest
from rewriting import apply, net, only, operand, ops

from ptq_opt.ir import Graph, load, save
from ptq_opt.passes.cleanup import Cleanup

GRIDS = {
    "s": np.float32(0.1), "same": np.float32(0.1), "other": np.float32(0.2),
    "z": np.uint8(7), "z_same": np.uint8(7), "z_other": np.uint8(8), "signed": np.int8(7),
    "sc": np.float32([0.1, 0.2, 0.3, 0.4]), "zc": np.uint8([0, 0, 0, 0]), "z0": np.uint8(0),
}  # fmt: skip


def clean(body: str, **more: object) -> Graph:
    graph = net(body, **GRIDS, **more)
    apply(Cleanup(), graph, 0.0)
    return graph


def test_a_round_trip_is_gone() -> None:
    graph = clean(
        "a = QuantizeLinear(x, s, z)\n b = DequantizeLinear(a, s, z)\n"
        "c = QuantizeLinear(b, same, z_same)\n y = DequantizeLinear(c, s, z)"
    )
    assert ops(graph) == ["QuantizeLinear", "DequantizeLinear"]


@pytest.mark.parametrize("grid", ["other, z", "s, z_other", "s, signed", "s"])
def test_a_change_of_grid_stays(grid: str) -> None:
    graph = clean(
        f"a = QuantizeLinear(x, s, z)\n b = DequantizeLinear(a, s, z)\n"
        f"c = QuantizeLinear(b, {grid})\n y = DequantizeLinear(c, {grid})"
    )
    assert len(graph) == 4


def test_a_dequantized_value_with_other_readers_stays_for_them() -> None:
    graph = clean(
        "a = QuantizeLinear(x, s, z)\n b = DequantizeLinear(a, s, z)\n r = Relu(b)\n"
        "c = QuantizeLinear(b, s, z)\n d = DequantizeLinear(c, s, z)\n y = Add(r, d)"
    )
    assert ops(graph) == ["QuantizeLinear", "DequantizeLinear", "Relu", "Add"]


def test_equal_conversions_of_one_value_merge() -> None:
    graph = clean(
        "a = QuantizeLinear(x, s, z)\n b = QuantizeLinear(x, same, z_same)\n"
        "c = DequantizeLinear(a, s, z)\n d = DequantizeLinear(b, s, z)\n e = Relu(d)\n"
        "y = Add(c, e)"
    )
    assert ops(graph) == ["QuantizeLinear", "DequantizeLinear", "Relu", "Add"]


def test_a_zero_point_that_is_left_out_is_zero() -> None:
    graph = clean(
        "a = QuantizeLinear(x, s, z0)\n b = QuantizeLinear(x, s)\n"
        "c = DequantizeLinear(a, s, z0)\n d = DequantizeLinear(b, s)\n y = Sub(c, d)"
    )
    assert ops(graph) == ["QuantizeLinear", "DequantizeLinear", "Sub"]


def test_different_conversions_of_one_value_stay() -> None:
    graph = clean(
        "a = QuantizeLinear(x, s, z)\n b = QuantizeLinear(x, other, z)\n"
        "c = DequantizeLinear(a, s, z)\n d = DequantizeLinear(b, other, z)\n y = Add(c, d)"
    )
    assert len(graph) == 5


@pytest.mark.parametrize(("axis", "count"), [(1, 2), (-3, 2), (0, 4)])
def test_channel_axes_count(axis: int, count: int) -> None:
    graph = net(
        "a = QuantizeLinear <axis = 1> (x, sc, zc)\n b = DequantizeLinear <axis = 1> (a, sc, zc)\n"
        f"c = QuantizeLinear <axis = {axis}> (b, sc, zc)\n"
        f"y = DequantizeLinear <axis = {axis}> (c, sc, zc)",
        "float[4,4] x" if axis == 0 else "float[1,4,6,6] x", **GRIDS,
    )  # fmt: skip
    apply(Cleanup(), graph, 0.0)
    assert len(graph) == count


def test_computed_grids_are_left_alone() -> None:
    graph = net(
        "a = QuantizeLinear(x, t)\n b = DequantizeLinear(a, t)\n c = QuantizeLinear(b, t)\n"
        "y = DequantizeLinear(c, t)",
        "float[3] x, float t",
    )
    apply(Cleanup(), graph)
    assert len(graph) == 4


def test_identities_and_dead_operators_go() -> None:
    graph = clean("a = Exp(x)\n i = Identity(x)\n y = Relu(i)")
    assert ops(graph) == ["Relu"]


def test_a_conversion_that_the_graph_returns_keeps_its_name() -> None:
    graph = net(
        "a = QuantizeLinear(x, s, z)\n b = DequantizeLinear(a, s, z)\n y = QuantizeLinear(b, s, z)",
        outputs="uint8[] y", **GRIDS,
    )  # fmt: skip
    apply(Cleanup(), graph)
    assert ops(graph) == ["QuantizeLinear"]
    assert [output.name for output in save(graph).graph.output] == ["y"]


def test_data_that_nobody_reads_goes() -> None:
    model = save(net("y = Relu(x)"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(9, np.float32), "unread"))
    graph = load(model)
    assert len(save(graph).graph.initializer) == 1
    apply(Cleanup(), graph)
    assert len(save(graph).graph.initializer) == 0


def test_a_second_run_changes_nothing() -> None:
    graph = clean(
        "a = QuantizeLinear(x, s, z)\n b = DequantizeLinear(a, s, z)\n y = Conv(b, w)",
        w=np.ones((2, 4, 1, 1), np.float32),
    )
    version = graph.version
    assert apply(Cleanup(), graph).rewritten == 0
    assert graph.version == version
    assert operand(only(graph, "Conv"), 0).name == "b"
