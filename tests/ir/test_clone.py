import numpy as np
import pytest

from ptq_opt.ir import DType, Graph, GraphError, ModelInfo, Value, grid
from ptq_opt.ir.clone import clone, extract


def small_graph() -> Graph:
    """x -> Conv -> Relu -> Concat with a shared constant; two outputs, one in the middle."""
    graph = Graph("net", ModelInfo(opsets={"": 17, "com.example": 1}))
    x = graph.input("x", DType.FLOAT, ("n", 2, 4, 4))
    x.quant = grid(-1, 1, DType.UINT8)
    weight = graph.constant(np.ones((2, 2, 1, 1), np.float32), "weight")
    weight.quant = grid([-1, -1], [1, 1], DType.INT8, symmetric=True, axis=0)
    bias = graph.constant(np.zeros(2, np.float32), "bias")
    conv = graph.add("Conv", [x, weight, bias], {"pads": [0, 0, 0, 0], "group": 1}, name="conv")
    conv.output.name, conv.output.origin = "y", "renamed"
    conv.output.dtype, conv.output.shape = DType.FLOAT, ("n", 2, 4, 4)
    conv.precision, conv.rest = "int8", "kept"
    two = graph.add("Conv", [conv.output, weight, bias])
    clip = graph.add("Clip", [two.output, None, graph.constant(np.float32(6))], name="clip")
    graph.set_outputs([clip.output, conv.output], ["result", "inner"])
    return graph


def graph_with_body() -> Graph:
    """An If whose branches read `x` of the outer graph."""
    graph = Graph("outer")
    x = graph.input("x", DType.FLOAT, (2,))
    flag = graph.input("flag", DType.BOOL, ())
    bodies = {}
    for name, op in (("then_branch", "Neg"), ("else_branch", "Abs")):
        body = Graph(name, graph.info)
        inner = Value("x", DType.FLOAT, (2,))
        body.captures[inner] = 0
        body.set_outputs([body.add(op, [inner]).output], ["r"])
        bodies[name] = body
    node = graph.add("If", [flag], bodies, captures=[x])
    node.output.name = "y"
    graph.set_outputs([node.output], ["y"])
    return graph


def test_every_property_of_values_and_nodes_is_kept():
    graph = small_graph()
    copy, where = clone(graph)
    assert list(copy.values()) == [where[value] for value in graph.values()]
    for value in graph.values():
        other = where[value]
        for attribute in set(Value.__slots__) - {"producer", "uses"}:
            assert getattr(other, attribute) is getattr(value, attribute), attribute
    for node, other in zip(graph.order(), copy.order(), strict=True):
        for attribute in ("op", "domain", "overload", "name", "attrs", "rank", "precision", "rest"):
            assert getattr(other, attribute) == getattr(node, attribute), attribute
        assert other.inputs == [value and where[value] for value in node.inputs]
        assert other.outputs == [where[value] for value in node.outputs]
    assert copy.output_names == ["result", "inner"]
    assert [value.name for value in copy.inputs] == ["x"]
    assert copy.name == "net"


def test_a_constant_with_two_readers_stays_one_constant():
    graph = small_graph()
    _, where = clone(graph)
    weight = where[graph.find("weight")]
    assert len(weight.consumers) == 2
    assert weight.const is graph.find("weight").const


def test_edits_of_the_copy_do_not_reach_the_original():
    graph = small_graph()
    copy, _ = clone(graph)
    conv, *_ = copy.order()
    conv.attrs["pads"][0] = 9
    conv.attrs["group"] = 2
    copy.info.opsets[""] = 21
    copy.find("y").quant = grid(0, 1, DType.UINT8)
    copy.set_outputs([copy.find("y")])
    copy.sweep()
    assert len(graph) == 3
    assert graph.output_names == ["result", "inner"]
    assert graph.order()[0].attrs == {"pads": [0, 0, 0, 0], "group": 1}
    assert graph.info.opset == 17
    assert graph.find("y").quant is None
    with pytest.raises(GraphError, match="another graph"):
        graph.add("Relu", [copy.find("y")])


