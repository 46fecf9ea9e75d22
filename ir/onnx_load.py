"""ModelProto to Graph: names become references, bodies become closures."""

from __future__ import annotations

import graphlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx

from .errors import ModelError
from .external import ExternalFiles
from .garbage import without_gc
from .graph import Graph, ModelInfo
from .protos import read_type, remainder
from .tensor import Tensor
from .tensor_io import SparseSource, tensor_from_proto, tensor_from_sparse, tensor_to_proto
from .value import Value

Attr = onnx.AttributeProto
_NODE = ("input", "output", "name", "op_type", "domain", "overload", "attribute")
_GRAPH = ("node", "name", "initializer", "sparse_initializer", "input", "output", "value_info")
_MODEL = ("ir_version", "opset_import", "graph", "functions")
_FUNCTION = ("node", "name", "domain", "overload", "input", "output", "opset_import", "value_info")
_ATTRIBUTE = {
    "f": Attr.FLOAT,
    "i": Attr.INT,
    "s": Attr.STRING,
    "t": Attr.TENSOR,
    "g": Attr.GRAPH,
    "floats": Attr.FLOATS,
    "ints": Attr.INTS,
    "strings": Attr.STRINGS,
}
"""The fields of attributes that become Python values, and the type each stands for."""
_PLAIN: dict[int, Callable[[Attr], Any]] = {
    Attr.FLOAT: lambda attr: attr.f,
    Attr.INT: lambda attr: attr.i,
    Attr.STRING: lambda attr: _text([attr.s])[0],
    Attr.FLOATS: lambda attr: list(attr.floats) or attr,  # an empty list has lost its type
    Attr.INTS: lambda attr: list(attr.ints) or attr,
    Attr.STRINGS: lambda attr: _text(attr.strings) or attr,
}


