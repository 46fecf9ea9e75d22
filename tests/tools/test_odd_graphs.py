"""Graphs that are odd but legal: the whole default pipeline, then the file in ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from random_network import Network
from rewriting import net, noise

from ptq_opt import PtqError, quantize
from ptq_opt.ir import DType, Graph, Tensor, Value, load, save
from ptq_opt.ir.evaluate import Runner, signal_to_noise
from ptq_opt.ir.samples import Feeds, random_samples
from ptq_opt.ir.shapes import type_outputs
from ptq_opt.ir.target import find_target
from ptq_opt.passes.opset import OLDEST
from ptq_opt.tools.api import FAR_FROM_FLOAT, Result
from ptq_opt.tools.corpus.outcome import eager

CONV = "c = Conv <pads = [1,1,1,1]> (x, w, b)"
WEIGHTS = {"w": noise(8, 4, 3, 3), "b": noise(8, seed=1)}


def _text(text: str) -> str:
    return f'<ir_version: 8, opset_import: ["": 17]> {text}'


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """As anybody opens it."""
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def survives(
    source: Graph | onnx.ModelProto | str,
    samples: Sequence[Feeds] | None = None,
    quantized: bool | None = True,
) -> Result:
    """Quantize where conversions cost nothing; the file must load and be close, or be told not to.

    `quantized` says whether something has to be in integers, or nothing may; None for either.
    """
    if isinstance(source, str):
        source = onnx.parser.parse_model(source)
    model = save(source) if isinstance(source, Graph) else source
    samples = samples or list(random_samples(load(model).inputs, 3))
    result = quantize(model, samples, target=eager())
    onnx.checker.check_model(result.model)
    before, after = session(model), session(result.model)
    assert [i.name for i in after.get_inputs()] == [i.name for i in before.get_inputs()]
    assert [o.name for o in after.get_outputs()] == [o.name for o in before.get_outputs()]
    told = any(FAR_FROM_FLOAT in warning for warning in result.report.warnings)
    source, made = load(model), load(result.model)
    type_outputs(source)
    reals, founds = ([Runner(graph).run(feeds) for feeds in samples] for graph in (source, made))
    for real, found in zip(zip(*reals, strict=True), zip(*founds, strict=True), strict=True):
        if all(isinstance(array, np.ndarray) and array.dtype.kind == "f" for array in real):
            assert [array.shape for array in real] == [array.shape for array in found]
            flat = (np.concatenate([array.ravel() for array in each]) for each in (real, found))
            assert told or signal_to_noise(*flat) >= 20
    assert quantized in (None, any(d.quantized for d in result.report.decisions))
    return result


@pytest.mark.parametrize(
    ("body", "interface"),
    [
        ("y = Conv(x, w)", {}),
        ("c = Conv(x, w, b)\n y = Clip(c, , high)", {}),
        (f"{CONV}\n y = Relu(c)", {"outputs": "float[] y, float[] x"}),
        (f"{CONV}\n y = Relu(c)\n z = Abs(y)", {"outputs": "float[] z, float[] y, float[] c"}),
        (f"{CONV}\n y = Relu(c)", {"inputs": "float[1,4,6,6] x, float[3] nobody"}),
        (f"{CONV}\n d = Conv(x, w, b)\n s = Relu(d)\n y = Add(c, c)\n z = Conv(x, v, b)",
         {"outputs": "float[] y, float[] s, float[] z"}),
        ("t = Concat <axis = 1> (x)\n y = Conv(t, w, b)", {}),
        (f"{CONV}\n y = Relu(c)", {"inputs": "float[batch,4,height,width] x"}),
        ("t = Transpose <perm = [3,2,1,0]> (u)\n y = Conv(x, t, b)", {}),
        ("t = Reshape(f, sizes)\n y = Conv(x, t, b)", {}),
        ("t = Cast <to = 1> (h)\n y = Conv(x, t, b)", {}),
        ("t = Identity(w)\n o = Identity(t)\n y = Conv(x, o, b)", {}),
        ("m = Flatten(x)\n y = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (m, g, b)", {}),
        ("d = Cast <to = 11> (x)\n e = Neg(d)\n t = Cast <to = 1> (e)\n y = Conv(t, w, b)", {}),
        ("d = Cast <to = 10> (x)\n e = Neg(d)\n t = Cast <to = 1> (e)\n y = Conv(t, w, b)", {}),
        ("d = Cast <to = 16> (x)\n t = Cast <to = 1> (d)\n y = Conv(t, w, b)", {}),
        (f"{CONV}\n i = Shape(c)\n j = Mul(i, one)\n y = Reshape(c, j)", {}),
        ("q = SequenceConstruct(x, x)\n e = SequenceAt(q, zero)\n y = Conv(e, w, b)", {}),
        ("o = Optional(x)\n e = OptionalGetElement(o)\n y = Conv(e, w, b)", {}),
    ],
    ids=[
        "no bias, pads or names", "a bound left out", "an input that is an output",
        "outputs in the middle", "an unused input", "shared weights and bias",
        "one input of a Concat", "open sizes", "weights behind a Transpose",
        "weights behind a Reshape", "weights behind a Cast", "weights behind Identities",
        "alpha, beta and transposed weights", "a part in double", "a part in half precision",
        "a part in bfloat16", "computed shapes", "a sequence", "an optional",
    ],
)  # fmt: skip
def test_an_odd_graph_survives(body: str, interface: dict[str, str]) -> None:
    constants = {
        **WEIGHTS, "v": noise(8, 4, 1, 1), "u": noise(3, 3, 4, 8), "f": noise(288, seed=2),
        "sizes": np.array([8, 4, 3, 3]), "h": noise(8, 4, 3, 3).astype(np.float16),
        "g": noise(8, 144), "high": np.array(3, np.float32), "one": np.array([1]),
        "zero": np.array(0),
    }  # fmt: skip
    used = {name: array for name, array in constants.items() if f"{name}" in _words(body)}
    samples = None
    if "batch" in interface.get("inputs", ""):
        samples = [{"x": noise(n, 4, 5 + n, 6, seed=n)} for n in (1, 2, 3)]
    survives(net(body, **interface, **used), samples)


def _words(body: str) -> set[str]:
    return set("".join(c if c.isalnum() else " " for c in body).split())


def test_weights_as_constant_nodes() -> None:
    graph = net(f"{CONV}\n y = Relu(c)", **WEIGHTS)
    conv = next(iter(graph))
    for slot in (1, 2):
        value = conv.inputs[slot]
        assert value is not None and value.const is not None
        node = graph.add("Constant", [], {"value": value.const})
        node.output.dtype, node.output.shape = DType.FLOAT, value.shape
        graph.set_input(conv, slot, node.output)
    survives(graph)


def test_initializers_that_are_inputs_may_be_given_and_stay_in_float() -> None:
    model = save(net(f"{CONV}\n y = Relu(c)", **WEIGHTS))
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims)
        )
    samples = [{"x": noise(1, 4, 6, 6)}]
    result = survives(model, samples, quantized=False)
    other = {"x": samples[0]["x"], "w": -WEIGHTS["w"]}
    found, real = (session(m).run(None, other)[0] for m in (result.model, model))
    np.testing.assert_array_equal(found, real)


def test_names_that_bodies_share() -> None:
    survives(_text("""
        twice (bool on, float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,2,1,1] w = {1,2,3,4}> {
            t = Conv(x, w)
            u = If (on) <then_branch = a () => (float[1,2,4,4] t2) { v = Neg(t) t2 = Abs(v) },
                        else_branch = b () => (float[1,2,4,4] t3) { v = Abs(t) t3 = Neg(v) }>
            y = Conv(u, w)
        }"""))  # fmt: skip


def test_loops() -> None:
    survives(_text("""
        loops (int64 n, bool on, float[1,2,4,4] x) => (float[1,2,4,4] y)
        <float[2,2,1,1] w = {0.1,0.2,0.3,0.4}> {
            t = Conv(x, w)
            u = Loop (n, on, t) <body = b (int64 k, bool go, float[1,2,4,4] s)
                => (bool go_on, float[1,2,4,4] r) { go_on = Identity(go) r = Conv(s, w) }>
            y = Conv(u, w)
        }"""), [{"n": np.array(2), "on": np.array(True), "x": noise(1, 2, 4, 4, seed=k)}
                for k in range(3)])  # fmt: skip


def test_scans() -> None:
    survives(_text("""
        scans (float[2,4] h, float[3,2,4] x) => (float[2,4] y, float[3,2,4] z)
        <float[4,4] w = {1,2,3,4,5,6,7,8,1,2,3,4,5,6,7,8}> {
            t = MatMul(x, w)
            y, z = Scan <num_scan_inputs = 1, body = b (float[2,4] s, float[2,4] e)
                => (float[2,4] r, float[2,4] o) { r = Add(s, e) o = MatMul(r, w) }> (h, t)
        }"""))  # fmt: skip


def test_functions() -> None:
    survives("""
        <ir_version: 8, opset_import: ["": 17, "own": 1]>
        called (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,2,1,1] w = {1,2,3,4}> {
            t = own.layer(x, w)  y = own.layer(t, w)
        }
        <domain: "own", opset_import: ["": 17]> layer (v, w) => (r) { c = Conv(v, w) r = Relu(c) }
        """)


def test_no_elements_at_all() -> None:
    """A batch of none, and channels of none."""
    survives(net(f"{CONV}\n y = Relu(c)", "float[n,4,6,6] x", **WEIGHTS),
             [{"x": noise(n, 4, 6, 6)} for n in (2, 0, 1)])  # fmt: skip
    text = "empty (float[2,0,4] x) => (float[] y) { t = Relu(x) y = Neg(t) }"
    survives(_text(text), quantized=False)


def test_integer_graphs_stay_as_they_are() -> None:
    text = "whole (int64[4] x) => (int64[4] y) { t = Add(x, x) y = Mul(t, x) }"
    survives(_text(text), quantized=False)


def test_an_output_of_a_type_that_is_not_declared() -> None:
    """numpy has no bfloat16 of its own, so that it has to be known to be one."""
    model = save(net(f"h = Cast <to = 16> (x)\n {CONV}\n y = Relu(c)",
                     outputs="float[] y, bfloat16[1,4,6,6] h", **WEIGHTS))  # fmt: skip
    model.graph.output[1].ClearField("type")
    result = quantize(model, [{"x": noise(1, 4, 6, 6, seed=k)} for k in range(2)], target=eager())
    assert [output.name for output in result.report.fidelity.outputs] == ["y", "h"]


@pytest.mark.parametrize("declared", ["float[2,8]", "float[1,8,6,6,1]", "float[1,8,9,6]"])
@pytest.mark.parametrize("end", ["y = Relu(c)", "y = Identity(c)"])
def test_a_wrong_declaration_of_an_output(declared: str, end: str) -> None:
    """ONNX Runtime goes by what operators compute, so do we; `bias` reduced along wrong axes."""
    graph = net(f"{CONV}\n {end}", outputs=f"{declared} y", **WEIGHTS)
    result = survives(graph)
    notes = [note for done in result.report.passes for note in done.notes]
    assert any("is declared" in note and "is [1, 8, 6, 6]" in note for note in notes)


def test_a_batch_that_was_1_when_the_model_was_exported() -> None:
    graph = net(f"{CONV}\n s = Shape(c)\n y = Reshape(c, s)", "float[n,4,6,6] x",
                "float[1,8,6,6] y", **WEIGHTS)  # fmt: skip
    survives(graph, [{"x": noise(n, 4, 6, 6, seed=n)} for n in (1, 3)])


NEWEST = onnx.defs.onnx_opset_version()


@pytest.mark.parametrize("opset", [OLDEST - 1, OLDEST, 9, 10, 12, 15, 18, 21, 24, NEWEST])
def test_every_operator_set(opset: int) -> None:
    """Those that ONNX Runtime has; what is older is understood where nothing changed since."""
    text = f"""
        <ir_version: 3, opset_import: ["": {opset}]>
        old (float[1,2,4,4] x) => (float[1,2,4,4] y) {{
            w = Constant <value = float[2,2,1,1] {{1.0, 2.0, 3.0, 4.0}}> ()
            c = Conv(x, w)  y = Relu(c)
        }}"""
    model = onnx.parser.parse_model(text)
    if opset < OLDEST:
        with pytest.raises(PtqError):
            quantize(_changed(opset), [{"x": noise(1, 2, 4, 4)}])
        return
    try:
        session(model)
    except Exception:
        pytest.skip(f"ONNX Runtime does not know operator set {opset}")
    survives(model)


@pytest.mark.parametrize("attributes", ["", "dilations = [1,1],", "dilations = [2,2],"])
def test_means_with_dilations(attributes: str) -> None:
    """ONNX Runtime opens no file with any on an AveragePool between integers."""
    graph = net(f"c = Conv(x, w, b)\n p = AveragePool <{attributes} kernel_shape = [2,2]> (c)\n"
                "y = Conv(p, v)", opset=20, v=noise(4, 8, 1, 1), **WEIGHTS)  # fmt: skip
    assert all(integer == every for integer, every in survives(graph).report.counts().values())


def _changed(opset: int) -> onnx.ModelProto:
    """An operator whose meaning changed in version 7."""
    return onnx.parser.parse_model(f"""
        <ir_version: 3, opset_import: ["": {opset}]>
        old (float[1,2,4,4] x, float[2] b) => (float[1,2,4,4] y) {{
            y = Add <broadcast = 1, axis = 1> (x, b)
        }}""")


@pytest.mark.parametrize("target", ["generic", "openvino-cpu", "tensorrt"])
def test_a_transposed_convolution_of_several_groups(target: str) -> None:
    """Its weights have as many channels as a group, its bias as many as the output."""
    graph = net("y = ConvTranspose <group = 2> (x, w, b)", "float[1,4,6,6] x",
                w=noise(4, 3, 3, 3), b=noise(6))  # fmt: skip
    costs = replace(eager().costs, operators={})
    samples = [{"x": noise(1, 4, 6, 6, seed=k)} for k in range(2)]
    result = quantize(save(graph), samples, target=replace(find_target(target), costs=costs))
    assert result.report.counts() == {"ConvTranspose": (1, 1)}
    assert not result.report.warnings


def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    """A hole in a file: nothing of it is read to load, check, infer and canonicalize."""
    rows = (2**31 + 2**20) // 4096
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        large (int64[2] x) => (float[2,1024] y) { t = Gather(table, x) y = Identity(t) }""")
    tensor = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[rows, 1024])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="hole")
    model.graph.initializer.append(tensor)
    (tmp_path / "large.onnx").write_bytes(model.SerializeToString())
    with open(tmp_path / "hole", "wb") as file:
        file.truncate(rows * 4096)
    result = quantize(tmp_path / "large.onnx", passes="canonicalize")
    assert [node.op for node in result.graph] == ["Gather"]
    assert result.report.weight_bytes == (rows * 4096,) * 2
    assert os.stat(tmp_path / "hole").st_blocks * 512 < 2**20


