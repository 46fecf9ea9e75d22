"""The pass `round`: what it promises of layers and models, and where it leaves them alone."""

import dataclasses

import numpy as np
import pytest
from rewriting import net, noise
from small_nets import NETS, Feeds, Net, data_for, plan

from ptq_opt.ir import DType, Graph
from ptq_opt.ir.clone import clone
from ptq_opt.ir.evaluate import Runner, signal_to_noise
from ptq_opt.ir.samples import open_samples, random_samples
from ptq_opt.ir.target import Target, find_target
from ptq_opt.ir.tensor import Array
from ptq_opt.ir.verify import verify
from ptq_opt.passes import Context, Pipeline, Report
from ptq_opt.passes.layers import find_layers
from ptq_opt.passes.quant import write_qdq
from ptq_opt.passes.reconstruct import (
    DAMPING,
    Data,
    Rounded,
    damping_for,
    quadratic,
    reconstruct,
    settled,
)
from ptq_opt.passes.round import Round, grid_of, shortcut
from ptq_opt.passes.rounding import Steps, descend
from ptq_opt.passes.saturate import filters, overflows

ORT = find_target("ort-cpu")


def fidelity(original: Graph, graph: Graph, samples: list[Feeds], target: Target = ORT) -> float:
    """SQNR of the first output of `graph` as it is deployed, against `original` in float."""
    copy = clone(graph)[0]
    write_qdq(copy, target)
    real, found = Runner(original), Runner(copy)
    pairs = [(real.run(feeds)[0], found.run(feeds)[0]) for feeds in samples]
    return signal_to_noise(np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs]))


def alike(graph: Graph, count: int) -> list[Feeds]:
    """Samples whose channels and neighbours go together, as those of real data do."""
    shape = [d if isinstance(d, int) else 2 for d in graph.inputs[0].shape or ()]
    rng = np.random.default_rng(5)
    mix = rng.standard_normal((shape[1], 2))

    def sample() -> Array:
        few = np.abs(rng.standard_normal((shape[0], 2, *shape[2:]))).cumsum(-1) / shape[-1] ** 0.5
        noisy = np.einsum("cl,nl...->nc...", mix, few) + 0.1 * rng.standard_normal(shape)
        return noisy.astype(np.float32)

    return [{graph.inputs[0].name: sample()} for _ in range(count)]


@pytest.mark.parametrize("name", [n for n in NETS if n != "transposed"])
def test_a_model_gains(name: str) -> None:
    graph = NETS[name]()
    samples = alike(graph, 200)
    plan(graph, samples[:8])
    original = clone(graph)[0]
    before = fidelity(original, graph, samples)
    context = Context(ORT, samples=open_samples(samples, graph.inputs))
    Round(samples=200, places=2000).run(graph, context)
    verify(graph)
    assert context.report.matched > 0 and "kept" in context.report.notes[0]
    assert fidelity(original, graph, samples) > before + 2


@pytest.mark.parametrize(
    ("weights", "activations"),
    [
        ("int4", "uint8"), ("uint4", "none"), ("int4:block=4", "uint8"), ("int2", "int16"),
        ("int4:per-tensor", "none"),
    ],
)  # fmt: skip
def test_few_bits(weights: str, activations: str) -> None:
    target = ORT.storing(weights, activations)
    graph = net(
        """
        a = Conv <pads = [1,1,1,1]> (x, w, b)
        r = Relu(a)
        y = Conv <pads = [1,1,1,1], group = 8> (r, v)""",
        "float[1,8,8,8] x", w=noise(8, 8, 3, 3), b=noise(8), v=noise(8, 1, 3, 3, seed=4),
    )  # fmt: skip
    samples = alike(graph, 160)
    context = Context(target, samples=open_samples(samples, graph.inputs))
    Pipeline("plan,zero-filter,saturate").run(graph, context)
    original = clone(graph)[0]
    nearest = fidelity(original, graph, samples, target)
    Pipeline("round").run(graph, context)
    verify(graph)
    assert fidelity(original, graph, samples, target) > nearest + 2
    info = graph.find("w").quant
    assert info is not None and info.dtype is DType[weights.partition(":")[0].upper()]
    assert not np.array_equal(
        info.stored(graph.find("w").numpy()), info.quantize(graph.find("w").numpy())
    )
    assert info.scale.shape == {"int4:per-tensor": (), "int4:block=4": (8, 2, 3, 3)}.get(
        weights, (8,)
    )


def test_weights_in_float_are_left_alone() -> None:
    graph = NETS["chain"]()
    samples = data_for(graph, 4)
    context = Context(ORT, samples=open_samples(samples, graph.inputs))
    Round().run(graph, context)
    assert context.report.notes == ["no layer has weights to round"]
    assert all(value.quant is None for value in graph.values())


