"""Architectures that the benchmark builds itself."""

import math
from pathlib import Path

import pytest

from ptq_opt.ir import load
from ptq_opt.ir.shapes import infer
from ptq_opt.native.lowering import known_shape
from ptq_opt.tools.bench.architectures import ARCHITECTURES
from ptq_opt.tools.bench.cases import find_architectures


@pytest.mark.parametrize(
    ("name", "parameters", "products"),
    [("inception_resnet_v2", 55.8, 13.2), ("deeplabv3_mobilenet_v3", 11.0, 10.4)],
)
def test_architectures_are_those_of_their_papers(
    name: str, parameters: float, products: float
) -> None:
    """Millions of parameters and billions of products, as published."""
    graph = load(ARCHITECTURES[name]())
    infer(graph)
    weights = [value.const.numpy().size for value in graph.values() if value.const]
    assert sum(weights) / 1e6 == pytest.approx(parameters, rel=0.01)
    macs = 0
    for node in graph:
        if node.op == "Conv":
            weight, result = node.inputs[1], known_shape(node.output)
            assert weight is not None and result is not None
            macs += math.prod(result) * math.prod(weight.numpy().shape[1:])
    assert macs / 1e9 == pytest.approx(products, rel=0.01)


def test_they_are_cases_of_their_own(tmp_path: Path) -> None:
    (case,) = find_architectures(tmp_path, "architecture/deeplab")
    assert case.name == "deeplabv3_mobilenet_v3"
    assert case.sample()["image"].shape == (1, 3, 513, 513)
    assert case.model.exists()
