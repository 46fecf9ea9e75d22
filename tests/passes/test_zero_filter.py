"""Dead filters, huge biases, tiny multipliers: scales stay sane and outputs right."""

import numpy as np
import pytest
from rewriting import net, noise, operand

from ptq_opt.ir import DType, Graph, grid
from ptq_opt.ir.evaluate import Runner
from ptq_opt.ir.target import find_target
from ptq_opt.passes import Context
from ptq_opt.passes.quant import write_qdq
from ptq_opt.passes.zero_filter import ZeroFilter, adjusted_scales

TARGET = find_target("ort-cpu")
STEP = 5 / 255


def filters(dead: float, *, everything: bool = False, bias: float = -1.2157) -> Graph:
    """A padded convolution whose filter 1 (or all) holds `dead`; x in -3..3, y in -2.5..2.5."""
    weights = noise(4, 2, 3, 3)
    weights[slice(None) if everything else 1] = dead
    biases = np.full(4, bias, np.float32)
    graph = net("y = Conv <pads = [1,1,1,1]> (x, w, b)", "float[1,2,5,5] x", w=weights, b=biases)
    graph.order()[0].precision = "int8"
    graph.inputs[0].quant = grid(-3, 3, DType.UINT8)
    graph.outputs[0].quant = grid(-2.5, 2.5, DType.UINT8)
    low, high = weights.min((1, 2, 3)), weights.max((1, 2, 3))
    graph.find("w").quant = grid(low, high, DType.INT8, symmetric=True, axis=0)
    return graph


def adjust(graph: Graph) -> Context:
    context = Context(TARGET)
    ZeroFilter().run(graph, context)
    return context


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("dead", [0.0, -0.0, 1e-45, 1e-30, 1e-8])
def test_a_dead_filter_gives_its_bias_everywhere(dead: float, everything: bool) -> None:
    graph = filters(dead, everything=everything)
    context = adjust(graph)
    info = graph.find("w").quant
    assert info is not None
    assert np.isfinite(info.scale).all() and (info.scale > 0).all()
    assert any("dead filters" in note for note in context.report.notes)
    write_qdq(graph, TARGET)
    feeds = {"x": noise(1, 2, 5, 5).clip(-3, 3)}
    for optimize in (False, True):
        found = Runner(graph, optimize=optimize).run(feeds)[0][:, 1]
        assert np.abs(found - -1.2157).max() <= STEP / 2 * 1.01


def test_a_small_live_filter_keeps_its_levels() -> None:
    """A floor of 1 % of the layer's maximum would leave it 12 of 127 levels."""
    graph = filters(0.0)
    weights = graph.find("w")
    data = weights.numpy().copy()
    data[1] = 1e-3 * noise(2, 3, 3)
    weights.const = graph.constant(data).const
    others = (1, 2, 3)
    weights.quant = grid(data.min(others), data.max(others), DType.INT8, symmetric=True, axis=0)
    before = weights.quant.scale.copy()
    graph.outputs[0].quant = grid(-0.01, 0.01, DType.UINT8)
    graph.set_input(graph.order()[0], 2, graph.constant(np.zeros(4, np.float32)))
    adjust(graph)
    np.testing.assert_array_equal(weights.quant.scale, before)


def test_a_bias_too_large_for_the_weights_widens_their_grid() -> None:
    graph = filters(1e-4, bias=1e5)
    graph.outputs[0].quant = grid(-1e-6, 1e-6, DType.UINT8)
    adjust(graph)
    info, data = graph.find("w").quant, graph.inputs[0].quant
    assert info and data
    steps = 1e5 / (data.scale.astype(np.float64) * info.scale.astype(np.float64))
    assert (steps <= 2**30 * 1.001).all()


def test_a_multiplier_out_of_range_is_reported() -> None:
    graph = filters(1.0)
    graph.outputs[0].quant = grid(-1e-6, 1e-6, DType.UINT8)
    assert any("its multiplier exceeds 2^8" in note for note in adjust(graph).report.notes)


def test_scales_never_fall() -> None:
    scale = np.array([0.1, 0.2], np.float32)
    alive = np.zeros(2, bool)
    new = adjusted_scales(scale, np.array([12.7, 25.4]), alive, np.zeros(2), 0.05, None)
    np.testing.assert_array_equal(new, scale)


def test_a_tensor_scale_makes_room_for_the_largest_bias() -> None:
    scale = np.array(1e-9, np.float32)
    new = adjusted_scales(scale, np.array(1e-7), np.array(False), np.array([1.0, 3.0]), 0.05, None)
    assert new.shape == ()
    assert float(new) == pytest.approx(3.0 / (0.05 * 2**30))


def test_float_layers_are_left_alone() -> None:
    graph = filters(0.0)
    graph.order()[0].precision = "float"
    assert adjust(graph).report.matched == 0
    assert operand(graph.order()[0], 1).quant is not None
