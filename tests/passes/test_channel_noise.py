"""The predicted errors of a region, compared with errors that are made."""

import dataclasses

import numpy as np
import pytest
from rewriting import net, noise

from ptq_opt.ir import DType, Graph, grid
from ptq_opt.ir.evaluate import Runner
from ptq_opt.ir.target import GridRule, Target, find_target
from ptq_opt.ir.tensor import Array
from ptq_opt.passes.align import observed_axes
from ptq_opt.passes.channel_data import POSITIONS, collect
from ptq_opt.passes.channel_noise import COHERENCE, RegionNoise, sensitivity
from ptq_opt.passes.regions import find_channels

BASE = find_target("ort-cpu")
FINE = GridRule(DType.INT16, symmetric=True)
ONLY_ACTIVATIONS = dataclasses.replace(BASE, weights=dataclasses.replace(FINE, per_channel=True))
ONLY_WEIGHTS = dataclasses.replace(BASE, activations=FINE)
ONE_GRID = dataclasses.replace(ONLY_WEIGHTS, weights=GridRule(symmetric=True))

SAMPLES = [
    {"x": np.random.default_rng(k).standard_normal((1, 4, 8, 8)).astype(np.float32)}
    for k in range(32)
]


def chain() -> Graph:
    return net(
        "c = Conv (x, w, b)\nr = Relu (c)\ny = Conv (r, v)", "float[1,4,8,8] x",
        w=noise(16, 4, 1, 1), b=noise(16), v=noise(8, 16, 1, 1),
    )  # fmt: skip


def predict(graph: Graph, target: Target) -> tuple[RegionNoise, float]:
    """The noise of the only region, and the energy of its only reader's output."""
    channels = find_channels(graph, "scale")
    (region,) = channels.regions
    axes = observed_axes(channels, target)
    data = collect(graph, axes, SAMPLES, lambda _: None)
    readers = sensitivity(channels, data)
    signal = readers.signal[region.consumers[0]]
    return RegionNoise(channels, region, data, readers, target), signal


def neutral(region: RegionNoise) -> tuple[Array, Array]:
    count = len(region.channels.label)
    return np.ones(count), np.zeros(count)


def activations(graph: Graph) -> Array:
    """What the second convolution reads, [positions, channels]."""
    runner = Runner(graph, [graph.find("r")])
    found = np.concatenate([runner.run(feeds)[0] for feeds in SAMPLES])
    return np.moveaxis(found, 1, -1).reshape(-1, 16).astype(np.float64)


def test_rounding_of_activations() -> None:
    graph = chain()
    region, signal = predict(graph, ONLY_ACTIVATIONS)
    r, v = activations(graph), graph.find("v").numpy()[:, :, 0, 0]
    error = (grid(0.0, r.max(), DType.UINT8).fake(r) - r) @ v.T
    found = region(*neutral(region))[1] * signal
    assert found == pytest.approx(np.square(error).sum(axis=1).mean(), rel=0.3)


@pytest.mark.parametrize("target", [ONLY_WEIGHTS, ONE_GRID])
def test_rounding_of_weights(target: Target) -> None:
    graph = chain()
    region, signal = predict(graph, target)
    r, v = activations(graph), graph.find("v").numpy()[:, :, 0, 0]
    reach = np.abs(v).max(axis=1) if target.weights.per_channel else np.abs(v).max()
    axis = 0 if target.weights.per_channel else None
    error = r @ (grid(-reach, reach, DType.INT8, symmetric=True, axis=axis).fake(v) - v).T
    alone = sum(float(rows.noise(neutral(region)[0], np.square(r).mean(0), target).sum())
                for rows in region.read)  # fmt: skip
    assert alone == pytest.approx(np.square(error).sum(axis=1).mean(), rel=0.5)
    found = region(*neutral(region))[1] * signal / COHERENCE
    if target.weights.per_channel:  # the first layer's do not depend on the factors
        assert found == pytest.approx(alone, rel=0.01)
    else:
        assert found > 1.2 * alone


def test_errors_reach_all_readers_of_a_sum() -> None:
    graph = net(
        "c = Conv (x, w)\ne = Conv (x, u)\nm = Add (c, e)\ny = Conv (m, v)\nz = Conv (c, t)",
        "float[1,4,8,8] x", "float[] y, float[] z",
        w=noise(2, 4, 1, 1), u=noise(2, 4, 1, 1, seed=1), v=noise(3, 2, 1, 1), t=noise(3, 2, 1, 1),
    )  # fmt: skip
    channels = find_channels(graph, "scale")
    data = collect(graph, observed_axes(channels, BASE), SAMPLES, lambda _: None)
    readers = sensitivity(channels, data)
    of = {name: readers.of[channels.of[graph.find(name)].ravel()] for name in "cem"}
    np.testing.assert_allclose(of["e"], of["m"])
    assert np.all(of["c"] > of["m"]), "one reader more"


def test_factors_undo_what_weights_do() -> None:
    """A region that was rescaled by s has the noise that factors s predict."""
    graph, other = chain(), chain()
    region, _ = predict(graph, BASE)
    spread = np.geomspace(0.5, 2, 16)
    factors, amounts = neutral(region)
    factors[region.channels.of[graph.find("r")].ravel()] = spread
    column = spread[:, None, None, None]
    for name, array in (("w", 1 / column), ("b", 1 / spread), ("v", column.reshape(1, 16, 1, 1))):
        value = other.find(name)
        constant = other.constant((value.numpy() * array).astype(np.float32), name)
        other.set_input(*next(iter(value.uses)), constant)
    rescaled, _ = predict(other, BASE)
    np.testing.assert_allclose(region(factors, amounts), rescaled(*neutral(rescaled)), rtol=2e-2)


def test_data_of_channels() -> None:
    graph = chain()
    value = graph.find("r")
    found = collect(graph, {value: 1}, SAMPLES[:3], lambda _: None)[value]
    each = np.stack([Runner(graph, [value]).run(feeds)[0][0] for feeds in SAMPLES[:3]])
    np.testing.assert_allclose(found.low, each.min(axis=(2, 3)))
    np.testing.assert_allclose(found.high, each.max(axis=(2, 3)))
    assert found.elements.shape[:2] == (3, 16) and found.elements.shape[2] <= POSITIONS
    for channel in range(16):
        assert np.isin(found.elements[0, channel], each[0, channel]).all()