@contextmanager
def refusing_bad_text() -> Iterator[None]:
    """Say so when protobuf comes upon a string that is none, on reading it or on writing it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ModelError(f"the model is damaged: a name in it is not text ({error})") from None


def load_model(model: onnx.ModelProto, files: ExternalFiles) -> Graph:
    """The graph of `model`; tensors stay in the proto, which must not be changed afterwards."""
    opsets = _opsets(model.opset_import)
    info = ModelInfo(model.ir_version, opsets, rest=remainder(model, _MODEL))
    if not info.opsets and info.ir_version >= 3:
        raise ModelError("the model does not say which operator sets it uses, it is not complete")
    installed = onnx.defs.onnx_opset_version()
    if info.opset > installed:
        raise ModelError(
            f"the model uses operator set {info.opset}, the installed onnx knows those up to "
            f"{installed}: upgrade the onnx package"
        )
    with without_gc(), refusing_bad_text():
        for function in model.functions:
            key = (_domain(function.domain), function.name, function.overload)
            info.functions[key] = _load_function(function, info, files)
        return _Builder(Graph(model.graph.name, info), files).build(model.graph)


def _load_function(proto: onnx.FunctionProto, model: ModelInfo, files: ExternalFiles) -> Graph:
    info = ModelInfo(model.ir_version, _opsets(proto.opset_import), model.functions)
    builder = _Builder(Graph(proto.name, info), files)
    builder.graph.rest = remainder(proto, _FUNCTION)
    builder.declare(proto.value_info)
    builder.graph.inputs = [builder.define(Value(name)) for name in proto.input]
    builder.nodes(proto.node)
    builder.outputs(proto.output)
    return builder.graph


class _Builder:
    """Fills one graph; for a body, `outer` is the builder of the graph around it."""

    def __init__(self, graph: Graph, files: ExternalFiles, outer: _Builder | None = None) -> None:
        self.graph = graph
        self.files = files
        self.outer = outer
        self.scope: dict[str, Value] = {}
        self.declared: dict[str, list[onnx.ValueInfoProto]] = {}
        self.captures: list[Value] = []  # what the bodies of the node at hand read of this graph

    def build(self, proto: onnx.GraphProto) -> Graph:
        self.graph.rest = remainder(proto, _GRAPH)
        self.declare(proto.value_info)
        self.declare(proto.output)
        for name, tensor in self.constants(proto):
            self.define(Value(name, const=tensor))
        constants = list(self.scope.values())
        for info in proto.input:
            self.input(info)
        self.nodes(proto.node)
        self.outputs([info.name for info in proto.output])
        self.keep(proto.output, constants)
        return self.graph

    def declare(self, infos: Iterable[onnx.ValueInfoProto]) -> None:
        for info in infos:
            self.declared.setdefault(info.name, []).append(info)

    def define(self, value: Value) -> Value:
        """Enter a new value in the scope, with the type that is declared for it."""
        if value.name in self.scope:
            raise ModelError(f"graph '{self.graph.name}' defines '{value.name}' more than once")
        if value.name:
            self.scope[value.name] = value
        for info in self.declared.get(value.name, ()):
            read_type(value, info)
        return value

    def constants(self, proto: onnx.GraphProto) -> Iterator[tuple[str, Tensor]]:
        for tensor in proto.initializer:
            yield tensor.name, self.tensor(tensor)
        for sparse in proto.sparse_initializer:
            yield sparse.values.name, tensor_from_sparse(sparse)

    def input(self, info: onnx.ValueInfoProto) -> None:
        """Add an input, unless it is one only because early files list constants among them."""
        value = self.scope.get(info.name)
        if value is None or value.const is None:
            value = self.define(Value(info.name))
        elif self.graph.info.ir_version < 4 and self.outer is None:
            read_type(value, info)
            return
        value.overridable = value.const is not None
        self.graph.inputs.append(value)
        read_type(value, info)

    def nodes(self, protos: Sequence[onnx.NodeProto]) -> None:
        for proto in _producers_first(protos):
            self.captures = []
            attrs, rest = self.attributes(proto)
            node = self.graph.add(
                proto.op_type,
                [self.look_up(name, proto) if name else None for name in proto.input],
                attrs,
                [self.define(Value(name)) for name in proto.output],
                domain=proto.domain,
                name=proto.name,
                overload=proto.overload,
                captures=self.captures,
            )
            node.rest = rest

    def look_up(self, name: str, reader: onnx.NodeProto) -> Value:
        value = self.find(name)
        if value is None:
            raise ModelError(
                f"{_label(reader)} reads '{name}', which nothing in the model produces"
            )
        return value

    def find(self, name: str) -> Value | None:
        """The value called `name` here, or a stand-in for that of an enclosing graph."""
        value = self.scope.get(name)
        if value is None and self.outer is not None:
            source = self.outer.find(name)
            if source is not None:
                value = self.define(Value(name, source.dtype, source.shape))
                value.info = source.info
                if source not in self.outer.captures:
                    self.outer.captures.append(source)
                self.graph.captures[value] = self.outer.captures.index(source)
        return value

    def attributes(self, node: onnx.NodeProto) -> tuple[dict[str, Any], onnx.NodeProto | None]:
        """The attributes, and what else the node has (notes on attributes included)."""
        attrs = {}
        rest = remainder(node, _NODE)
        for attr in node.attribute:
            attrs[attr.name] = self.attribute(attr)
            notes = remainder(attr, ("name", "type", *_ATTRIBUTE))
            if notes is not None and not isinstance(attrs[attr.name], Attr):
                notes.name = attr.name
                rest = rest or onnx.NodeProto()
                rest.attribute.append(notes)
        return attrs, rest

    def attribute(self, attr: Attr) -> Any:
        """The attribute as a Python value, or the proto itself when it has no such form."""
        kind = attr.type or _evident_type(attr)
        if attr.ref_attr_name:
            return attr
        if kind in _PLAIN:
            return _PLAIN[kind](attr)
        if kind == Attr.TENSOR:
            return self.tensor(attr.t)
        if kind == Attr.GRAPH:
            return _Builder(Graph(attr.g.name, self.graph.info), self.files, self).build(attr.g)
        return attr

    def tensor(self, proto: onnx.TensorProto) -> Tensor:
        external = proto.data_location == onnx.TensorProto.EXTERNAL
        return tensor_from_proto(proto, self.files.read(proto) if external else None)

    def outputs(self, names: Sequence[str]) -> None:
        values = []
        for name in names:
            value = self.find(name)
            if value is None:
                raise ModelError(f"nothing produces the output '{name}' of '{self.graph.name}'")
            values.append(value)
        self.graph.set_outputs(values, names)

    def keep(self, outputs: Iterable[onnx.ValueInfoProto], constants: Iterable[Value]) -> None:
        """Put aside what the graph cannot hold: declared outputs and data that nobody reads."""
        rest = self.graph.rest or onnx.GraphProto()
        rest.output.extend(outputs)
        for value in constants:
            if value.uses or value.const is None or value.overridable:
                continue
            if isinstance(value.const.source, SparseSource):
                rest.sparse_initializer.append(value.const.source.proto)
            else:
                rest.initializer.append(tensor_to_proto(value.const))
        self.graph.rest = rest


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _opsets(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {_domain(entry.domain): entry.version for entry in imports}


def _producers_first(nodes: Sequence[onnx.NodeProto]) -> Sequence[onnx.NodeProto]:
    """The nodes, sorted if the file (against the standard) has readers before producers."""
    made = {name: k for k, node in enumerate(nodes) for name in node.output if name}
    if all(made.get(name, -1) < k for k, node in enumerate(nodes) for name in node.input):
        return nodes
    before = {
        k: [made[name] for name in _reads(node) if made.get(name, k) != k]
        for k, node in enumerate(nodes)
    }
    try:
        return [nodes[k] for k in graphlib.TopologicalSorter(before).static_order()]
    except graphlib.CycleError as error:
        culprit = _label(nodes[error.args[1][0]])
        raise ModelError(f"the graph has a cycle through {culprit}") from None


def _label(node: onnx.NodeProto) -> str:
    return f"{node.op_type} '{node.name or next(iter(node.output), '')}'"


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """All names that a node and the bodies inside it mention as inputs."""
    yield from node.input
    for attr in node.attribute:
        for inner in attr.g.node:
            yield from _reads(inner)
        yield from (info.name for info in attr.g.output)


def _text(strings: Iterable[bytes]) -> list[Any]:
    """Strings when all are UTF-8, else the bytes of all."""
    raw = list(strings)
    try:
        return [item.decode() for item in raw]
    except UnicodeDecodeError:
        return raw


def _evident_type(attr: Attr) -> int:
    """The type of an attribute of an early file that does not say it; 0 when not evident."""
    present = [field.name for field, _ in attr.ListFields() if field.name in _ATTRIBUTE]
    return int(_ATTRIBUTE[present[0]]) if len(present) == 1 else 0
