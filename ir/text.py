"""Graphs as text: what tests are written in and `--print-before/after` shows.

The syntax is that of `onnx.parser`, with three additions. `y ~ uint8(0.02, 128)` gives the value
y, where it is defined, a grid (scale and zero point, then `axis=`, `block=`, `narrow` and
`integers=` as needed); `... Conv(x, w) ~ int8` gives a node a precision; elements of tensors are
numbers whatever their type (onnx.parser takes bits for float16 and packed bytes for int4).

A graph alone stands for a model of IR version 10 and operator set 21:

    g (float[N,2] x) => (float[N,2] y) <float[2] w = {1, -0.5}> {
      [scale] t ~ int8(0.1, 0) = Mul(x, w)
      y = Relu(t)
    }

Documentation strings, metadata and other things that do not compute are not part of the text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx

from .dtypes import DType
from .errors import ModelError
from .external import ExternalFiles
from .graph import Graph, Node
from .names import Names
from .onnx_load import load_model
from .onnx_save import save_model
from .protos import read_dtype, read_shape
from .quant import QuantInfo
from .tensor import Array, Tensor
from .tensor_io import describe, tensor_from_proto, tensor_from_sparse, tensor_to_proto
from .text_parse import DEFAULT_IR_VERSION, DEFAULT_OPSETS, GRID, PRECISION, RESERVED, Parser
from .value import Value

Attr = onnx.AttributeProto
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def parse(text: str) -> Graph:
    """The graph that `text` describes.

    Raises:
        ModelError: the text is malformed; line and column are given.
    """
    try:
        model = Parser(text).model()
    except RecursionError:
        raise ModelError("the text is nested too deeply") from None
    graph = load_model(model, ExternalFiles(None))
    for root in (graph, *graph.info.functions.values()):
        for part in root.graphs():
            for value in part.values():
                grid = _take(value, GRID)
                if grid is not None:
                    value.quant = _grid(json.loads(grid), value)
            for node in part.order():
                node.precision = _take(node, PRECISION)
    return graph


def print_graph(graph: Graph, elide: int | None = 8) -> str:
    """The text of `graph`, with the names that a file would have.

    Args:
        graph: the main graph of a model.
        elide: constants and grids with more elements than this are printed as `{...}`, which
            cannot be parsed; None prints all of them.
    """

    def store(tensor: Tensor, name: str | None) -> onnx.TensorProto:
        is_shown = elide is None or tensor.size <= elide
        return tensor_to_proto(tensor, name) if is_shown else describe(tensor, name)

    names = Names.of(graph)
    model = save_model(graph, store, names)
    printer = _Printer(elide, names)
    lines = [*_header(model), printer.graph(model.graph, graph, "")]
    for proto, function in zip(model.functions, graph.info.functions.values(), strict=True):
        lines.append(_Printer(elide, Names.of(function)).function(proto, function))
    return "\n".join(lines) + "\n"


class _Printer:
    """Prints protos beside the graphs they were made of, which know grids and precisions."""

    def __init__(self, elide: int | None, names: Names) -> None:
        self.elide = elide
        self.names = names
        self.node_of = {name: node for node, name in names.nodes.items()}

    def graph(self, proto: onnx.GraphProto, graph: Graph, indent: str) -> str:
        grids = self.grids(graph)
        tensors = {t.name: self.tensor(t) for t in proto.initializer}
        for sparse in proto.sparse_initializer:
            dense = tensor_to_proto(tensor_from_sparse(sparse))
            tensors[sparse.values.name] = self.tensor(dense)
        interface = {info.name for info in proto.input}
        inputs = [self.declared(info, grids, tensors.get(info.name)) for info in proto.input]
        outputs = [self.declared(info, {}) for info in proto.output]
        inner = [
            f"{data.type} {_name(name)}{grids.get(name, '')} = {data.elements}"
            for name, data in tensors.items()
            if name not in interface
        ]
        inner += self.types(proto.value_info, tensors)
        head = f"{_name(proto.name)} ({', '.join(inputs)}) => ({', '.join(outputs)})"
        return head + _block("<", inner, ",", ">", indent) + self.nodes(proto.node, indent)

    def function(self, proto: onnx.FunctionProto, graph: Graph) -> str:
        header = [f"domain: {_text(proto.domain)}", _opsets(proto.opset_import)]
        if proto.overload:
            header.append(f"overload: {_text(proto.overload)}")
        parameters = [_name(name) for name in proto.attribute]
        parameters += [self.attribute(attr, None, "") for attr in proto.attribute_proto]
        attributes = f" <{', '.join(parameters)}>" if parameters else ""
        inputs, outputs = (", ".join(_name(n) for n in ns) for ns in (proto.input, proto.output))
        head = f"<{', '.join(header)}>\n{_name(proto.name)}{attributes} ({inputs}) => ({outputs})"
        inner = self.types(proto.value_info, {})
        return head + _block("<", inner, ",", ">", "") + self.nodes(proto.node, "")

    def grids(self, graph: Graph) -> dict[str, str]:
        """The grids of inputs and constants by name; those of results are printed with nodes."""
        every = [*graph.inputs, *(v for n in graph.order() for _, v in n.operands())]
        return {
            self.names.values[v]: self.grid(v.quant)
            for v in every
            if v.producer is None and v.quant is not None
        }

    def declared(self, info: onnx.ValueInfoProto, grids: dict[str, str], data: Any = None) -> str:
        kind = f"{_type(info.type)} " if _is_known(info.type) else ""
        default = f" = {data.elements}" if data else ""
        return f"{kind}{_name(info.name)}{grids.get(info.name, '')}{default}"

    def types(self, infos: Iterable[onnx.ValueInfoProto], known: Any) -> list[str]:
        typed = (info for info in infos if _is_known(info.type) and info.name not in known)
        return [self.declared(info, {}) for info in typed]

    def nodes(self, protos: Iterable[onnx.NodeProto], indent: str) -> str:
        lines = [self.node(proto, self.node_of.get(proto.name), indent + "  ") for proto in protos]
        return _block("{", lines, "", "}", indent) or " {}"

    def node(self, proto: onnx.NodeProto, node: Node | None, indent: str) -> str:
        """One operator; `node` is None when only the file has it."""
        label = f"[{_name(node.name)}] " if node and node.name else ""
        results: Sequence[Value | None] = node.outputs if node else [None] * len(proto.output)
        outputs = [
            _name(name) + (self.grid(value.quant) if value and value.quant else "")
            for name, value in zip(proto.output, results, strict=True)
        ]
        operator = ".".join(_name(p) for p in [*_parts(proto.domain), proto.op_type])
        overload = f":{_name(proto.overload)}" if proto.overload else ""
        attrs = [self.attribute(attr, node, indent) for attr in proto.attribute]
        attributes = f" <{', '.join(attrs)}> " if attrs else ""
        inputs = ", ".join(_name(name) for name in proto.input)
        precision = f" ~ {node.precision}" if node and node.precision else ""
        left = f"{label}{', '.join(outputs)} = {operator}{overload}"
        return f"{left}{attributes}({inputs}){precision}"

    def attribute(self, attr: Attr, node: Node | None, indent: str) -> str:
        kind = Attr.AttributeType.Name(attr.type).lower()
        name = _name(attr.name)
        if attr.ref_attr_name:
            typed = f": {kind}" if attr.type else ""
            return f"{name}{typed} = @{_name(attr.ref_attr_name)}"
        if attr.type == Attr.GRAPH and node is not None:
            return f"{name} = {self.graph(attr.g, node.attrs[attr.name], indent)}"
        if attr.type == Attr.TENSOR:
            data = self.tensor(attr.t)
            return f"{name} = {data.type} {data.elements}"
        if attr.type in _ITEMS:
            items = ", ".join(_ITEMS[attr.type](attr))
            is_list = kind.endswith("s")
            return f"{name}{'' if items else f': {kind}'} = {f'[{items}]' if is_list else items}"
        return f"{name}: proto = {_text(attr.SerializeToString(deterministic=True))}"

    def tensor(self, proto: onnx.TensorProto) -> _Data:
        shape = f"[{','.join(map(str, proto.dims))}]" if proto.dims else ""
        kind = f"{DType(proto.data_type).name.lower()}{shape}"
        if self.elide is not None and math.prod(proto.dims) > self.elide:
            return _Data(kind, "{...}")
        return _Data(kind, f"{{{', '.join(_elements(tensor_from_proto(proto)))}}}")

    def grid(self, grid: QuantInfo) -> str:
        zero = grid.zero_point
        if zero.size and np.all(zero == zero.flat[0]):
            zero = zero.reshape(-1)[0]
        fields = [self.numbers(grid.scale.astype(np.float32)), self.numbers(zero)]
        if grid.axis is not None:
            fields.append(f"axis={grid.axis}")
        if grid.block:
            fields.append(f"block={grid.block}")
        if grid.narrow:
            fields.append("narrow")
        if grid.integers is not None:
            fields.append(f"integers={self.numbers(grid.integers)}")
        return f" ~ {grid.dtype.name.lower()}({', '.join(fields)})"

    def numbers(self, array: Array) -> str:
        if self.elide is not None and array.size > self.elide:
            return "[...]"
        if array.ndim:
            return f"[{', '.join(self.numbers(row) for row in array)}]"
        return _real(array[()])


class _Data(NamedTuple):
    """The text of a tensor's type and elements."""

    type: str
    elements: str


