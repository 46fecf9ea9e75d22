"""The comparison with the float model, against direct computation."""

import math

import numpy as np
import onnx
import pytest
from sessions import exact_session
from small_model import Feeds

from ptq_opt import quantize
from ptq_opt.ir import Graph, Value, load
from ptq_opt.ir.samples import open_samples
from ptq_opt.tools import fidelity
from ptq_opt.tools.fidelity import (
    Noise,
    Reference,
    Tally,
    layer_of,
    sampling,
    stored_as_integers,
)


def sqnr(original: np.ndarray, found: np.ndarray) -> float:
    original, found = original.astype(np.float64), found.astype(np.float64)
    return 10 * math.log10((original**2).sum() / ((original - found) ** 2).sum())


def outputs(model: onnx.ModelProto, names: list[str], samples: list[Feeds]) -> list[np.ndarray]:
    """Values `names` of a model, stacked over samples."""
    model = onnx.shape_inference.infer_shapes(model)
    known = {info.name: info for info in (*model.graph.value_info, *model.graph.output)}
    del model.graph.output[:]
    model.graph.output.extend(known[name] for name in names)
    session = exact_session(model)
    runs = [session.run(None, feeds) for feeds in samples]
    return [np.stack(parts) for parts in zip(*runs, strict=True)]


def test_outputs_are_compared_on_all_held_back_samples(
    model: onnx.ModelProto, samples: list[Feeds]
) -> None:
    result = quantize(model, samples)
    held_back = samples[9::10]  # 3 of 30, evenly spread
    (expected,) = outputs(model, ["y"], held_back)
    (found,) = outputs(result.model, ["y"], held_back)
    (measured,) = result.report.fidelity.outputs
    assert measured.sqnr_db == pytest.approx(sqnr(expected, found), abs=0.01)
    assert measured.equal == np.mean(expected == found)


def test_layers_are_compared_after_their_grid(model: onnx.ModelProto, samples: list[Feeds]) -> None:
    result = quantize(model, samples[:3], passes="calibrate,quant")  # too few to hold any back
    layers = {layer.tensor: layer for layer in result.report.fidelity.layers}
    tensors = ["r1", "c2"] if "c2" in layers else ["r1", "sum"]
    expected = outputs(model, tensors, samples[:3])
    found = outputs(result.model, [f"{name}_dequantized" for name in tensors], samples[:3])
    for name, a, b in zip(tensors, expected, found, strict=True):
        assert layers[name].sqnr_db == pytest.approx(sqnr(a, b), abs=0.3)
    assert layers["r1"].node == "Conv 'first'"
    second = layers[tensors[1]]
    assert second.before_db == layers["r1"].sqnr_db
    assert second.noise == pytest.approx(
        10 ** (-second.sqnr_db / 10) - 10 ** (-second.before_db / 10), abs=1e-9
    )


def test_a_part_of_the_elements_stands_for_all(
    model: onnx.ModelProto, samples: list[Feeds], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fidelity, "ELEMENTS", 1 << 30)
    every = quantize(model, samples).report.fidelity.layers
    monkeypatch.setattr(fidelity, "ELEMENTS", 1 << 10)
    some = quantize(model, samples).report.fidelity.layers
    assert [layer.tensor for layer in some] == [layer.tensor for layer in every]
    assert len(every) > 2
    for a, b in zip(some, every, strict=True):
        assert a.sqnr_db == pytest.approx(b.sqnr_db, abs=0.5)


@pytest.mark.parametrize(("elements", "step"), [(1 << 30, 1), (1600, 1), (1536, 3), (100, 31)])
def test_sampling_takes_every_kth_element(
    model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, elements: int, step: int
) -> None:
    monkeypatch.setattr(fidelity, "ELEMENTS", elements)
    graph = load(model)
    x = np.arange(3 * 32 * 32, dtype=np.float32).reshape(1, 3, 32, 32)
    (found,) = sampling(graph, [graph.find("x")]).run({"x": x})
    assert found.tolist() == list(range(0, x.size, step))


def test_what_rescales_inner_tensors_is_no_noise(
    model: onnx.ModelProto, samples: list[Feeds]
) -> None:
    """Layers are compared with the graph that calibration saw, not with the source."""
    graph = load(model)
    reference = Reference(graph, open_samples(samples[:2], graph.inputs), unseen=True)
    first, second = graph.order()[0], graph.order()[2]
    for node, slot, factor in ((first, 1, 8.0), (first, 2, 8.0), (second, 1, 0.125)):
        weights = node.inputs[slot]
        graph.set_input(node, slot, graph.constant(weights.numpy() * np.float32(factor)))
    reference.remember(graph)
    (before,) = outputs(model, ["r1"], samples[:2])
    result = graph.order()[1].output
    for reader, slot in list(result.uses):
        graph.set_input(reader, slot, through_grid(graph, result, 8 * before.max()))
    (layer,) = reference.compare(graph).layers
    assert (layer.tensor, layer.before_db) == ("r1", 120)
    assert layer.sqnr_db > 35


