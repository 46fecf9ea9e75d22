"""Whether two models are the same up to the names of inner values and nodes.

Two models with equal `canonical` forms compute the same: same operators in the same order with
the same attributes and constants, wired the same way, behind the same interface.
"""

from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

_TYPES = {
    "f": AttributeProto.FLOAT,
    "i": AttributeProto.INT,
    "s": AttributeProto.STRING,
    "t": AttributeProto.TENSOR,
    "floats": AttributeProto.FLOATS,
    "ints": AttributeProto.INTS,
    "strings": AttributeProto.STRINGS,
}


def canonical(model: ModelProto) -> Any:
    """Nested tuples that are equal for models that differ in inner names only."""
    rest = ModelProto()
    rest.CopyFrom(model)
    for field in ("graph", "functions", "opset_import"):
        rest.ClearField(field)
    return (
        rest.SerializeToString(),
        sorted((o.domain.replace("ai.onnx", "", 1), o.version) for o in model.opset_import),
        _graph(model.graph, {}, model.ir_version < 4),
        [_function(function) for function in model.functions],
    )


def _graph(graph: GraphProto, outer: dict[str, str], early: bool = False) -> Any:
    """`outer` maps names of the enclosing graphs; those of a model's interface are kept."""
    names = dict(outer)
    keep = not outer
    constants = {t.name: _data(t) for t in graph.initializer}
    constants.update({s.values.name: s.SerializeToString() for s in graph.sparse_initializer})
    inputs = [i for i in graph.input if not (early and i.name in constants)]
    for k, info in enumerate(inputs):
        names[info.name] = info.name if keep else f"{len(outer)}.input{k}"
    for k, info in enumerate(graph.output):
        names.setdefault(info.name, info.name if keep else f"{len(outer)}.output{k}")
    nodes = [_node(node, names) for node in graph.node]
    return (
        graph.name,
        graph.doc_string,
        sorted((p.key, p.value) for p in graph.metadata_props),
        [(names[i.name], _declaration(i)) for i in inputs],
        [(names[o.name], _declaration(o)) for o in graph.output],
        nodes,
        sorted((names.get(name, name), data) for name, data in constants.items()),
        sorted((names[i.name], _declaration(i)) for i in graph.value_info if i.name in names),
        sorted(a.SerializeToString() for a in graph.quantization_annotation),
    )


def _function(function: onnx.FunctionProto) -> Any:
    names = {name: f"input{k}" for k, name in enumerate(function.input)}
    nodes = [_node(node, names) for node in function.node]
    rest = onnx.FunctionProto()
    rest.CopyFrom(function)
    for field in ("input", "output", "node", "value_info"):
        rest.ClearField(field)
    infos = sorted((names[i.name], _declaration(i)) for i in function.value_info)
    return rest.SerializeToString(), nodes, [names[name] for name in function.output], infos


def _node(node: NodeProto, names: dict[str, str]) -> Any:
    rest = NodeProto()
    rest.CopyFrom(node)
    for field in ("input", "output", "name", "attribute", "domain"):
        rest.ClearField(field)
    inputs = [names.setdefault(name, f"v{len(names)}") if name else "" for name in node.input]
    attributes = [_attribute(attr, names) for attr in node.attribute]
    outputs = [names.setdefault(name, f"v{len(names)}") if name else "" for name in node.output]
    domain = "" if node.domain == "ai.onnx" else node.domain
    return domain, rest.SerializeToString(), inputs, attributes, outputs


def _attribute(attr: AttributeProto, names: dict[str, str]) -> Any:
    if attr.HasField("g"):
        return attr.name, attr.doc_string, _graph(attr.g, names)
    typed = AttributeProto()
    typed.CopyFrom(attr)
    present = [field.name for field, _ in attr.ListFields() if field.name in _TYPES]
    if not attr.type and present:
        typed.type = _TYPES[present[0]]
    return typed.SerializeToString()


def _declaration(info: onnx.ValueInfoProto) -> bytes:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(info)
    copy.name = ""
    return copy.SerializeToString()


def _data(tensor: TensorProto) -> bytes:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = ""
    return copy.SerializeToString()