def _elements(tensor: Tensor) -> Iterable[str]:
    flat = tensor.numpy().reshape(-1)
    if tensor.dtype is DType.STRING:
        return [_text(item) for item in flat]
    if tensor.dtype in (DType.COMPLEX64, DType.COMPLEX128):
        return [_real(part) for item in flat for part in (item.real, item.imag)]
    if tensor.dtype.is_float:
        return [_real(item) for item in flat]
    return [str(int(item)) for item in flat]


def _real(number: Any) -> str:
    """The shortest text that gives the same number in its type; no ".0" where none is needed."""
    is_numpy = isinstance(number, np.generic) and number.dtype.kind in "fiu"
    return (str(number) if is_numpy else repr(float(number))).removesuffix(".0")


_ITEMS: dict[int, Callable[[Attr], list[str]]] = {
    Attr.FLOAT: lambda attr: [str(np.float32(attr.f))],
    Attr.INT: lambda attr: [str(attr.i)],
    Attr.STRING: lambda attr: [_text(attr.s)],
    Attr.FLOATS: lambda attr: [str(np.float32(item)) for item in attr.floats],
    Attr.INTS: lambda attr: [str(item) for item in attr.ints],
    Attr.STRINGS: lambda attr: [_text(item) for item in attr.strings],
}


