"""Raising the operator set changes nodes, never what they compute or what they are called."""

import itertools

import numpy as np
import onnx
import pytest
from rewriting import change, net, noise, only, operand, ops, run

from ptq_opt.ir import Graph, load, save
from ptq_opt.ir.text import parse
from ptq_opt.ir.verify import verify
from ptq_opt.passes import PassError
from ptq_opt.passes.canonicalize import Canonicalize
from ptq_opt.passes.invariants import difference
from ptq_opt.passes.opset import CHANGES, lower_opset, raise_opset

NEWEST = 21


def raised(graph: Graph, at_least: int = NEWEST) -> Graph:
    before = run(graph)
    raise_opset(graph, at_least)
    verify(graph)
    onnx.checker.check_model(save(graph), full_check=True)
    assert graph.info.opset == at_least
    for expected, found in zip(before, run(graph), strict=True):
        for a, b in zip(expected, found, strict=True):
            assert difference(a, b) <= 1e-6
    return graph


def removed(old: onnx.defs.OpSchema, new: onnx.defs.OpSchema) -> bool:
    """True when a node of the old version may mean something else, or nothing, in the new one."""
    if new.deprecated or len(new.inputs) < len(old.inputs) or len(new.outputs) < len(old.outputs):
        return True
    return any(
        name not in new.attributes or new.attributes[name].default_value != attr.default_value
        for name, attr in old.attributes.items()
    )


