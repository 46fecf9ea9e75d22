"""Graph to ModelProto: references become names, closures become bodies."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import onnx

from .errors import ModelError
from .garbage import without_gc
from .graph import Graph, Node
from .names import Names
from .onnx_load import refusing_bad_text
from .protos import write_type
from .tensor import Tensor
from .tensor_io import SparseSource, tensor_from_proto, tensor_to_proto
from .value import Value

Attr = onnx.AttributeProto
StoreTensor = Callable[[Tensor, str | None], onnx.TensorProto]
"""Makes the proto of an initializer of a name, or of an attribute (None), whose data must be inside
the model if it is to be run."""


def save_model(
    graph: Graph, store: StoreTensor = tensor_to_proto, names: Names | None = None
) -> onnx.ModelProto:
    """The model of `graph`.

    Args:
        graph: the main graph of a model.
        store: decides where the data of initializers and attributes goes.
        names: what values and nodes are to be called, `Names.of(graph)` by default.
    """
    info = graph.info
    model = onnx.ModelProto()
    if info.rest is not None:
        model.CopyFrom(info.rest)
    model.ir_version = info.ir_version
    with without_gc(), refusing_bad_text():
        _write_opsets(info.opsets, model.opset_import)
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
        declared: dict[str, onnx.ValueInfoProto] = {}
        if graph.rest is not None:
            proto.CopyFrom(graph.rest)
            declared = {info.name: info for info in graph.rest.output}
            del proto.output[:]
        proto.name = graph.name or "graph"
        proto.input.extend(write_type(v, self.names.values[v]) for v in graph.inputs)
        if graph.info.ir_version >= 4:
            self.initializers(_constants(graph), proto)
        elif is_body:
            self.initializers([v for v in graph.inputs if v.const is not None], proto)
            self.constant_nodes(graph, proto.node)
        else:
            self.early_initializers(graph, proto)
        self.nodes(graph, proto.node)
        for value, wanted, name in zip(
            graph.outputs, graph.output_names, self.names.outputs[graph], strict=True
        ):
            proto.output.append(write_type(value, name, declared.get(wanted)))
        self.types(graph, proto.value_info)
        self.annotations(proto)

    def function(self, graph: Graph, proto: onnx.FunctionProto) -> None:
        proto.input.extend(self.names.values[v] for v in graph.inputs)
        proto.output.extend(self.names.outputs[graph])
        self.constant_nodes(graph, proto.node)  # functions have no initializers
        self.nodes(graph, proto.node)
        self.types(graph, proto.value_info)

    def initializers(self, constants: Sequence[Value], proto: onnx.GraphProto) -> None:
        for value in constants:
            assert value.const is not None
            name = self.names.values[value]
            if isinstance(value.const.source, SparseSource):
                sparse = proto.sparse_initializer.add()
                sparse.CopyFrom(value.const.source.proto)
                sparse.values.name = name
            else:
                proto.initializer.append(self.store(value.const, name))

    def early_initializers(self, graph: Graph, proto: onnx.GraphProto) -> None:
        """Before IR version 4 every initializer is an input, too."""
        for kept in proto.initializer:
            value = Value(kept.name, const=tensor_from_proto(kept))
            proto.input.append(write_type(value, kept.name))
        constants = _constants(graph)
        self.initializers(constants, proto)
        proto.input.extend(write_type(v, self.names.values[v]) for v in constants)

    def constant_nodes(self, graph: Graph, protos: Any) -> None:
        for value in _constants(graph):
            if value.is_constant and value.const is not None:
                name = self.names.values[value]
                node = protos.add(op_type="Constant", name=name, output=[name])
                tensor = tensor_to_proto(value.const, name)
                node.attribute.add(name="value", type=Attr.TENSOR, t=tensor)

    def nodes(self, graph: Graph, protos: Any) -> None:
        for node in graph.order():
            self.node(node, protos.add())
        for value, output, name in self.names.copies[graph]:
            source = self.names.values[value]
            protos.add(op_type="Identity", name=name, input=[source], output=[output])

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
            attr.t.CopyFrom(self.store(value, None))
        elif isinstance(value, Graph):
            attr.type = Attr.GRAPH
            self.graph(value, attr.g, is_body=True)
        else:
            write_plain(attr, name, value)
        attr.name = name

    def types(self, graph: Graph, infos: Any) -> None:
        """Declare inner values whose type is known or annotated."""
        done = {*graph.inputs, *graph.captures}
        done.update(v for v in graph.outputs if v.producer is not None)
        for value in graph.values():
            typed = value.dtype is not None and value.const is None
            if (typed or value.info is not None) and value not in done:
                name = self.names.values[value]
                if name:
                    infos.append(write_type(value, name))

    def annotations(self, proto: onnx.GraphProto) -> None:
        """Drop quantization annotations of values that are gone."""
        if proto.quantization_annotation:
            present = set(self.names.values.values())
            kept = [a for a in proto.quantization_annotation if a.tensor_name in present]
            del proto.quantization_annotation[:]
            proto.quantization_annotation.extend(kept)


def write_plain(attr: Attr, name: str, value: Any) -> None:
    """Set type and content of `attr` from a number, text or a list of those."""
    is_list = isinstance(value, (list, tuple))
    items: Sequence[Any] = value if is_list else [value]
    if all(isinstance(item, numbers.Integral) for item in items):
        attr.type = Attr.INTS if is_list else Attr.INT
        whole = [int(item) for item in items]
        attr.ints.extend(whole) if is_list else setattr(attr, "i", whole[0])
    elif all(isinstance(item, numbers.Real) for item in items):
        attr.type = Attr.FLOATS if is_list else Attr.FLOAT
        reals = [float(item) for item in items]
        attr.floats.extend(reals) if is_list else setattr(attr, "f", reals[0])
    elif all(isinstance(item, (str, bytes)) for item in items):
        attr.type = Attr.STRINGS if is_list else Attr.STRING
        raw = [item.encode() if isinstance(item, str) else item for item in items]
        attr.strings.extend(raw) if is_list else setattr(attr, "s", raw[0])
    else:
        raise ModelError(f"attribute '{name}' cannot hold {value!r}: mixed or unknown types")


def _constants(graph: Graph) -> list[Value]:
    """Constants in order of first use, each once (inputs with a default included)."""
    every = [*graph.inputs, *(v for n in graph.order() for _, v in n.operands()), *graph.outputs]
    return [v for v in dict.fromkeys(every) if v.const is not None]
