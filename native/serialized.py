"""A quantized model as the bytes that a C program loads."""

from __future__ import annotations

import os

import onnx

from ..ir import Graph, ModelError, load
from .lower import lower
from .lowering import known_shape
from .prepare import specialize
from .values import Stored


def serialize(model: str | os.PathLike[str] | onnx.ModelProto | Graph) -> bytes:
    """The bytes that `ptq_model_parse` of `ptq/kernels.h` reads.

    Inputs and outputs have the model's order, types and shapes, dense and row-major.

    Raises:
        ModelError: a shape is open, or an operator has no integer form; names it.
    """
    graph = model if isinstance(model, Graph) else load(model)
    inputs = [value for value in graph.inputs if value.const is None]
    shapes = {value.name: known_shape(value) for value in inputs}
    for name, shape in shapes.items():
        if shape is None:
            raise ModelError(f"the shape of input '{name}' is open: a C program needs it fixed")
    low, results = lower(specialize(graph, {n: s for n, s in shapes.items() if s is not None}))
    if low.reasons:
        node, reason = next(iter(low.reasons.items()))
        raise ModelError(f"{node} has no integer form: {reason}; a C program has nothing else")
    if not all(isinstance(result, Stored) for result in results):
        raise ModelError("an output is constant: a C program has no use for it")
    return low.models[0].serialize()