def test_shared_weights_and_transposed_layers_keep_the_nearest() -> None:
    net_ = Net(("n", 4, 6, 6))
    w = net_.random(4, 4, 1, 1)
    shape = ("n", 4, 6, 6)
    x = net_.x
    for _ in range(2):
        x = net_.add("Conv", x, w)
        x.dtype, x.shape = DType.FLOAT, shape
    y = net_.add("ConvTranspose", x, net_.random(4, 2, 1, 1))
    y.dtype, y.shape = DType.FLOAT, ("n", 2, 6, 6)
    graph = net_.done(net_.conv(y, 3))
    samples = data_for(graph, 8)
    plan(graph, samples)
    context = Context(ORT, samples=open_samples(samples, graph.inputs))
    Round().run(graph, context)
    assert {reason: len(labels) for reason, labels in context.report.skipped.items()} == {
        "its weights are shared": 2, "the nearest integers serve ConvTranspose": 1,
    }  # fmt: skip
    assert w.quant is not None and w.quant.integers is None


def test_the_shortcut_is_part_of_the_layer_behind_it() -> None:
    graph = NETS["residual"]()
    layers = find_layers(graph, Report(""))
    found = [shortcut(layer, layers[k:]) for k, layer in enumerate(layers)]
    assert [add.op if add else None for add in found] == [None, None, "Add", None][: len(found)]


def test_of_two_branches_the_later_one_sees_the_sum() -> None:
    """What is not rounded yet cannot be made good."""
    net_ = Net()
    first, second = net_.conv(net_.x, 4), net_.conv(net_.x, 4)
    graph = net_.done(net_.like("Add", first, second))
    layers = find_layers(graph, Report(""))
    assert [shortcut(layer, layers[k:]) is not None for k, layer in enumerate(layers)] == [
        False, True,
    ]  # fmt: skip


def test_bias_correction_has_nothing_left_to_do() -> None:
    """And must not compare with a float model whose biases are those of the rounded one."""
    graph = NETS["chain"]()
    samples = open_samples(data_for(graph, 20), graph.inputs)
    context = Context(ORT.storing("int4"), samples=samples)
    reports = Pipeline("round,bias").run(graph, context)
    assert reports[-1].notes == [
        "round has taken the mean errors into the biases: nothing to correct"
    ]


def test_where_rounding_is_no_better_biases_are_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Round, "_layers", lambda *_: 0)
    found = {}
    for passes in ("bias", "round", "round,bias"):
        graph = NETS["chain"]()
        samples = open_samples(data_for(graph, 20), graph.inputs)
        context = Context(ORT.storing("int4"), samples=samples)
        Pipeline(passes).run(graph, context)
        found[passes] = [layer.bias.numpy() for layer in find_layers(graph, Report(""))]
    assert context.results["round"]["kept"] is False
    for passes in ("round", "round,bias"):
        for expected, bias in zip(found["bias"], found[passes], strict=True):
            np.testing.assert_array_equal(bias, expected)


def test_a_dead_filter_stays_dead() -> None:
    weights = noise(6, 4, 3, 3)
    weights[2] = 0
    graph = net("y = Conv (x, w, b)", w=weights, b=noise(6))
    samples = random_samples(graph.inputs, 16)
    context = Context(ORT.storing("int4"), samples=samples)
    Pipeline("round").run(graph, context)
    info = graph.find("w").quant
    assert info is not None and info.integers is not None
    assert np.isfinite(info.scale).all() and (info.scale > 0).all()
    assert np.abs(info.kept(weights)[2]).max() < 0.05


def test_the_same_run_gives_the_same_integers() -> None:
    found = []
    for _ in range(2):
        graph = NETS["depthwise"]()
        samples = open_samples(data_for(graph, 12), graph.inputs)
        context = Context(ORT.storing("int4"), samples=samples)
        Pipeline("round{samples=12,places=300}").run(graph, context)
        found.append([v.quant.integers for v in graph.values() if v.const is not None and v.quant])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_pairs_that_saturate_are_not_made() -> None:
    target = dataclasses.replace(ORT, saturating_pairs=True)
    graph = net("y = Conv (x, w, b)", "float[1,16,6,6] x", w=noise(8, 16, 3, 3), b=noise(8))
    context = Context(target, samples=random_samples(graph.inputs, 16))
    Pipeline("round").run(graph, context)
    (conv,) = (node for node in graph if node.op == "Conv")
    info = graph.find("w").quant
    assert info is not None
    assert not overflows(filters(info.stored(graph.find("w").numpy()), conv)).any()


def test_few_bits_use_the_lowest_integer_too() -> None:
    graph = net("y = Conv (x, w)", w=noise(6, 4, 3, 3))
    context = Context(ORT.storing("int4"), samples=random_samples(graph.inputs, 4))
    Pipeline("plan").run(graph, context)
    (layer,) = find_layers(graph, Report(""))
    assert layer.weights.quant is not None and layer.weights.quant.limits == (-7, 7)
    assert (grid_of(layer).low, grid_of(layer).high) == (-8, 7)


