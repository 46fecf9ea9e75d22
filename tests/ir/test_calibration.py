"""Ranges learned from samples, against numpy on the fetched activations."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ptq_opt.ir import DataError, DType, Graph, UsageError, Value, load
from ptq_opt.ir.calibration import METHODS, calibrate
from ptq_opt.ir.evaluate import Runner
from ptq_opt.ir.observers import non_negative
from ptq_opt.ir.samples import open_samples

Feeds = dict[str, np.ndarray]


def network(opset: int = 21) -> Graph:
    """Convolution, Relu, shortcut, pooling, Gemm; batch, height and width are open."""
    rng = np.random.default_rng(3)
    graph = Graph()
    graph.info.opsets[""] = opset
    x = graph.input("x", DType.FLOAT, ("N", 3, "H", "W"))

    def convolve(name: str, value: Value, *shape: int) -> Value:
        weight = graph.constant(rng.standard_normal(shape).astype(np.float32), f"{name}_w")
        out = Value(name)
        graph.add("Conv", [value, weight], {"pads": [1] * 4}, [out], name=name)
        return out

    def apply(op: str, *values: Value, **attrs: Any) -> Value:
        out = Value(op.lower())
        graph.add(op, values, attrs, [out], name=op.lower())
        return out

    relu = apply("Relu", convolve("first", x, 8, 3, 3, 3))
    total = apply("Add", relu, convolve("second", relu, 8, 8, 3, 3))
    pooled = apply("Flatten", apply("GlobalAveragePool", total))
    weight = graph.constant(rng.standard_normal((8, 5)).astype(np.float32), "gemm_w")
    graph.set_outputs([apply("Gemm", pooled, weight)], ["y"])
    return graph


def feeds(n: int, size: int = 6, batch: int = 1) -> list[Feeds]:
    rng = np.random.default_rng(4)
    shape = (batch, 3, size, size)
    return [{"x": (k + 1) * rng.standard_normal(shape).astype(np.float32)} for k in range(n)]


def every_value(graph: Graph) -> list[Value]:
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]


def fetched(graph: Graph, samples: list[Feeds]) -> Iterator[tuple[Value, list[np.ndarray]]]:
    """Each value with its arrays, one per sample."""
    values = every_value(graph)
    runner = Runner(graph, values)
    yield from zip(
        values, zip(*(runner.run(sample) for sample in samples), strict=True), strict=True
    )


def floor(value: Value, graph: Graph, low: Any) -> Any:
    """The lowest value as it is reported: 0 where nothing can be negative."""
    return np.zeros_like(low) if value in non_negative(graph) else low


@pytest.mark.parametrize("opset", [11, 17, 21])
@pytest.mark.parametrize("batch", [1, 2])
def test_extremes_and_means_agree_with_numpy(opset: int, batch: int) -> None:
    graph, samples = network(opset), feeds(3, batch=batch)
    found = calibrate(graph, samples, every_value(graph))
    extremes = calibrate(graph, samples, every_value(graph), method="min-max")
    assert found.samples == 3 and len(found.ranges) == 8
    for value, arrays in fetched(graph, samples):
        low = floor(value, graph, [array.min() for array in arrays])
        high = [array.max() for array in arrays]
        known = found[value]
        np.testing.assert_allclose(known.low, np.mean(low), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(known.high, np.mean(high), rtol=1e-5)
        np.testing.assert_allclose(known.mean, np.mean(arrays), rtol=1e-4, atol=1e-5)
        for ends in (known, extremes[value]):
            np.testing.assert_allclose(ends.seen_low, np.min(low), rtol=1e-5)
            np.testing.assert_allclose(ends.seen_high, np.max(high), rtol=1e-5)
        assert (extremes[value].low, extremes[value].high) == (known.seen_low, known.seen_high)
        assert known.low.shape == () and known.low.dtype == np.float64


@pytest.mark.parametrize("method", ["mean-max", "percentile"])
@pytest.mark.parametrize("batch", [1, 2])
def test_channels_agree_with_numpy(method: str, batch: int) -> None:
    graph, samples = network(), feeds(2, batch=batch)
    for value in every_value(graph):
        value.shape = None  # has to be inferred
    graph.inputs[0].shape = ("N", 3, 6, 6)
    found = calibrate(graph, samples, every_value(graph), channel_axis=1, method=method)
    for value, arrays in fetched(graph, samples):
        rows = [np.moveaxis(array, 1, 0).reshape(array.shape[1], -1) for array in arrays]
        low, high = (np.stack([end(row, axis=1) for row in rows]) for end in (np.min, np.max))
        if method == "mean-max":
            low = floor(value, graph, low)
        known = found.per_channel(value)
        assert known is not None and known.low.shape == (arrays[0].shape[1],)
        np.testing.assert_allclose(known.seen_low, low.min(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(known.seen_high, high.max(axis=0), rtol=1e-5)
        mean = np.mean([row.mean(axis=1) for row in rows], axis=0)
        np.testing.assert_allclose(known.mean, mean, rtol=1e-4, atol=1e-5)
        if method == "mean-max":
            np.testing.assert_allclose(known.low, low.mean(axis=0), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(known.high, high.mean(axis=0), rtol=1e-5)
            assert found[value].seen_high == known.seen_high.max()


def test_channels_only_where_asked_for() -> None:
    graph, samples = network(), feeds(1)
    x, relu = graph.inputs[0], graph.find("relu")
    found = calibrate(graph, samples, [x, relu], channel_axis={relu: -3})
    assert found.per_channel(x) is None
    known = found.per_channel(relu)
    assert known is not None and known.high.shape == (8,)
    assert list(calibrate(graph, samples, [x], channel_axis=2).channels) == []  # "H" channels


@pytest.mark.parametrize("percent", [99.0, 90.0])
def test_percentiles_are_those_of_all_elements(percent: float) -> None:
    graph, samples = network(), feeds(3, size=20)
    values = every_value(graph)
    found = calibrate(graph, samples, values, method="percentile", percent=percent)
    for value, arrays in fetched(graph, samples):
        elements = np.concatenate([array.ravel() for array in arrays])
        if elements.size < 1000:
            continue  # too few for what follows
        out, bin_width = round((100 - percent) / 100 * elements.size), np.ptp(elements) / 2000
        low, high = found[value].low, found[value].high
        assert np.sum(elements < low - bin_width) <= out <= np.sum(elements < low + bin_width)
        assert np.sum(elements > high + bin_width) <= out <= np.sum(elements > high - bin_width)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_stays_within_what_was_seen(method: str) -> None:
    graph, samples = network(), feeds(2)
    found = calibrate(graph, samples, every_value(graph), method=method, channel_axis=1)
    assert found.method == method
    for known in (*found.ranges.values(), *found.channels.values()):
        assert (np.minimum(known.seen_low, 0) <= known.low).all()
        assert (known.low <= known.high).all()
        assert (known.high <= np.maximum(known.seen_high, 0)).all()


def test_methods_that_clip_do_so_only_where_it_pays() -> None:
    graph = Graph()
    x = graph.input("x", DType.FLOAT, ("n",))
    graph.set_outputs([graph.add("Neg", [x]).output], ["y"])
    data = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    data[0] = 40

    def span(method: str, dtype: DType) -> float:
        found = calibrate(graph, [{"x": data}], [x], method=method, dtype=dtype)[x]
        return float(found.high - found.low)

    assert span("min-max", DType.INT8) > 43
    assert span("mse", DType.INT8) > 40  # the outlier's error would weigh more than all others'
    assert span("mse", DType.INT4) < 20
    for method in ("entropy", "aciq"):
        assert span(method, DType.INT8) < 20


# -- which values ----------------------------------------------------------------------------------


def test_a_range_is_kept_under_the_name_of_the_original_tensor() -> None:
    graph = network()
    relu = graph.find("relu")
    relu.name = "renamed"
    assert relu.origin == "relu"
    assert list(calibrate(graph, feeds(1), [relu]).ranges) == ["relu"]


def test_unnamed_values_and_nodes_can_be_observed() -> None:
    graph = network()
    add = graph.find("add")
    before = calibrate(graph, feeds(2), [add])[add]
    for node in graph:
        node.name = ""
        if node.output is not graph.outputs[0]:
            node.output.name = ""
    assert calibrate(graph, feeds(2), [add])[add].high == before.high


def test_what_is_no_activation_of_real_numbers_is_left_out() -> None:
    graph = network()
    relu = graph.find("relu")
    shape = graph.add("Shape", [relu])
    weight = next(v for v in graph.values() if v.const is not None)
    foreign = network().find("relu")
    body = Value("inside", DType.FLOAT, (1,))
    values = [shape.output, weight, foreign, body, relu]
    graph.set_outputs([*graph.outputs, shape.output], ["y", "shape"])
    assert list(calibrate(graph, feeds(1), values).ranges) == ["relu"]


def test_nothing_to_observe_runs_nothing() -> None:
    assert calibrate(network(), iter(()), []).ranges == {}


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.DOUBLE, DType.BFLOAT16])
def test_other_widths_of_reals(dtype: DType) -> None:
    graph = Graph()
    x = graph.input("x", DType.FLOAT, (4, 5, 5))
    cast = graph.add("Cast", [x], {"to": int(dtype)}).output
    cast.origin = "cast"
    graph.set_outputs([graph.add("Cast", [cast], {"to": int(DType.FLOAT)}).output], ["y"])
    data = np.random.default_rng(0).standard_normal((4, 5, 5)).astype(np.float32) * 100
    rounded = data.astype(dtype.numpy).astype(np.float32)
    found = calibrate(graph, [{"x": data}], [cast])[cast]
    assert (found.low, found.high) == (rounded.min(), rounded.max())


def test_a_tensor_that_is_empty_in_some_samples_counts_in_the_others() -> None:
    graph = Graph()
    x = graph.input("x", DType.FLOAT, ("n", 2))
    relu = graph.add("Relu", [x]).output
    relu.origin = "relu"
    graph.set_outputs([relu], ["y"])
    empty, full = np.zeros((0, 2), np.float32), np.array([[-1, 3]], np.float32)
    for method in ("mean-max", "mse"):
        found = calibrate(graph, [{"x": s} for s in (empty, full, empty)], [x, relu], method=method)
        assert (found[x].seen_low, found[x].seen_high, found[x].samples) == (-1, 3, 1)
        assert found[relu].seen_high == 3
        assert calibrate(graph, [{"x": empty}], [x], method=method).ranges == {}


def test_a_tensor_without_channels_is_empty() -> None:
    """Which ONNX Runtime's pooling, used to reduce feature maps, would refuse."""
    graph = Graph()
    x = graph.input("x", DType.FLOAT, (2, 0, 4))
    graph.set_outputs([graph.add("Neg", [x]).output], ["y"])
    assert calibrate(graph, [{"x": np.zeros((2, 0, 4), np.float32)}], [x]).ranges == {}


