"""The pass `half`: what becomes half precision, what must not, and the borders between."""

import numpy as np
import onnx
from rewriting import net, noise, only, operand, ops
from sessions import exact_session

from ptq_opt.ir import DType, Graph, save
from ptq_opt.ir.evaluate import Runner, signal_to_noise
from ptq_opt.ir.samples import random_samples
from ptq_opt.ir.target import find_target
from ptq_opt.ir.verify import verify
from ptq_opt.passes import Context
from ptq_opt.passes.half import Half

ORT = find_target("ort-cpu")


def halved(graph: Graph) -> Context:
    context = Context(ORT, samples=random_samples(graph.inputs, 4))
    Half().run(graph, context)
    verify(graph)
    return context


def test_a_float_model_becomes_one_of_half_precision() -> None:
    graph = net("c = Conv (x, w, b)\n r = Relu(c)\n y = Conv (r, v)",
                w=noise(5, 4, 3, 3), b=noise(5), v=noise(3, 5, 1, 1))  # fmt: skip
    feeds = {"x": noise(1, 4, 6, 6)}
    (before,) = Runner(graph).run(feeds)
    halved(graph)
    assert ops(graph) == ["Cast", "Conv", "Relu", "Conv", "Cast"]
    conv = next(node for node in graph if node.op == "Conv")
    assert operand(conv, 1).dtype is operand(conv, 2).dtype is DType.FLOAT16
    model = save(graph)
    onnx.checker.check_model(model, full_check=True)
    (after,) = exact_session(model).run(None, feeds)
    assert after.dtype == np.float32 and signal_to_noise(before, after) > 50


def test_what_could_overflow_stays_and_is_told() -> None:
    graph = net("a = Mul(x, big)\n b = Mul(a, small)\n y = Relu(b)",
                big=np.float32([[[[30000]]]]), small=np.float32([[[[1e-4]]]]))  # fmt: skip
    context = halved(graph)
    assert ops(graph) == ["Mul", "Mul", "Cast", "Relu", "Cast"]
    ((reason, labels),) = context.report.skipped.items()
    assert "too much for half" in reason and labels == ["Mul 'a'", "Mul 'b'"]


def test_a_constant_beyond_the_range_stays() -> None:
    graph = net("a = Min(x, cap)\n y = Relu(a)", cap=np.float32([1e6]))
    halved(graph)
    assert ops(graph) == ["Min", "Cast", "Relu", "Cast"]


def test_one_cast_serves_all_readers_and_integers_are_left_alone() -> None:
    graph = net("a = Relu(x)\n b = Sigmoid(x)\n s = Shape(a)\n z = Add(a, b)\n y = Reshape(z, s)")
    halved(graph)
    assert ops(graph).count("Cast") == 3  # x; a for Shape; the output
    assert operand(only(graph, "Reshape"), 1).dtype is DType.INT64


def test_operators_in_integers_stay() -> None:
    graph = net("y = Relu(x)")
    graph.order()[0].precision = "int8"
    halved(graph)
    assert ops(graph) == ["Relu"]


def test_an_output_in_the_middle() -> None:
    graph = net("a = Relu(x)\n y = Sigmoid(a)", outputs="float[] a, float[] y")
    halved(graph)
    assert graph.output_names == ["a", "y"]
    assert [value.dtype for value in graph.outputs] == [DType.FLOAT, DType.FLOAT]