def test_nodes_added_to_the_copy_come_after_those_it_was_made_of():
    graph = small_graph()
    x = graph.find("x")
    late = [graph.add("Relu", [x]) for _ in range(5)]
    for node in late[:3]:
        graph.erase(node)
    copy, where = clone(graph)
    added = copy.add("Neg", [where[x]])
    assert copy.order()[-1] is added
    assert len(copy) == len(graph) + 1


def test_bodies_are_copied_with_their_captures():
    graph = graph_with_body()
    copy, where = clone(graph)
    node, other = graph.order()[0], copy.order()[0]
    assert other.captures == [where[graph.find("x")]]
    for name, body in node.bodies.items():
        twin = other.bodies[name]
        assert twin is not body
        assert twin.info is copy.info
        assert twin.captures == {where[value]: k for value, k in body.captures.items()}
        twin.set_outputs(list(twin.captures))
        assert body.outputs[0].producer is not None


def test_an_overridable_initializer_stays_overridable():
    graph = Graph()
    value = graph.input("scale", DType.FLOAT, (1,))
    value.const = graph.constant(np.ones(1, np.float32)).const
    value.overridable = True
    graph.set_outputs([graph.add("Neg", [value]).output], ["y"])
    copy, where = clone(graph)
    assert copy.inputs == [where[value]]
    assert not where[value].is_constant
    assert where[value].const is value.const


def test_a_graph_may_return_its_input_or_a_constant():
    graph = Graph()
    x = graph.input("x", DType.FLOAT, ())
    graph.set_outputs([x, graph.constant(np.float32(1), "one"), x], ["a", "b", "c"])
    copy, where = clone(graph)
    assert copy.outputs == [where[value] for value in graph.outputs]
    assert copy.output_names == ["a", "b", "c"]


# -- extract ---------------------------------------------------------------------------------------


def test_a_part_holds_what_lies_between_its_inputs_and_outputs():
    graph = small_graph()
    middle, result = graph.find("y"), graph.outputs[0]
    part, where = extract(graph, [middle], [result])
    assert [node.op for node in part] == ["Conv", "Clip"]
    assert part.inputs == [where[middle]]
    assert where[middle].producer is None
    assert where[middle].dtype is DType.FLOAT
    assert part.outputs == [where[result]]
    assert len(graph) == 3


def test_a_part_returns_inner_values_and_its_own_inputs_too():
    graph = small_graph()
    x, middle, result = graph.find("x"), graph.find("y"), graph.outputs[0]
    part, where = extract(graph, [x], [result, middle, x])
    assert part.outputs == [where[result], where[middle], where[x]]


def test_what_does_not_lead_to_an_output_is_left_out():
    graph = small_graph()
    part, where = extract(graph, [graph.find("x")], [graph.find("y")])
    assert [node.op for node in part] == ["Conv"]
    assert len(where[graph.find("weight")].uses) == 1


def test_a_part_that_needs_more_inputs_is_refused():
    graph = graph_with_body()
    with pytest.raises(GraphError, match="'y' also depends on 'x'"):
        extract(graph, [graph.find("flag")], graph.outputs)


def test_a_part_with_bodies_keeps_their_captures():
    graph = graph_with_body()
    x, flag = graph.inputs
    double = graph.add("Add", [x, x])
    node = graph.outputs[0].producer
    assert node is not None
    graph.set_input(node, -1, double.output)
    part, where = extract(graph, [double.output, flag], graph.outputs)
    assert part.order()[0].captures == [where[double.output]]


def test_a_computed_or_overridable_value_becomes_a_plain_input():
    graph = Graph()
    value = graph.input("scale", DType.FLOAT, (1,))
    value.const = graph.constant(np.ones(1, np.float32)).const
    value.overridable = True
    graph.set_outputs([graph.add("Neg", [value]).output], ["y"])
    part, _ = extract(graph, [value], graph.outputs)
    assert part.inputs[0].const is None
    assert value.const is not None