def _header(model: onnx.ModelProto) -> list[str]:
    """The line before the graph, none when it would say what holds by default."""
    opsets = {o.domain: o.version for o in model.opset_import}
    if model.ir_version == DEFAULT_IR_VERSION and opsets == DEFAULT_OPSETS and not model.functions:
        return []
    return [f"<ir_version: {model.ir_version}, {_opsets(model.opset_import)}>"]


def _opsets(imports: Iterable[onnx.OperatorSetIdProto]) -> str:
    return f"opset_import: [{', '.join(f'{_text(o.domain)}: {o.version}' for o in imports)}]"


def _is_known(kind: onnx.TypeProto) -> bool:
    """Whether the text has a form for a type."""
    which = kind.WhichOneof("value")
    if which in ("sequence_type", "optional_type"):
        return _is_known(getattr(kind, which).elem_type)
    if which == "map_type":
        known = read_dtype(kind.map_type.key_type) is not None
        return known and _is_known(kind.map_type.value_type)
    if which in ("tensor_type", "sparse_tensor_type"):
        return read_dtype(getattr(kind, which).elem_type) is not None
    return False


def _type(kind: onnx.TypeProto) -> str:
    which = kind.WhichOneof("value")
    if which == "sequence_type":
        return f"seq({_type(kind.sequence_type.elem_type)})"
    if which == "optional_type":
        return f"optional({_type(kind.optional_type.elem_type)})"
    if which == "map_type":
        key = DType(kind.map_type.key_type).name.lower()
        return f"map({key}, {_type(kind.map_type.value_type)})"
    if which == "sparse_tensor_type":
        return f"sparse_tensor({_tensor_type(kind.sparse_tensor_type)})"
    return _tensor_type(kind.tensor_type)


def _tensor_type(tensor: Any) -> str:
    element = DType(tensor.elem_type).name.lower()
    if not tensor.HasField("shape"):
        return f"{element}[]"
    shape = read_shape(tensor.shape)
    dims = ("?" if d is None else _name(d) if isinstance(d, str) else str(d) for d in shape)
    return f"{element}[{','.join(dims)}]" if shape else element


def _name(name: str | bytes) -> str:
    """A name, in quotes where it is no word; protobuf gives the bytes of what is not UTF-8."""
    plain = isinstance(name, str) and _WORD.fullmatch(name) and name not in RESERVED
    return str(name) if plain else _text(name)


def _parts(domain: str) -> list[str]:
    return domain.split(".") if domain else []


def _text(text: str | bytes) -> str:
    """A string, or the bytes of what is not UTF-8, in quotes."""
    raw = text.encode() if isinstance(text, str) else text
    try:
        return json.dumps(raw.decode(), ensure_ascii=False)
    except UnicodeDecodeError:
        return f'b"{"".join(_byte(code) for code in raw)}"'


def _byte(code: int) -> str:
    return chr(code) if 31 < code < 127 and code not in b'"\\' else f"\\x{code:02x}"


def _block(opening: str, lines: list[str], between: str, closing: str, indent: str) -> str:
    """Lines in brackets, one below the other; nothing when there are none."""
    if not lines:
        return ""
    return f" {opening}\n{indent}  " + f"{between}\n{indent}  ".join(lines) + f"\n{indent}{closing}"


def _take(holder: Value | Node, key: str) -> str | None:
    """Remove an entry that the parser made in the metadata of a value or node."""
    notes = holder.info if isinstance(holder, Value) else holder.rest
    if notes is None:
        return None
    found = next((p.value for p in notes.metadata_props if p.key == key), None)
    del notes.metadata_props[:]
    if not notes.ListFields():
        if isinstance(holder, Value):
            holder.info = None
        else:
            holder.rest = None
    return found


def _grid(fields: dict[str, Any], value: Value) -> QuantInfo:
    try:
        scale = np.array(fields["scale"], np.float32)
        return QuantInfo(
            DType(fields["dtype"]),
            scale,
            np.array(np.broadcast_to(fields["zero_point"], scale.shape), np.int32),
            fields.get("axis"),
            fields.get("block", 0),
            fields.get("narrow", False),
            np.array(fields["integers"], np.int32) if "integers" in fields else None,
        )
    except (ValueError, OverflowError) as error:  # ragged lists, numbers beyond their type
        raise ModelError(f"the grid of '{value.name}' makes no sense: {error}") from None
