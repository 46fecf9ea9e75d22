"""ModelProto to Graph: names become references, bodies become closures."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx

from .errors import ModelError
from .graph import Graph, ModelInfo, Value
from .protos import read_type, remainder
from .tensor import Tensor
from .tensor_io import ExternalFiles, tensor_from_proto, tensor_from_sparse

Attr = onnx.AttributeProto
Names = dict[str, Value]
_NODE = ("input", "output", "name", "op_type", "domain", "overload", "attribute")
_GRAPH = ("node", "name", "initializer", "sparse_initializer", "input", "output", "value_info")
_MODEL = ("ir_version", "opset_import", "graph", "functions")
_FUNCTION = ("node", "name", "domain", "overload", "input", "output", "opset_import", "value_info")
_SCALARS: dict[int, Callable[[Attr], Any]] = {
    Attr.FLOAT: lambda a: a.f,
    Attr.INT: lambda a: a.i,
    Attr.STRING: lambda a: _text([a.s])[0],
}
_LISTS: dict[int, Callable[[Attr], Sequence[Any]]] = {
    Attr.FLOATS: lambda a: list(a.floats),
    Attr.INTS: lambda a: list(a.ints),
    Attr.STRINGS: lambda a: _text(a.strings),
}
_VALUE_FIELDS = ("f", "i", "s", "t", "g", "floats", "ints", "strings")
_TYPES = (Attr.FLOAT, Attr.INT, Attr.STRING, Attr.TENSOR, Attr.GRAPH, *_LISTS)


@contextmanager
def without_gc() -> Iterator[None]:
    """Garbage collection off: building many small linked objects is ten times as fast."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def load_model(model: onnx.ModelProto, files: ExternalFiles) -> Graph:
    """The graph of `model`; tensors stay in the proto, which must not be changed afterwards."""
    info = ModelInfo(model.ir_version, _opsets(model.opset_import), rest=remainder(model, _MODEL))
    installed = onnx.defs.onnx_opset_version()
    if info.opset > installed:
        raise ModelError(
            f"the model uses operator set {info.opset}, the installed onnx knows those up to "
            f"{installed}: upgrade the onnx package"
        )
    with without_gc():
        for function in model.functions:
            domain = "" if function.domain == "ai.onnx" else function.domain
            key = (domain, function.name, function.overload)
            info.functions[key] = _load_function(function, info, files)
        return _Builder(Graph(model.graph.name, info), files, None).build(model.graph)


