"""Graph to ModelProto: references become names, closures become bodies."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import onnx

from .errors import ModelError
from .graph import Graph, Node, Value
from .names import Names
from .onnx_load import without_gc
from .protos import write_type
from .tensor import Tensor
from .tensor_io import SparseSource, tensor_to_proto

Attr = onnx.AttributeProto
StoreTensor = Callable[[Tensor, str], onnx.TensorProto]
"""Makes the proto of an initializer, with its data inside or in another file."""


def save_model(
    graph: Graph, store: StoreTensor = tensor_to_proto, names: Names | None = None
) -> onnx.ModelProto:
    """The model of `graph`; `store` decides where the data of initializers goes."""
    info = graph.info
    model = onnx.ModelProto()
    if info.rest is not None:
        model.CopyFrom(info.rest)
    model.ir_version = info.ir_version
    _write_opsets(info.opsets, model.opset_import)
    with without_gc():
        _Writer(names or Names.of(graph), store).graph(graph, model.graph)
        for (domain, name, overload), body in info.functions.items():
            function = model.functions.add()
            if body.rest is not None:
                function.CopyFrom(body.rest)
            function.domain, function.name = domain, name
            if overload:
                function.overload = overload
            _write_opsets(body.info.opsets, function.opset_import)
            _Writer(Names.of(body), store).function(body, function)
    return model


def _write_opsets(opsets: dict[str, int], imports: Any) -> None:
    for domain, version in opsets.items():
        imports.add(domain=domain, version=version)


class _Writer:
    """Writes graphs that share one set of names."""

    def __init__(self, names: Names, store: StoreTensor) -> None:
        self.names = names
        self.store = store

    def graph(self, graph: Graph, proto: onnx.GraphProto, is_body: bool = False) -> None:
        rest = graph.rest
        declared: dict[str, onnx.ValueInfoProto] = {}
        if rest is not None:
            proto.CopyFrom(rest)
            declared = {info.name: info for info in rest.output}
            del proto.output[:]
        proto.name = graph.name or "graph"
        proto.input.extend(write_type(v, self.names.values[v]) for v in graph.inputs)
        self.constants(graph, proto, is_body)
        self.nodes(graph, proto.node)
        for value, wanted, name in zip(
            graph.outputs, graph.output_names, self.names.outputs[graph], strict=True
        ):
            proto.output.append(write_type(value, name, declared.get(wanted)))
        self.types(graph, proto.value_info)
        self.annotations(proto)

    def function(self, graph: Graph, proto: onnx.FunctionProto) -> None:
        for value in _constants(graph):
            node = proto.node.add(op_type="Constant", output=[self.names.values[value]])
            assert value.const is not None
            node.attribute.add(
                name="value", type=Attr.TENSOR, t=tensor_to_proto(value.const, node.output[0])
            )
        self.nodes(graph, proto.node)
        proto.input.extend(self.names.values[v] for v in graph.inputs)
        proto.output.extend(self.names.outputs[graph])
        self.types(graph, proto.value_info)

    def constants(self, graph: Graph, proto: onnx.GraphProto, is_body: bool) -> None:
        """Write the initializers, which before IR version 4 had to be inputs, too."""
        early = graph.info.ir_version < 4
        if early:
            for kept in proto.initializer:
                proto.input.append(write_type(Value(const=_shell(kept)), kept.name))
        for value in _constants(graph):
            name = self.names.values[value]
            assert value.const is not None
            if isinstance(value.const.source, SparseSource):
                sparse = proto.sparse_initializer.add()
                sparse.CopyFrom(value.const.source.proto)
                sparse.values.name = name
            else:
                proto.initializer.append(self.store(value.const, name))
            if early:
                proto.input.append(write_type(value, name))

    def nodes(self, graph: Graph, protos: Any) -> None:
        for node in graph.order():
            self.node(node, protos.add())
        for value, name in self.names.copies[graph]:
            protos.add(
                op_type="Identity", name=name, input=[self.names.values[value]], output=[name]
            )

    def node(self, node: Node, proto: onnx.NodeProto) -> None:
        notes: dict[str, Attr] = {}
        if node.rest is not None:
            proto.CopyFrom(node.rest)
            notes = {attr.name: attr for attr in node.rest.attribute}
            del proto.attribute[:]
        values = self.names.values
        proto.op_type = node.op
        proto.name = self.names.nodes[node]
        if node.domain:
            proto.domain = node.domain
        if node.overload:
            proto.overload = node.overload
        proto.input.extend("" if v is None else values[v] for v in node.inputs)
        proto.output.extend(values[v] for v in node.outputs)
        for name, value in node.attrs.items():
            attr = proto.attribute.add()
            if name in notes:
                attr.CopyFrom(notes[name])
            self.attribute(attr, name, value)

    def attribute(self, attr: Attr, name: str, value: Any) -> None:
        if isinstance(value, Attr):
            attr.CopyFrom(value)
        elif isinstance(value, Tensor):
            attr.type = Attr.TENSOR
            attr.t.CopyFrom(tensor_to_proto(value))
        elif isinstance(value, Graph):
            attr.type = Attr.GRAPH
            self.graph(value, attr.g, is_body=True)
        else:
            write_attribute(attr, name, value)
        attr.name = name

    def types(self, graph: Graph, infos: Any) -> None:
        """Declare inner values whose type is known or annotated."""
        done = {*graph.inputs, *(v for v in graph.outputs), *graph.captures}
        for node in graph.order():
            for value in (*node.outputs, *(v for _, v in node.operands())):
                if value in done:
                    continue
                done.add(value)
                typed = value.dtype is not None and value.const is None
                if self.names.values[value] and (typed or value.info is not None):
                    infos.append(write_type(value, self.names.values[value]))

    def annotations(self, proto: onnx.GraphProto) -> None:
        """Drop quantization annotations of values that are gone."""


def write_attribute(attr: Attr, name: str, value: Any) -> None:
    """Set type and content of `attr` from a number, text or a list of those."""
    single = not isinstance(value, (list, tuple))
    items: Sequence[Any] = [value] if single else value
    if all(isinstance(item, numbers.Integral) for item in items):
        attr.type, numbers_ = Attr.INTS, [int(item) for item in items]
        if single:
            attr.type, attr.i = Attr.INT, numbers_[0]
        else:
            attr.ints.extend(numbers_)
    elif all(isinstance(item, numbers.Real) for item in items):
        if single:
            attr.type, attr.f = Attr.FLOAT, float(value)
        else:
            attr.type = Attr.FLOATS
            attr.floats.extend(float(item) for item in items)
    elif all(isinstance(item, (str, bytes)) for item in items):
        raw = [item.encode() if isinstance(item, str) else item for item in items]
        if single:
            attr.type, attr.s = Attr.STRING, raw[0]
        else:
            attr.type = Attr.STRINGS
            attr.strings.extend(raw)
    else:
        raise ModelError(f"attribute '{name}' cannot hold {value!r}: mixed or unknown types")


def _constants(graph: Graph) -> list[Value]:
    """Constants in order of first use, each once (inputs with a default included)."""
    every = [v for v in graph.inputs if v.const is not None]
    every += [v for node in graph.order() for _, v in node.operands() if v.const is not None]
    every += [v for v in graph.outputs if v.const is not None]
    return list(dict.fromkeys(every))


def _shell(proto: onnx.TensorProto) -> Tensor:
    from .tensor_io import ExternalFiles, tensor_from_proto

    return tensor_from_proto(proto, ExternalFiles(None))
