"""Every value can be told from every other one, whatever passes left unnamed."""

from ptq_opt.ir import DType, Graph
from ptq_opt.ir.ranges import distinguish, key


def test_unnamed_values_get_keys_of_their_own() -> None:
    graph = Graph()
    x = graph.input("x", DType.FLOAT, (1,))
    first = graph.add("Relu", [x])
    second = graph.add("Relu", [first.output])
    graph.set_outputs([second.output], ["y"])
    distinguish(graph)
    assert key(x) == "x"
    assert len({key(v) for v in graph.values()}) == 3


def test_two_values_that_stand_for_one_tensor() -> None:
    graph = Graph()
    x = graph.input("x", DType.FLOAT, (1,))
    first = graph.add("Relu", [x])
    second = graph.add("Neg", [first.output])
    first.output.origin = second.output.origin = "conv"
    graph.set_outputs([second.output], ["y"])
    distinguish(graph)
    assert {first.output.origin, second.output.origin} > {"conv"}