def _opsets(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {"" if o.domain == "ai.onnx" else o.domain: o.version for o in imports}


def _load_function(proto: onnx.FunctionProto, model: ModelInfo, files: ExternalFiles) -> Graph:
    info = ModelInfo(model.ir_version, _opsets(proto.opset_import), model.functions)
    builder = _Builder(Graph(proto.name, info), files, None)
    builder.graph.rest = remainder(proto, _FUNCTION)
    builder.graph.inputs = [builder.define(Value(name)) for name in proto.input]
    builder.nodes(proto.node)
    builder.types(proto.value_info)
    builder.outputs(proto.output)
    return builder.graph


class _Builder:
    """Fills one graph; `outer` is the builder of the graph around a body."""

    def __init__(self, graph: Graph, files: ExternalFiles, outer: _Builder | None) -> None:
        self.graph = graph
        self.files = files
        self.outer = outer
        self.scope: Names = {}
        self.captured: list[Value] = []  # of the node at hand: what its bodies read of this graph
        self.holder: list[Value] = []  # of a body: the `captured` of `outer` for the holding node

    def build(self, proto: onnx.GraphProto) -> Graph:
        self.graph.rest = remainder(proto, _GRAPH)
        constants = self.constants(proto)
        for info in proto.input:
            value = constants.get(info.name) or self.define(Value(info.name))
            if value.const is None or self.graph.info.ir_version >= 4 or self.outer is not None:
                value.overridable = value.const is not None
                self.graph.inputs.append(value)
            read_type(value, info)
        self.nodes(proto.node)
        self.types(proto.value_info)
        self.types(proto.output)
        self.outputs([info.name for info in proto.output])
        self.keep(proto, constants)
        return self.graph

    def define(self, value: Value) -> Value:
        if value.name in self.scope:
            raise ModelError(f"graph '{self.graph.name}' defines '{value.name}' more than once")
        if value.name:
            self.scope[value.name] = value
        return value

    def constants(self, proto: onnx.GraphProto) -> Names:
        tensors: list[tuple[str, Tensor]] = [
            (t.name, tensor_from_proto(t, self.files)) for t in proto.initializer
        ]
        tensors += [(s.values.name, tensor_from_sparse(s)) for s in proto.sparse_initializer]
        return {name: self.define(Value(name, const=tensor)) for name, tensor in tensors}

    def nodes(self, protos: Iterable[onnx.NodeProto]) -> None:
        for proto in protos:
            self.captured = []
            attrs, rest = self.attributes(proto)
            node = self.graph.add(
                proto.op_type,
                [self.look_up(name, proto) if name else None for name in proto.input],
                attrs,
                [Value(name) for name in proto.output],
                domain=proto.domain,
                name=proto.name,
                overload=proto.overload,
                captures=self.captured,
            )
            node.rest = rest
            for value in node.outputs:
                self.define(value)

    def look_up(self, name: str, reader: onnx.NodeProto) -> Value:
        value = self.find(name)
        if value is None:
            what = f"{reader.op_type} '{reader.name}'" if reader.name else reader.op_type
            raise ModelError(f"{what} reads '{name}', which nothing before it produces")
        return value

    def find(self, name: str) -> Value | None:
        """The value called `name` here, or a stand-in for the enclosing graph's."""
        value = self.scope.get(name)
        if value is None and self.outer is not None:
            source = self.outer.find(name)
            if source is not None:
                value = self.define(Value(name, source.dtype, source.shape))
                if source not in self.holder:
                    self.holder.append(source)
                self.graph.captures[value] = self.holder.index(source)
        return value

    def attributes(self, node: onnx.NodeProto) -> tuple[dict[str, Any], onnx.NodeProto | None]:
        """The attributes, and what else the node has (notes on attributes included)."""
        attrs = {}
        rest = remainder(node, _NODE)
        for attr in node.attribute:
            attrs[attr.name] = self.attribute(attr)
            notes = remainder(attr, ("name", "type", *_VALUE_FIELDS))
            if notes is not None and not isinstance(attrs[attr.name], Attr):
                notes.name = attr.name
                rest = rest or onnx.NodeProto()
                rest.attribute.append(notes)
        return attrs, rest

    def attribute(self, attr: Attr) -> Any:
        """The attribute as a Python value, or the proto itself when it has no such form."""
        kind = attr.type or _guess_type(attr)
        if attr.ref_attr_name:
            return attr
        if kind in _SCALARS:
            return _SCALARS[kind](attr)
        if kind in _LISTS:
            return _LISTS[kind](attr) or attr
        if kind == Attr.TENSOR:
            return tensor_from_proto(attr.t, self.files)
        if kind == Attr.GRAPH:
            body = _Builder(Graph(attr.g.name, self.graph.info), self.files, self)
            body.holder = self.captured
            return body.build(attr.g)
        return attr

    def types(self, infos: Iterable[onnx.ValueInfoProto]) -> None:
        """Declare results and constants; inputs have declarations of their own."""
        for info in infos:
            value = self.scope.get(info.name)
            if value is not None and (value.producer is not None or value.is_constant):
                read_type(value, info)

    def outputs(self, names: Sequence[str]) -> None:
        values = []
        for name in names:
            value = self.find(name)
            if value is None:
                raise ModelError(f"nothing produces the output '{name}' of '{self.graph.name}'")
            values.append(value)
        self.graph.set_outputs(values, names)

    def keep(self, proto: onnx.GraphProto, constants: Names) -> None:
        """Put aside what the graph cannot hold: declared outputs and data that nobody reads."""
        rest = self.graph.rest or onnx.GraphProto()
        rest.output.extend(proto.output)
        inputs = set(self.graph.inputs)
        unused = {name for name, v in constants.items() if not v.uses and v not in inputs}
        rest.initializer.extend(t for t in proto.initializer if t.name in unused)
        rest.sparse_initializer.extend(
            t for t in proto.sparse_initializer if t.values.name in unused
        )
        self.graph.rest = rest


def _text(strings: Iterable[bytes]) -> list[Any]:
    """Strings when all are UTF-8, else the bytes of all."""
    raw = list(strings)
    try:
        return [item.decode() for item in raw]
    except UnicodeDecodeError:
        return raw


def _guess_type(attr: Attr) -> int:
    """The type of an attribute of early files that did not say it; 0 when not evident."""
    present = [f.name for f, _ in attr.ListFields() if f.name in _VALUE_FIELDS]
    return int(_TYPES[_VALUE_FIELDS.index(present[0])]) if len(present) == 1 else 0