def test_shapes_may_differ_between_samples() -> None:
    graph = network()
    samples = feeds(1, size=6) + feeds(1, size=9)
    found = calibrate(graph, samples, every_value(graph), channel_axis=1)
    assert all(known.samples == 2 for known in found.ranges.values())


# -- values that cannot be negative ----------------------------------------------------------------


def test_non_negative_values_are_known_by_their_operators() -> None:
    graph = Graph()
    x = graph.input("x", DType.FLOAT, (1, 4, 6, 6))

    def add(op: str, *inputs: Value | None, **attrs: Any) -> Value:
        return graph.add(op, inputs, attrs).output

    zero, six = (graph.constant(np.array(v, np.float32)) for v in (0, 6))
    minus = graph.constant(np.array([-1, 1], np.float32))
    relu, clip = add("Relu", x), add("Clip", x, zero, six)
    pool = add("MaxPool", relu, kernel_shape=[2, 2])
    positive = [
        relu,
        clip,
        pool,
        add("Sigmoid", x),
        add("Add", relu, clip),
        add("Mul", relu, six),
        add("Concat", relu, clip, axis=1),
        add("Clip", x, min=0.0),
    ]
    negative = [
        add("Add", relu, x),
        add("Mul", relu, minus),
        add("Clip", x, None, six),
        add("Clip", x),
        add("Clip", x, x, six),
        add("Sub", relu, clip),
        add("Relu", x),
    ]
    assert negative[-1].producer is not None
    negative[-1].producer.domain = "somebody.else"
    known = non_negative(graph)
    assert [value in known for value in positive] == [True] * len(positive)
    assert [value in known for value in negative] == [False] * len(negative)


