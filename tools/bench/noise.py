"""Fill the `light` models of the onnx package, whose weights are constants, with seeded noise.

In these files a ConstantOfShape node stands for each large weight. A network of equal weights says
nothing about quantization, so each of them becomes an initializer of normal noise: He scaled where
it multiplies (He et al., "Delving Deep into Rectifiers", 2015), near 1 where it scales and near 0
where it shifts. The outputs stay finite, and every machine gets the same file.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[np.float32]

SPREAD = 0.1
"""Deviation of scales from 1, and of biases and means from 0."""

ROLES = {
    ("BatchNormalization", 1): "scale",
    ("BatchNormalization", 4): "scale",  # a variance: positive
    ("Conv", 1): "weight",
    ("Gemm", 1): "weight",
    ("Mul", 0): "scale",
    ("Mul", 1): "scale",
    ("Reshape", 0): "weight",
}
"""What a constant is to the operator that reads it as its n-th input; anything else is a shift."""


def fill(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace the ConstantOfShape weights of ``model`` by noise, in place."""
    graph = model.graph
    shapes = {tensor.name: tensor for tensor in graph.initializer}
    constants = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    for node in constants:
        shape = tuple(numpy_helper.to_array(shapes[node.input[0]]).tolist())
        role = next(roles(graph, node.output[0]), "shift")
        values = noise(role, shape, transposed(graph, node.output[0]), node.output[0])
        graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        graph.node.remove(node)
    drop_weight_inputs(model, {node.input[0] for node in constants})
    return model


def roles(graph: onnx.GraphProto, name: str) -> Iterator[str]:
    """What a tensor is to each operator that reads it, seen through Unsqueeze."""
    for node in graph.node:
        for index, source in enumerate(node.input):
            if source != name:
                continue
            if node.op_type == "Unsqueeze":
                yield from roles(graph, node.output[0])
            else:
                yield ROLES.get((node.op_type, index), "shift")


def transposed(graph: onnx.GraphProto, name: str) -> bool:
    """Whether a tensor is the [K, N] matrix of a Gemm, so that its rows are its fan-in."""
    return any(
        node.op_type == "Gemm"
        and node.input[1] == name
        and not any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        for node in graph.node
    )


def noise(role: str, shape: tuple[int, ...], transposed: bool, name: str) -> Array:
    """Seeded values of a weight, scale or shift; the seed is the tensor's name."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    if role == "scale":
        return np.asarray(1 + SPREAD * np.clip(values, -4, 4), np.float32)
    if role == "weight":
        fan_in = shape[0] if transposed else max(int(np.prod(shape[1:])), 1)
        return np.asarray(values * np.sqrt(2 / fan_in), np.float32)
    return np.asarray(SPREAD * values, np.float32)


def drop_weight_inputs(model: onnx.ModelProto, unused: set[str]) -> None:
    """Make initializers constants: IR version 3 lists them among the inputs, 4 and later not."""
    graph = model.graph
    kept = [tensor for tensor in graph.initializer if tensor.name not in unused]
    names = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in names]
    del graph.initializer[:], graph.input[:]
    graph.initializer.extend(kept)
    graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 8)