def test_clipped_elements_are_counted(
    model: onnx.ModelProto, samples: list[Feeds], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fidelity, "ELEMENTS", 1 << 30)  # all, and no sample of them
    graph = load(model)
    reference = Reference(graph, open_samples(samples[:2], graph.inputs), unseen=True)
    reference.remember(graph)
    (values,) = outputs(model, ["r1"], samples[:2])
    limit = float(np.quantile(values, 0.99))
    result = graph.order()[1].output
    for reader, slot in list(result.uses):
        graph.set_input(reader, slot, through_grid(graph, result, limit))
    (layer,) = reference.compare(graph).layers
    assert layer.clipped == pytest.approx(np.mean(values > limit * 255.5 / 255), abs=1e-6)
    assert 0.005 < layer.clipped < 0.011


def through_grid(graph: Graph, value: Value, largest: float) -> Value:
    scale, zero = graph.constant(np.float32(largest / 255)), graph.constant(np.uint8(0))
    integers = graph.add("QuantizeLinear", [value, scale, zero], like=value.producer).output
    result = graph.add("DequantizeLinear", [integers, scale, zero], like=value.producer).output
    result.origin, result.dtype = value.origin, value.dtype
    return result


def test_noise_ignores_what_was_not_finite() -> None:
    noise = Noise()
    noise.add(np.array([3, np.inf, 4], np.float32), np.array([3, 0, 5], np.float32))
    assert noise.db == pytest.approx(10 * math.log10(25))
    noise.add(np.array([1], np.float32), np.array([np.nan], np.float32))
    assert noise.db == -120


def test_equal_tensors_are_exact() -> None:
    same = Noise()
    same.add(np.ones(3, np.float32), np.ones(3, np.float32))
    assert same.db == 120


def test_shapes_that_depend_on_the_data_are_not_compared() -> None:
    tally = Tally()
    tally.add(np.ones(3, np.float32), np.ones(3, np.float32))
    tally.add(np.ones(3, np.float32), np.ones(4, np.float32))
    assert (tally.sqnr_db, tally.equal / tally.size) == (None, 0.5)


def test_integers_are_counted_when_equal() -> None:
    tally = Tally()
    tally.add(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]))
    assert (tally.equal, tally.size, tally.is_float) == (3, 4, False)


def test_a_tensor_belongs_to_the_layer_it_comes_from(model: onnx.ModelProto) -> None:
    graph = load(model)
    assert layer_of(graph.find("r1")).name == "first"
    assert layer_of(graph.find("sum")).name == "shortcut"
    assert layer_of(graph.find("flat")).name == "flatten"  # Add has two activations
    assert stored_as_integers(graph, graph) == {}


def test_large_outputs_are_compared_on_fewer_samples(
    model: onnx.ModelProto, samples: list[Feeds], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fidelity, "OUTPUT_BYTES", 2 * 5 * 4)  # of two samples
    assert quantize(model, samples[:8]).report.fidelity.samples == 3


def test_integer_operators_hide_layers_but_not_outputs(
    model: onnx.ModelProto, samples: list[Feeds]
) -> None:
    report = quantize(model, samples, passes="quant{format=qoperator}").report
    assert report.fidelity.layers == []
    assert "format=qdq" in report.fidelity.missing
    assert report.fidelity.outputs[0].sqnr_db > 20


def test_a_result_that_does_not_run_is_told(model: onnx.ModelProto, samples: list[Feeds]) -> None:
    graph = load(model)
    reference = Reference(graph, open_samples(samples[:2], graph.inputs), unseen=True)
    result = graph.order()[-1].output
    graph.set_outputs([graph.add("Strange", [result], domain="mine").output], ["y"])
    found = reference.compare(graph)
    assert "Strange" in found.missing
    assert (found.samples, found.outputs, found.layers) == (2, [], [])


def test_half_precision_is_summed_in_single() -> None:
    noise = Noise()
    noise.add(np.full(100_000, 8, np.float16), np.full(100_000, 7, np.float16))
    assert noise.db == pytest.approx(20 * math.log10(8))