# -- errors ----------------------------------------------------------------------------------------


def with_root() -> tuple[Graph, list[Value]]:
    """x -> Sqrt 'root' -> Relu 'rectified' -> Max with 0: NaN for negative x, unseen at the end."""
    graph = Graph()
    x = graph.input("x", DType.FLOAT, ("n",))
    root, rectified, out = Value("r"), Value("p"), Value("y")
    graph.add("Sqrt", [x], {}, [root], name="root")
    graph.add("Relu", [root], {}, [rectified], name="rectified")
    graph.add("Max", [rectified, graph.constant(np.zeros(1, np.float32))], {}, [out])
    graph.set_outputs([out], ["y"])
    return graph, [x, root, rectified, out]


@pytest.mark.parametrize("method", ["mean-max", "entropy"])
def test_not_a_number_is_traced_to_its_operator_and_sample(method: str) -> None:
    graph, values = with_root()
    samples = [{"x": np.array([1, 2], np.float32)}, {"x": np.array([1, -2], np.float32)}]
    with pytest.raises(DataError, match=r"sample 1 .*'r', computed by Sqrt 'root'"):
        calibrate(graph, samples, values, method=method)


def test_an_unnamed_culprit_is_named_by_its_operator() -> None:
    graph, values = with_root()
    values[1].name = ""
    with pytest.raises(DataError, match=r"computed by Sqrt 'root'"):
        calibrate(graph, [{"x": np.array([-1], np.float32)}], values)


