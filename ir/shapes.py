"""Element types and shapes of all values, from ONNX's own inference."""

from __future__ import annotations

import onnx

from .graph import Graph, Shape, Value
from .names import Names
from .onnx_save import save_model
from .protos import read_dtype, read_shape
from .tensor import Tensor
from .tensor_io import describe, tensor_to_proto

_CARRIES_SHAPE = 1024
"""Elements up to which a constant may say sizes, axes, scales or limits that shapes depend on."""


def infer(graph: Graph) -> None:
    """Fill the dtype and shape of values of `graph` and its bodies that lack one.

    Uses `onnx.shape_inference` with data propagation on a model without weights. What is known
    is only ever refined: an unknown dimension may become known, never the other way. Custom
    operators stay unknown.
    """
    names = Names.of(graph)
    model = save_model(graph, _without_weights, names)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    _read(graph, inferred.graph, names)


def _without_weights(tensor: Tensor, name: str | None) -> onnx.TensorProto:
    """A tensor with its data only when that may say something about shapes."""
    is_small = tensor.size <= _CARRIES_SHAPE
    return tensor_to_proto(tensor, name) if is_small else describe(tensor, name)


def _read(graph: Graph, proto: onnx.GraphProto, names: Names) -> None:
    found = {info.name: info.type for info in (*proto.value_info, *proto.output)}
    bodies = {(n.name, a.name): a.g for n in proto.node for a in n.attribute if a.HasField("g")}
    for node in graph.order():
        for value in node.outputs:
            if value in names.values and names.values[value] in found:
                _refine(value, found[names.values[value]])
        for name, body in node.bodies.items():
            for standin, position in body.captures.items():
                outer = node.captures[position]
                standin.dtype = outer.dtype or standin.dtype
                standin.shape = standin.shape if outer.shape is None else outer.shape
            _read(body, bodies[names.nodes[node], name], names)


def _refine(value: Value, kind: onnx.TypeProto) -> None:
    if kind.WhichOneof("value") != "tensor_type":
        return
    tensor = kind.tensor_type
    if value.dtype is None:
        value.dtype = read_dtype(tensor.elem_type)
    if tensor.HasField("shape"):
        value.shape = _merge(value.shape, read_shape(tensor.shape))


def _merge(known: Shape | None, found: Shape) -> Shape:
    """Dimension by dimension the more precise; `known` wins where both say a size."""
    if known is None:
        return tuple(_named(d) for d in found)
    if len(known) != len(found):
        return known
    return tuple(
        k if isinstance(k, int) or (k is not None and not isinstance(f, int)) else _named(f)
        for k, f in zip(known, found, strict=True)
    )


def _named(dim: int | str | None) -> int | str | None:
    """Symbols that inference made up carry nothing."""
    return None if isinstance(dim, str) and dim.startswith("unk__") else dim
