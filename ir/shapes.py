"""Element types and shapes of all values, from ONNX's own inference."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from .clone import clone
from .errors import ModelError, OutOfMemory
from .graph import Graph
from .names import Names
from .onnx_save import save_model
from .protos import read_dtype, read_shape
from .tensor import Tensor
from .tensor_io import describe, tensor_to_proto
from .value import Shape, Value

_CARRIES_SHAPE = 1024
"""Elements up to which a constant may say sizes, axes, scales or limits that shapes depend on."""


def infer(graph: Graph) -> None:
    """Fill the dtype and shape of values of `graph` and its bodies that lack one.

    Uses `onnx.shape_inference` with data propagation on a model without weights. What is known
    is only ever refined: an unknown dimension may become known, never the other way. Custom
    operators stay unknown. Where nothing is unknown, nothing is done.
    """
    if not any(_lacks(value) for part in graph.graphs() for value in part.values()):
        return
    names = Names.of(graph)
    model = save_model(graph, _without_weights, names)
    for value, kind in _found(graph, _inferred(model), names):
        _refine(value, kind)


def type_outputs(graph: Graph) -> None:
    """Give outputs that are declared without a type the one that is inferred; nothing else."""
    if any(value.dtype is None for value in graph.outputs):
        copy, where = clone(graph)
        infer(copy)
        for value in graph.outputs:
            value.dtype = value.dtype or where[value].dtype


def correct(graph: Graph) -> dict[Value, Shape]:
    """Fill and correct shapes as the operators have them; what the model declared otherwise.

    ONNX Runtime goes by what operators compute and lets such a model pass with a note. A declared
    rank is wrong where inference finds another one, a declared size where inference finds another
    size or a symbol of the inputs: a batch, say, that was 1 when the model was exported.
    """
    names = Names.of(graph)
    model = save_model(graph, _without_weights, names)
    for proto in _with_bodies(model.graph):
        _undeclare(proto)
    wrong: dict[Value, Shape] = {}
    for value, found in _found(graph, _inferred(model), names):
        declared = value.shape
        if declared is not None and found.tensor_type.HasField("shape"):
            value.shape = _agreed(declared, read_shape(found.tensor_type.shape))
            if value.shape != declared:
                wrong[value] = declared
        _refine(value, found)
    return wrong


def _lacks(value: Value) -> bool:
    return value.dtype is None or value.shape is None or None in value.shape


def _inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    """The graph of `model` with what ONNX infers.

    Raises `ModelError` when it refuses the model, `OutOfMemory` when it declares huge shapes.
    """
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except MemoryError:
        what = "more memory than there is: an operator may declare a size that makes no sense"
        raise OutOfMemory(
            f"the shapes of the model cannot be inferred, which needs {what}"
        ) from None
    except Exception as error:  # its own class, and whatever its C++ throws
        raise ModelError(f"the shapes of the model cannot be inferred: {error}") from None


def _with_bodies(proto: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield proto
    for node in proto.node:
        for attr in node.attribute:
            if attr.HasField("g"):
                yield from _with_bodies(attr.g)


def _undeclare(proto: onnx.GraphProto) -> None:
    """Remove the shapes of what operators of the standard compute: inference knows these."""
    computed = {
        name
        for node in proto.node
        if onnx.defs.has(node.op_type, node.domain)
        for name in node.output
    }
    for info in (*proto.value_info, *proto.output):
        if info.name in computed and info.type.HasField("tensor_type"):
            info.type.tensor_type.ClearField("shape")


def _agreed(declared: Shape, found: Shape) -> Shape:
    """`declared` but for what `found` contradicts."""
    found = tuple(_named(d) for d in found)
    if len(declared) != len(found):
        return found
    return tuple(
        f if isinstance(d, int) and f is not None else d
        for d, f in zip(declared, found, strict=True)
    )


def _without_weights(tensor: Tensor, name: str | None) -> onnx.TensorProto:
    """A tensor with its data only when that may say something about shapes."""
    is_small = tensor.size <= _CARRIES_SHAPE
    return tensor_to_proto(tensor, name) if is_small else describe(tensor, name)


def _found(
    graph: Graph, proto: onnx.GraphProto, names: Names
) -> Iterator[tuple[Value, onnx.TypeProto]]:
    """What was inferred for each value that is computed, in order; bodies after what they read."""
    found = {info.name: info.type for info in (*proto.value_info, *proto.output)}
    bodies = {(n.name, a.name): a.g for n in proto.node for a in n.attribute if a.HasField("g")}
    for node in graph.order():
        for value in node.outputs:
            kind = found.get(names.values.get(value, ""))
            if kind is not None and kind.HasField("tensor_type"):
                yield value, kind
        for name, body in node.bodies.items():
            for standin, position in body.captures.items():
                outer = node.captures[position]
                standin.dtype = outer.dtype or standin.dtype
                standin.shape = standin.shape if outer.shape is None else outer.shape
            yield from _found(body, bodies[names.nodes[node], name], names)


def _refine(value: Value, kind: onnx.TypeProto) -> None:
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