@pytest.mark.parametrize("method", ["mean-max", "entropy"])
@pytest.mark.parametrize("end", [np.inf, -np.inf])
def test_infinity_is_traced_to_its_operator(method: str, end: float) -> None:
    graph = Graph()
    x = graph.input("x", DType.FLOAT, ("n",))
    big, out = Value("big"), Value("y")
    factor = graph.constant(np.array(np.sign(end) * 1e38, np.float32))
    graph.add("Mul", [x, factor], {}, [big], name="blow-up")
    graph.add("Neg", [big], {}, [out])
    graph.set_outputs([out], ["y"])
    with pytest.raises(DataError, match=r"sample 0 .*'big', computed by Mul 'blow-up'"):
        calibrate(graph, [{"x": np.array([1, 100], np.float32)}], [out], method=method)


def test_an_unknown_method_and_missing_samples_are_refused() -> None:
    graph = network()
    with pytest.raises(UsageError, match="'max-mean': use mean-max"):
        calibrate(graph, feeds(1), every_value(graph), method="max-mean")
    with pytest.raises(DataError, match="no calibration samples"):
        calibrate(graph, [], every_value(graph))


# -- a real model ----------------------------------------------------------------------------------


def test_example_model_with_its_samples(request: pytest.FixtureRequest) -> None:
    folder = request.config.rootpath / "tests/data/crepe_tiny"
    graph = load(folder / "model.onnx")
    samples = open_samples(folder / "calib", graph.inputs, limit=3)
    values = every_value(graph)
    steps: list[int] = []
    found = calibrate(graph, samples, values, progress=steps.append)
    assert sum(steps) == 3
    checked = 0
    for value, arrays in fetched(graph, list(samples)):
        if value in found:
            high = np.mean([array.max() for array in arrays])
            assert found[value].high == pytest.approx(high, rel=1e-4)
            checked += 1
    assert checked > 20