def test_one_scale_for_all_rows_stays_one() -> None:
    rng = np.random.default_rng(1)
    weights = (rng.standard_normal((1, 6, 20)) * rng.uniform(0.5, 1, (6, 1))).astype(np.float32)
    inputs = rng.standard_normal((1, 400, 20)).astype(np.float32)
    targets = inputs[0] @ weights[0].T
    data, bias = Data(inputs, np.zeros_like(targets), targets), np.zeros(6, np.float32)
    scale = np.full((1, 1, 1), np.abs(weights).max() / 7, np.float32)
    steps = Steps(scale, np.zeros_like(scale), -8, 7)
    usual = settled(data, steps, steps.nearest(weights), np.ones((1, 6, 1), np.float32), bias)
    found = reconstruct(data, weights, bias, steps, usual, one_scale=True)
    assert len(np.unique(found.factors)) == 1
    assert found.error.sum() < usual.error.sum()


# -- few samples -----------------------------------------------------------------------------------


def test_damping_grows_with_weights_and_shrinks_with_samples() -> None:
    assert damping_for(weights=9, samples=900) == DAMPING
    assert damping_for(weights=960, samples=24) == 40.0
    assert damping_for(weights=960, samples=240) == 4.0


def test_few_samples_teach_many_weights_with_care() -> None:
    """What 24 samples of 10 places say about 96 weights serves other samples less than these."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((96, 96))
    weights = rng.standard_normal((1, 32, 96)).astype(np.float32)
    steps = Steps(np.full((1, 32, 1), 0.4, np.float32), np.zeros((1, 32, 1), np.float32), -8, 7)
    bias = np.zeros(32, np.float32)

    def data(samples: int) -> Data:
        own = rng.standard_normal((samples, 1, 96)) + 0.3 * rng.standard_normal((samples, 10, 96))
        real = (own @ mix).reshape(-1, 96)
        disturbed = real + 2 * rng.standard_normal(real.shape)
        inputs, targets = disturbed.astype(np.float32), (real @ weights[0].T).astype(np.float32)
        return Data(inputs[None], np.zeros_like(targets), targets)

    learn, unseen = data(24), data(400)
    ones = np.ones((1, 32, 1), np.float32)
    usual = settled(learn, steps, steps.nearest(weights), ones, bias)

    def error(damping: float) -> float:
        found = reconstruct(learn, weights, bias, steps, usual, damping=damping)
        return float(unseen.error(unseen.outputs(found.reals(steps)) + found.bias).sum())

    nearest = float(unseen.error(unseen.outputs(usual.reals(steps)) + usual.bias).sum())
    assert error(DAMPING) > 2 * nearest
    assert error(damping_for(96, 24)) < nearest


# -- behind a clamp --------------------------------------------------------------------------------


@pytest.fixture
def clamped() -> tuple[Data, Array, Steps, Rounded]:
    """A layer of 96 weights per row in front of a Relu, its inputs correlated: data, weights, grid
    and the nearest integers."""
    rng = np.random.default_rng(0)
    inputs = (rng.standard_normal((1, 2000, 96)) @ rng.standard_normal((96, 96))).astype(np.float32)
    weights = rng.standard_normal((1, 8, 96)).astype(np.float32)
    targets = np.maximum(inputs[0] @ weights[0].T, 0)
    data = Data(inputs, np.zeros_like(targets), targets, low=0)
    steps = Steps(np.full((1, 8, 1), 0.4, np.float32), np.zeros((1, 8, 1), np.float32), -8, 7)
    ones, bias = np.ones((1, 8, 1), np.float32), np.zeros(8, np.float32)
    return data, weights, steps, settled(data, steps, steps.nearest(weights), ones, bias)


def test_rows_with_their_own_hessians_start_from_gptq(
    clamped: tuple[Data, Array, Steps, Rounded],
) -> None:
    """Descent from the nearest integers ends early where inputs are correlated."""
    data, weights, steps, usual = clamped
    bias = np.zeros(8, np.float32)
    loss = quadratic(data, weights, bias, weights, bias)
    rows, grid = weights.reshape(8, 1, 96), steps.reshape((8, 1), weights.shape)
    descended = descend(rows, loss, grid, grid.nearest(rows)).reshape(weights.shape)
    from_nearest = settled(data, steps, descended, np.ones((1, 8, 1), np.float32), bias)
    found = reconstruct(data, weights, bias, steps, usual)
    assert found.error.sum() < 0.6 * from_nearest.error.sum()


def test_what_the_clamp_hides_is_looked_at_again(
    clamped: tuple[Data, Array, Steps, Rounded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which samples count is first judged by the nearest integers, then by better ones."""
    data, weights, steps, usual = clamped
    twice = reconstruct(data, weights, np.zeros(8, np.float32), steps, usual)
    monkeypatch.setattr("ptq_opt.passes.reconstruct.ROUNDS", 1)
    once = reconstruct(data, weights, np.zeros(8, np.float32), steps, usual)
    assert (twice.error <= once.error).all()
    assert twice.error.sum() < once.error.sum()