# -- combinations ----------------------------------------------------------------------------------


def behind_transpose(graph: Graph) -> None:
    for node in [n for n in graph if n.is_op("Conv")]:
        weights = node.inputs[1]
        assert weights is not None
        turned = graph.constant(np.ascontiguousarray(weights.numpy().transpose(3, 2, 1, 0)), "t")
        made = graph.add("Transpose", [turned], {"perm": [3, 2, 1, 0]}, like=node)
        graph.set_input(node, 1, made.output)


def as_constant_nodes(graph: Graph) -> None:
    for value in [v for v in graph.values() if v.is_constant]:
        assert value.const is not None
        first = next(iter(value.uses))[0]
        made = graph.add("Constant", [], {"value": Tensor(value.numpy())}, like=first).output
        made.dtype, made.shape = value.dtype, value.shape
        graph.replace(value, made)


def through(dtype: DType) -> object:
    def change(graph: Graph) -> None:
        x = graph.inputs[0]
        uses = list(x.uses)
        there = graph.add("Cast", [x], {"to": int(dtype)}).output
        back = graph.add("Cast", [there], {"to": int(DType.FLOAT)}).output
        for reader, slot in uses:
            graph.set_input(reader, slot, back)

    change.__name__ = f"through_{dtype.name.lower()}"
    return change


