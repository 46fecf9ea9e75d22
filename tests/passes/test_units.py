"""What an operator costs."""

import pytest

from ptq_opt.ir import DType, Graph
from ptq_opt.passes.units import operations


@pytest.mark.parametrize(
    ("left", "right", "result", "multiplications"),
    [
        ((4, 8), (8, 5), (4, 5), 4 * 8 * 5),
        ((2, 4, 8), (8, 5), (2, 4, 5), 2 * 4 * 8 * 5),
        ((4, 8), (8,), (4,), 4 * 8),
        ((8,), (8,), (), 8),
    ],
)
def test_matrix_products(
    left: tuple[int, ...],
    right: tuple[int, ...],
    result: tuple[int, ...],
    multiplications: int,
) -> None:
    graph = Graph()
    operands = [graph.input("a", DType.FLOAT, left), graph.input("b", DType.FLOAT, right)]
    node = graph.add("MatMul", operands)
    node.output.shape = result
    assert operations(node) == 2 * multiplications
