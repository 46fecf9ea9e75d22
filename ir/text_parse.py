"""Text to ModelProto: a recursive-descent parser of the ONNX text syntax, see `text`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from .dtypes import DType
from .errors import ModelError
from .onnx_save import write_plain
from .tensor import Tensor
from .tensor_io import tensor_to_proto
from .text_tokens import Tokens

GRID, PRECISION = "ptq_opt.grid", "ptq_opt.precision"
"""Metadata keys under which what follows a "~" is handed over."""
DEFAULT_IR_VERSION, DEFAULT_OPSETS = 10, {"": 21}
"""What a graph without a header gets."""

Attr = onnx.AttributeProto
_PRIMITIVE = {dtype.name.lower(): dtype for dtype in DType if dtype is not DType.UNDEFINED}
RESERVED = {*_PRIMITIVE, "seq", "optional", "map", "sparse_tensor", "inf", "nan"}
"""Words that stand for themselves; names like them need quotes."""
ATTRIBUTE_TYPES = {
    name.lower(): number for name, number in Attr.AttributeType.items() if name != "UNDEFINED"
}


class Parser(Tokens):
    """Reads one text; every method reads one construct and leaves the position behind it."""

    # -- models ------------------------------------------------------------------------------------

    def model(self) -> onnx.ModelProto:
        """Read a whole model, or a graph alone."""
        model = onnx.ModelProto()
        opsets = DEFAULT_OPSETS
        if self.next.text == "<":
            header = self.header()
            opsets = _opsets(header)
            self.fill(model, header)
        else:
            model.ir_version = DEFAULT_IR_VERSION
        for domain, version in opsets.items():
            model.opset_import.add(domain=domain, version=version)
        self.graph(model.graph)
        while self.next.kind != "end":
            self.function(model.functions.add())
        return model

    def header(self) -> dict[str, Any]:
        """Read `<key: value, ...>`."""

        def pair() -> tuple[str, Any]:
            key = self.name()
            self.expect(":")
            if self.next.text == "[":
                return key, dict(self.sequence(pair, "[", "]"))
            return key, self.string() if self.next.kind == "string" else self.integer()

        return dict(self.sequence(pair, "<", ">"))

    def fill(self, proto: onnx.ModelProto | onnx.FunctionProto, header: dict[str, Any]) -> None:
        """Set the fields of `proto` that a header names."""
        for key, value in header.items():
            try:
                if isinstance(value, dict):
                    for name, text in value.items():
                        getattr(proto, key).add(key=name, value=text)
                else:
                    setattr(proto, key, value)
            except (AttributeError, TypeError, ValueError):
                raise ModelError(f"the header cannot say {key}: {value!r}") from None

    def function(self, function: onnx.FunctionProto) -> None:
        """Read a model-local function."""
        header = self.header()
        for domain, version in _opsets(header).items():
            function.opset_import.add(domain=domain, version=version)
        self.fill(function, header)
        function.name = self.name()
        if self.next.text == "<":
            for attr in self.sequence(self.parameter, "<", ">"):
                if isinstance(attr, str):
                    function.attribute.append(attr)
                else:
                    function.attribute_proto.append(attr)
        function.input.extend(self.sequence(self.name, "(", ")"))
        self.expect("=>")
        function.output.extend(self.sequence(self.name, "(", ")"))
        if self.next.text == "<":
            function.value_info.extend(info for info, _ in self.sequence(self.declared, "<", ">"))
        self.nodes(function.node, function.value_info)

    def parameter(self) -> str | Attr:
        """Read an attribute parameter of a function: a name, or an attribute with its default."""
        after = self.following.text
        return self.attribute() if after in (":", "=") else self.name()

    def graph(self, graph: onnx.GraphProto) -> None:
        """Read a graph or a body."""
        graph.name = self.name()
        for info, tensor in self.sequence(self.declared, "(", ")"):
            graph.input.append(info)
            if tensor is not None:
                graph.initializer.append(tensor)
        self.expect("=>")
        graph.output.extend(info for info, _ in self.sequence(self.declared, "(", ")"))
        if self.next.text == "<":
            for info, tensor in self.sequence(self.declared, "<", ">"):
                if tensor is not None:
                    graph.initializer.append(tensor)
                if tensor is None or info.metadata_props:
                    graph.value_info.append(info)
        self.nodes(graph.node, graph.value_info)

    def declared(self) -> tuple[onnx.ValueInfoProto, onnx.TensorProto | None]:
        """Read `type name ~ grid = {data}`; all but the name may be left out."""
        info = onnx.ValueInfoProto()
        if self.starts_type():
            self.type(info.type)
        info.name = self.name()
        if self.found("~"):
            info.metadata_props.add(key=GRID, value=json.dumps(self.grid()))
        if not self.found("="):
            return info, None
        tensor = self.literal(info.type.tensor_type)
        tensor.name = info.name
        return info, tensor

    # -- types and data ----------------------------------------------------------------------------

    def starts_type(self) -> bool:
        """True when a type comes next, and not a value that is called like one."""
        after = self.following.text
        return (
            self.next.kind == "word"
            and self.next.text in RESERVED
            and after not in (",", ")", "=", ">", "~")
        )

    def primitive(self) -> DType:
        """Read an element type."""
        if self.next.text not in _PRIMITIVE:
            raise self.fail("an element type")
        return _PRIMITIVE[self.take("word", "an element type")]

    def type(self, kind: onnx.TypeProto) -> None:
        """Read a type."""
        if self.found("seq", "optional"):
            is_sequence = self.tokens[self.at - 1].text == "seq"
            outer = kind.sequence_type if is_sequence else kind.optional_type
            self.expect("(")
            self.type(outer.elem_type)
            self.expect(")")
        elif self.found("map"):
            self.expect("(")
            kind.map_type.key_type = int(self.primitive())
            self.expect(",")
            self.type(kind.map_type.value_type)
            self.expect(")")
        elif self.found("sparse_tensor"):
            self.expect("(")
            self.tensor_type(kind.sparse_tensor_type)
            self.expect(")")
        else:
            self.tensor_type(kind.tensor_type)

    def tensor_type(self, tensor: Any) -> None:
        """Read `float` (a scalar), `float[]` (unknown rank) or `float[2,N,?]`."""
        tensor.elem_type = int(self.primitive())
        if self.next.text != "[":
            tensor.shape.SetInParent()
            return
        for dim in self.sequence(self.dimension, "[", "]"):
            added = tensor.shape.dim.add()
            if isinstance(dim, int):
                added.dim_value = dim
            elif dim is not None:
                added.dim_param = dim

    def dimension(self) -> int | str | None:
        """Read a size, a symbol or `?`."""
        if self.found("?"):
            return None
        return self.integer() if self.next.kind == "number" else self.name()

    def literal(self, kind: onnx.TypeProto.Tensor) -> onnx.TensorProto:
        """Read the elements of a tensor of type `kind`, in braces."""
        dtype, shape = DType(kind.elem_type), [dim.dim_value for dim in kind.shape.dim]
        start = self.at
        if dtype is DType.UNDEFINED:
            raise self.fail("data for a tensor whose type was said, and not this")
        items = self.sequence(self.element, "{", "}")
        try:
            if dtype is DType.STRING:
                array = np.array([*items, None], object)[:-1].reshape(shape)
            elif dtype in (DType.COMPLEX64, DType.COMPLEX128):
                parts = np.array(items, np.float64).reshape(-1, 2)
                array = (parts[:, 0] + 1j * parts[:, 1]).astype(dtype.numpy).reshape(shape)
            else:
                whole = dtype.is_integer or dtype is DType.BOOL
                array = np.array(items, np.dtype(object if whole else np.float64))
                if whole:
                    _check_range(items, *dtype.integer_range if dtype.is_integer else (0, 1))
                array = array.astype(dtype.numpy).reshape(shape)
        except (TypeError, ValueError, OverflowError):
            self.at = start
            raise self.fail(f"data for {dtype.name.lower()}{shape}") from None
        return tensor_to_proto(Tensor(array, dtype=dtype))

    def element(self) -> Any:
        """Read an element of a tensor."""
        self.refuse_ellipsis()
        if self.next.kind == "string":
            return self.string()
        return self.raw() if self.next.kind == "bytes" else self.number()

    def refuse_ellipsis(self) -> None:
        """Say what is wrong when data was left out by the printer."""
        if self.next.text == "...":
            raise ModelError("this text was printed without its large constants; print all of them")

    def grid(self) -> dict[str, Any]:
        """Read `int8(scale, zero point, axis=0, block=32, narrow, integers=[1, 2])`."""
        fields: dict[str, Any] = {"dtype": int(self.primitive())}
        self.expect("(")
        fields["scale"] = self.numbers()
        self.expect(",")
        fields["zero_point"] = self.numbers()
        while self.found(","):
            key = self.take("word", "axis, block, narrow or integers")
            if key not in ("axis", "block", "narrow", "integers"):
                self.at -= 1
                raise self.fail("axis, block, narrow or integers")
            if key == "narrow":
                fields[key] = True
                continue
            self.expect("=")
            fields[key] = self.numbers() if key == "integers" else self.integer()
        self.expect(")")
        return fields

    def numbers(self) -> Any:
        """Read a number or nested lists of numbers."""
        self.refuse_ellipsis()
        return self.sequence(self.numbers, "[", "]") if self.next.text == "[" else self.number()

    # -- operators ---------------------------------------------------------------------------------

    def nodes(self, nodes: Any, infos: Any) -> None:
        """Read operators in braces; grids of results go to the declarations `infos`."""
        self.expect("{")
        while not self.found("}"):
            self.node(nodes.add(), infos)

    def node(self, node: onnx.NodeProto, infos: Any) -> None:
        """Read `[label] y, z = domain.Op:overload <attributes> (x, w) ~ precision`."""
        if self.found("["):
            node.name = self.name()
            self.expect("]")
        for name, grid in self.results():
            node.output.append(name)
            if grid is not None:
                info = next((i for i in infos if i.name == name), None) or infos.add(name=name)
                info.metadata_props.add(key=GRID, value=json.dumps(grid))
        node.domain, node.op_type = self.operator()
        if self.found(":"):
            node.overload = self.name()
        if self.next.text == "<":
            node.attribute.extend(self.sequence(self.attribute, "<", ">"))
        node.input.extend(self.sequence(self.operand, "(", ")"))
        if self.next.text == "<":
            node.attribute.extend(self.sequence(self.attribute, "<", ">"))
        if self.found("~"):
            node.metadata_props.add(key=PRECISION, value=self.name())

    def results(self) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """Read results up to `=`; one left out is empty."""
        while not self.found("="):
            name = "" if self.next.text in (",", "=") else self.name()
            yield name, self.grid() if self.found("~") else None
            if not self.found(","):
                self.expect("=")
                return

    def operand(self) -> str:
        """Read an operand; one left out is empty."""
        return "" if self.next.text in (",", ")") else self.name()

    def operator(self) -> tuple[str, str]:
        """Read a qualified operator name as domain and type."""
        parts = [self.name()]
        while self.found("."):
            parts.append(self.name())
        return ".".join(parts[:-1]), parts[-1]

    def attribute(self) -> Attr:
        """Read `name: type = value`; the type may be left out where the value tells it."""
        attr = Attr(name=self.name())
        declared = None
        if self.found(":"):
            declared = self.name()
            if declared not in (*ATTRIBUTE_TYPES, "proto"):
                self.at -= 1
                raise self.fail("a type of attributes")
        self.expect("=")
        if declared == "proto":
            name = attr.name
            attr.ParseFromString(self.raw())
            attr.name = name
        elif self.found("@"):
            attr.ref_attr_name = self.name()
            attr.type = ATTRIBUTE_TYPES[declared] if declared else Attr.UNDEFINED
        elif self.next.kind == "word" and self.next.text in _PRIMITIVE:
            kind = onnx.TypeProto()
            self.tensor_type(kind.tensor_type)
            attr.type = Attr.TENSOR
            attr.t.CopyFrom(self.literal(kind.tensor_type))
        elif self.next.kind == "word" or self.following.text == "(":
            attr.type = Attr.GRAPH
            self.graph(attr.g)
        else:
            self.plain(attr, declared)
        return attr

    def plain(self, attr: Attr, declared: str | None) -> None:
        """Read a number, text or a list of those into `attr`."""
        is_list = self.next.text == "["
        items = self.sequence(self.element, "[", "]") if is_list else [self.element()]
        if not items and declared is None:
            raise self.fail(f"the type of the empty list '{attr.name}' before it")
        try:
            if declared in ("float", "floats"):
                items = [float(item) for item in items]
            if items:
                write_plain(attr, attr.name, items if is_list else items[0])
        except ValueError:
            kind = declared or "numbers of at most 64 bits"
            raise self.fail(f"{kind} for '{attr.name}' before this") from None
        if not items:
            attr.type = ATTRIBUTE_TYPES[str(declared)]
        if declared and attr.type != ATTRIBUTE_TYPES[declared]:
            raise self.fail(f"a value of type {declared} for '{attr.name}' before this")


def _opsets(header: dict[str, Any]) -> dict[str, int]:
    """Take the versions of the operator sets out of a header."""
    found = header.pop("opset_import", {})
    if not isinstance(found, dict) or not all(_is_version(item) for item in found.values()):
        raise ModelError(f"the header cannot say opset_import: {found!r}")
    return found


def _is_version(item: Any) -> bool:
    return isinstance(item, int) and 0 <= item < 2**63


def _check_range(items: list[Any], low: int, high: int) -> None:
    """Raise ValueError unless all are integers of a type's range: conversions wrap silently."""
    if not all(isinstance(item, int) and low <= item <= high for item in items):
        raise ValueError