def test_every_incompatible_change_of_the_standard_is_listed() -> None:
    history: dict[str, list[onnx.defs.OpSchema]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            history.setdefault(schema.name, []).append(schema)
    for name, schemas in history.items():
        schemas.sort(key=lambda schema: schema.since_version)
        for old, new in itertools.pairwise(schemas):
            if new.since_version > 7 and removed(old, new):
                listed = [(v, name) for v, names, _ in CHANGES if name in names]
                assert (new.since_version, name) in listed


@pytest.mark.parametrize(
    ("opset", "body"),
    [
        (8, "y = Upsample <scales = [1.0,1.0,2.0,3.0]> (x)"),
        (9, "y = Upsample(x, s)"),
        (9, 'y = Upsample <mode = "linear"> (x, s)'),
        (10, "y = Resize(x, s)"),
        (10, "y = Resize(x, d)"),
        (10, 'y = Resize <mode = "linear"> (x, s)'),
        (10, 'y = Resize <mode = "linear"> (x, d)'),
        (9, "y = Slice <starts = [1,0], ends = [3,-1], axes = [1,3]> (x)"),
        (9, "y = Slice <starts = [0,1], ends = [1,1000000]> (x)"),
        (9, "y, i = TopK <k = 3> (x)"),
        (9, "y, i = TopK <k = 2, axis = 1> (x)"),
        (7, "y = Clip <min = 0.0, max = 6.0> (x)"),
        (7, "y = Clip <max = 0.5> (x)"),
        (7, "y = Clip(x)"),
        (7, "y = Pad <pads = [0,0,1,2,0,0,3,0]> (x)"),
        (7, "y = Pad <pads = [0,0,1,2,0,0,3,0], value = 1.5> (x)"),
        (7, 'y = Pad <pads = [0,0,1,2,0,0,3,0], mode = "reflect"> (x)'),
        (7, "y = Dropout <ratio = 0.3> (x)"),
        (7, "y = BatchNormalization(x, v, v, v, p)"),
        (8, "y = BatchNormalization <spatial = 1, momentum = 0.8> (x, v, v, v, p)"),
        (10, "y = Scatter <axis = 1> (x, k, u)"),
        (7, "y = Softmax(m)"),
        (7, "y = Softmax <axis = 2> (x)"),
        (7, "g = GlobalAveragePool(x)\n y = Softmax(g)"),
        (7, "g = GlobalAveragePool(x)\n y = LogSoftmax <axis = -3> (g)"),
        (7, "y = Hardmax <axis = 0> (m)"),
        (7, "y = Softmax <axis = 3> (x)"),
        (7, "a = Softmax <axis = 1> (x)\n b = Neg(a)\n y = Add(a, b)"),
        (7, "y = Squeeze <axes = [0]> (x)"),
        (7, "y = Squeeze(x)"),
        (7, "y = Unsqueeze <axes = [0,3]> (x)"),
        (7, "y = ReduceSum <axes = [1], keepdims = 0> (x)"),
        (7, "y = ReduceSum(x)"),
        (7, "a, y = Split <split = [1,3], axis = 1> (x)"),
        (7, "a, y = Split <axis = 1> (x)"),
        (13, "a, y = Split <axis = 1> (x)"),
        (13, "y = ReduceMean <axes = [1,3]> (x)"),
        (13, "y = ReduceL2 <axes = [-1], keepdims = 0> (x)"),
        (13, "y = ReduceMax(x)"),
        (10, "y = RoiAlign <output_height = 2, output_width = 2> (x, r, n)"),
        (16, 'y = GridSample <mode = "bicubic"> (x, grid)'),
        (16, "y = GridSample(x, grid)"),
        (17, "e = Unsqueeze(x, last)\n y = DFT <axis = 2> (e)"),
        (11, "y = Resize(x, none, s)"),
        (12, "y = MaxPool <kernel_shape = [2,2]> (x)"),
    ],
)
def test_nodes_keep_their_meaning(opset: int, body: str) -> None:
    graph = net(
        body, "float[1,4,6,6] x, float[3,5] m", opset=opset,
        s=np.float32([1, 1, 2, 3]), d=np.float32([1, 1, 0.5, 0.5]), v=noise(4),
        p=noise(4, positive=True), k=np.array([[[[1, 2]]]]), u=noise(1, 1, 1, 2),
        r=np.float32([[0, 0, 4, 4]]), n=np.array([0]), grid=noise(1, 3, 3, 2),
        last=np.array([4]), none=np.zeros(0, np.float32),
    )  # fmt: skip
    raised(graph)


def test_group_normalization_gets_one_factor_per_channel() -> None:
    body = "y = GroupNormalization <num_groups = 2> (x, g, g)"
    graph = net(body, outputs="float[1,4,6,6] y", opset=18, g=noise(2))
    assert operand(only(raised(graph), "GroupNormalization"), 1).shape == (4,)


def test_softmax_over_unknown_ranks_is_written_with_flatten() -> None:
    graph = net("n = Neg(x)\n y = Softmax <axis = 1> (n)", opset=7)
    operand(only(graph, "Softmax"), 0).shape = None
    raised(graph, 13)
    assert ops(graph) == ["Neg", "Shape", "Flatten", "Softmax", "Reshape"]


def test_names_origins_and_grid_of_values_are_kept() -> None:
    graph = net("a = Softmax <axis = 1> (x)\n y = Clip <min = 0.0> (a)", opset=9)
    raised(graph)
    assert {"a", "y"} <= {value.origin for value in graph.values()}
    assert only(graph, "Clip").output.name == "y"


def test_weights_are_not_copied() -> None:
    graph = net("y = Conv(x, w)", opset=7, w=noise(4, 4, 1, 1))
    held = operand(only(graph, "Conv"), 1).const
    assert operand(only(raised(graph), "Conv"), 1).const is held


def test_bodies_are_raised_too() -> None:
    graph = net(
        """y = If (p) <
            then_branch = t () => (float[] a) { a = Clip <min = 0.0> (x) },
            else_branch = e () => (float[] b) { b = Neg(x) }
        >""",
        inputs="bool p, float[2] x",
        opset=10,
    )
    raised(graph)


def test_functions_are_raised_too() -> None:
    graph = parse(
        """<ir_version: 8, opset_import: ["": 12, "mine": 1]>
        g (float[2,3] x) => (float[2,1] y) { y = mine.Total(x) }
        <domain: "mine", opset_import: ["": 12]>
        Total (a) => (b) { b = ReduceSum <axes = [1]> (a) }"""
    )
    raised(graph)
    (function,) = graph.info.functions.values()
    assert function.info.opset == NEWEST


def test_a_parameter_of_a_function_cannot_become_an_input() -> None:
    graph = parse(
        """<ir_version: 8, opset_import: ["": 12, "mine": 1]>
        g (float[2,3] x) => (float[] y) { y = mine.Total <over = [1]> (x) }
        <domain: "mine", opset_import: ["": 12]>
        Total <over> (a) => (b) { b = ReduceSum <axes: ints = @over> (a) }"""
    )
    with pytest.raises(PassError, match="attribute 'axes' is a parameter of its function"):
        raise_opset(graph, 13)


def test_canonicalize_raises_as_far_as_it_is_told() -> None:
    graph = net("y = ReduceMean <axes = [1]> (x)", opset=11)
    change(Canonicalize(), graph)
    assert graph.info.opset == 13
    change(Canonicalize(min_opset=18), graph)
    assert graph.info.opset == 18
    assert "axes" not in only(graph, "ReduceMean").attrs


@pytest.mark.parametrize("version", [12, 1000])
def test_canonicalize_refuses_operator_sets_it_cannot_write(version: int) -> None:
    with pytest.raises(ValueError, match=r"min-opset is from 13 to \d+, not"):
        Canonicalize(min_opset=version)


def test_a_model_that_is_new_enough_is_not_touched() -> None:
    graph = net("y = ReduceMean <axes = [1]> (x)", opset=13)
    version = graph.version
    raise_opset(graph, 13)
    assert (graph.version, graph.info.opset) == (version, 13)


def test_operators_that_never_changed_may_be_older() -> None:
    assert ops(raised(net("a = Relu(x)\n y = Elu(a)", opset=6))) == ["Relu", "Elu"]


def test_operators_of_other_domains_are_not_touched() -> None:
    graph = net("y = other.Clip <min = 0.0> (x)", opset=9)
    raise_opset(graph, 13)
    assert only(graph, "Clip").attrs == {"min": 0.0}


def test_files_that_list_weights_among_the_inputs() -> None:
    model = save(net("y = Conv(x, w)", opset=8, w=noise(4, 4, 1, 1)))
    model.ir_version = 3
    model.graph.input.add().CopyFrom(
        onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 4, 1, 1])
    )
    graph = raised(load(model))
    assert [value.name for value in graph.inputs] == ["x"]
    assert graph.info.ir_version >= 4


