"""NaN and infinity are found where they begin."""

import numpy as np
import pytest

from ptq_opt.ir import Graph
from ptq_opt.ir.finite import first_not_finite
from ptq_opt.ir.shapes import infer
from ptq_opt.ir.text import parse


def found(body: str, *samples: list[float], dtype: str = "float") -> dict[str, int]:
    graph: Graph = parse(f"g ({dtype}[2] x) => ({dtype}[] y) {{ {body} }}")
    infer(graph)
    kind = {"float": np.float32, "double": np.float64, "float16": np.float16}[dtype]
    feeds = [{"x": np.array(sample, kind)} for sample in samples]
    values = [value for node in graph.order() for value in node.outputs]
    return {value.name: at for value, at in first_not_finite(graph, feeds, values).items()}


@pytest.mark.parametrize("dtype", ["float", "double", "float16"])
def test_the_first_is_named_and_not_what_follows(dtype: str) -> None:
    body = "a = Log(x) b = Neg(a) y = Abs(b)"
    assert found(body, [1, 2], [1, 0], [-1, 1], dtype=dtype) == {"a": 1}


def test_each_beginning_is_named() -> None:
    assert found("a = Sqrt(x) b = Log(x) y = Add(a, b)", [4, 0], [-1, 1]) == {"b": 0, "a": 1}


def test_a_large_sum_is_no_infinity() -> None:
    assert found("y = Neg(x)", [3e38, 3e38]) == {}


def test_what_is_swallowed_is_named_too() -> None:
    assert found("a = Div(x, x) b = IsNaN(a) c = Cast <to = 1> (b) y = Neg(c)", [0, 1]) == {"a": 0}