def more_outputs(graph: Graph) -> None:
    middle = [v for node in graph for v in node.outputs][: len(graph) // 2]
    values = list(dict.fromkeys([*graph.outputs, graph.inputs[0], *middle[-1:]]))
    graph.set_outputs(values, [f"out_{k}" for k in range(len(values))])


def an_unused_input(graph: Graph) -> None:
    graph.input("nobody", DType.FLOAT, (2,))


def a_wrong_rank(graph: Graph) -> None:
    value = graph.outputs[-1]
    if value.producer is not None:
        value.shape = (*(value.shape or ()), 1)


def a_branch(graph: Graph) -> None:
    """The last output, through an If that an input decides."""
    old = graph.outputs[-1]
    if old.producer is None:
        return
    on = graph.input("on", DType.BOOL, ())
    bodies = {}
    for name in ("then_branch", "else_branch"):
        body = Graph(name, graph.info)
        inner = Value("same")  # in both
        body.captures[inner] = 0
        body.set_outputs([body.add("Abs", [inner]).output], ["out"])
        bodies[name] = body
    made = graph.add("If", [on], bodies, captures=[old]).output
    made.dtype, made.shape = old.dtype, old.shape
    graph.set_outputs([*graph.outputs[:-1], made], list(graph.output_names))


TWISTS = [
    behind_transpose, as_constant_nodes, through(DType.DOUBLE), through(DType.FLOAT16),
    through(DType.BFLOAT16), more_outputs, an_unused_input, a_wrong_rank, a_branch,
]  # fmt: skip


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**16),
    size=st.integers(1, 10),
    batch=st.sampled_from([1, 2, "n"]),
    twists=st.lists(st.sampled_from(TWISTS), max_size=3, unique=True),
)
def test_combinations_survive(seed: int, size: int, batch: int | str, twists: list) -> None:
    graph = Network(seed, batch).build(size)
    for twist in twists:
        twist(graph)
    shape = [batch if isinstance(batch, int) else 2, 4, 6, 6]
    samples = [{"x": noise(*shape, seed=k), "on": np.array(True), "nobody": noise(2)}
               for k in range(2)]  # fmt: skip
    names = {value.name for value in graph.inputs}
    survives(save(graph), [{k: s[k] for k in names} for s in samples], quantized=None)