@pytest.mark.parametrize(
    ("opset", "body", "message"),
    [
        (6, "y = Add(x, x)", "Add 'y' is of operator set 6, 7 is the first that is understood"),
        (8, "y = BatchNormalization <spatial = 0> (x, x, x, x, x)", "spatial=0 has no equivalent"),
        (18, "y = GroupNormalization <num_groups = 2> (x, c, c)", "needs constant scale and bias"),
        (13, "y, m, v = BatchNormalization (x, c, c, c, c)\n z = Neg(m)", "is in training mode"),
    ],
)
def test_what_cannot_be_raised_is_named(opset: int, body: str, message: str) -> None:
    outputs = "float[] y, float[] z" if "z =" in body else "float[] y"
    graph = parse(
        f'<ir_version: 7, opset_import: ["": {opset}]>\n'
        f"g (float[1,2,3,3] x, float[2] c) => ({outputs}) {{ {body} }}"
    )
    with pytest.raises(PassError, match=message):
        raise_opset(graph, 21)


@pytest.mark.parametrize(("op", "after"), [("Neg", 25), ("Cast <to = 1>", 28)])
def test_a_version_that_changed_nothing_here_is_lowered(op: str, after: int) -> None:
    """ONNX Runtime lacks the QuantizeLinear of the newest; Cast is a later one there, too."""
    graph = parse(
        f'<ir_version: 13, opset_import: ["": 28]> g (float[2] x) => (float[] y) {{ y = {op}(x) }}'
    )
    lower_opset(graph, 25)
    assert graph.info.opset == after
