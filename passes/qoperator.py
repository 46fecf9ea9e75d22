"""From Q/DQ form to operators on integers: QLinearConv, QLinearMatMul and ONNX Runtime's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..ir import DType, Graph, Node, Value
from ..ir.target import Target
from .base import single_reader
from .units import CLAMPS, bias_slot, clamp_limits, data_inputs, weight_slot

MICROSOFT = "com.microsoft"
TYPES = (DType.UINT8, DType.INT8, DType.INT32)
"""Of operands, results and biases; operators on integers of other widths there are none."""


@dataclass(frozen=True)
class Stored:
    """A tensor of integers with its scale and zero point."""

    integers: Value
    scale: Value
    zero: Value

    @property
    def triple(self) -> list[Value | None]:
        """In the order operators take them."""
        return [self.integers, self.scale, self.zero]


@dataclass(frozen=True)
class Site:
    """An operator between DequantizeLinear and QuantizeLinear nodes.

    Attributes:
        node: the operator.
        operands: its activations, weights last where it has them.
        bias: int32, None when it has none.
        scale, zero: of the result.
        result: the integers the QuantizeLinear behind returns.
    """

    node: Node
    operands: list[Stored]
    bias: Value | None
    scale: Value
    zero: Value
    result: Value


Form = tuple[str, str, list[Value | None]]
"""Operator, domain, inputs."""


def _pointwise(site: Site) -> Form:
    inputs = [v for operand in site.operands for v in operand.triple]
    return f"QLinear{site.node.op}", MICROSOFT, [*inputs, site.scale, site.zero]


def _convolution(site: Site) -> Form:
    inputs = [v for operand in site.operands for v in operand.triple]
    bias = [] if site.bias is None else [site.bias]
    return "QLinearConv", "", [*inputs, site.scale, site.zero, *bias]


def _product(site: Site) -> Form:
    return "QLinearMatMul", "", _pointwise(site)[2]


def _gemm(site: Site) -> Form:
    inputs = [v for operand in site.operands for v in operand.triple]
    return "QGemm", MICROSOFT, [*inputs, site.bias, site.scale, site.zero]


def _concat(site: Site) -> Form:
    inputs = [v for operand in site.operands for v in operand.triple]
    return "QLinearConcat", MICROSOFT, [site.scale, site.zero, *inputs]


FORMS: dict[str, Callable[[Site], Form]] = {
    "Add": _pointwise,
    "AveragePool": _pointwise,
    "Concat": _concat,
    "Conv": _convolution,
    "Gemm": _gemm,
    "GlobalAveragePool": _pointwise,
    "LeakyRelu": _pointwise,
    "MatMul": _product,
    "Mul": _pointwise,
    "Sigmoid": _pointwise,
}
DROPPED = {"Gemm": ("beta",)}
"""Attributes the integer operator does not have."""


def write_qoperator(graph: Graph, target: Target) -> int:
    """Replace operators of a graph in Q/DQ form by integer ones; how many.

    Data movers work on the integers themselves. What stands between float and integers keeps its
    QuantizeLinear or DequantizeLinear.
    """
    done = 0
    for node in graph.order():
        if node not in graph or node.domain:
            continue
        site = find_site(node)
        if site is None:
            continue
        if target.kind(node.op) == "agnostic":
            _move(graph, site)
        elif node.op in FORMS:
            _compute(graph, site)
        else:
            continue
        done += 1
    graph.sweep()
    if any(node.domain == MICROSOFT for node in graph.order()):
        graph.info.opsets.setdefault(MICROSOFT, 1)
    return done


def find_site(node: Node) -> Site | None:
    """The integers around `node`, None when one of its tensors is a float."""
    quantizer = _quantizer(node)
    if quantizer is None or len(node.outputs) != 1:
        return None
    slots = [slot for slot, _ in data_inputs(node)]
    weights = weight_slot(node)
    slots += [] if weights is None or weights in slots else [weights]
    operands = [_stored(node.inputs[slot]) for slot in slots]
    at = bias_slot(node)
    bias = node.input(at) if at is not None else None
    integers = _stored(bias)
    if bias is not None and integers is None:
        return None
    found = [operand for operand in operands if operand is not None]
    if len(found) != len(operands) or not found:
        return None
    scale, zero = quantizer.inputs[1], quantizer.inputs[2]
    assert scale is not None and zero is not None
    stored = integers.integers if integers is not None else None
    return Site(node, found, stored, scale, zero, quantizer.output)


def _stored(value: Value | None) -> Stored | None:
    made_by = value.producer if value is not None else None
    if made_by is None or not made_by.is_op("DequantizeLinear"):
        return None
    integers, scale, zero = (made_by.input(k) for k in range(3))
    if integers is None or scale is None or zero is None or zero.dtype not in TYPES:
        return None
    return Stored(integers, scale, zero)


def _quantizer(node: Node) -> Node | None:
    """The only reader when it is a QuantizeLinear, looking through a clamp it makes redundant."""
    reader = single_reader(node.outputs[0])
    clamp = None
    if reader is not None and reader.is_op(*CLAMPS):
        clamp, reader = reader, single_reader(reader.output)
    if reader is None or not reader.is_op("QuantizeLinear"):
        return None
    zero = reader.input(2)
    if zero is None or zero.dtype not in TYPES:
        return None
    return reader if clamp is None or _is_redundant(clamp, reader) else None


def _is_redundant(clamp: Node, quantizer: Node) -> bool:
    limits, scale, zero = clamp_limits(clamp), quantizer.inputs[1], quantizer.inputs[2]
    if limits is None or scale is None or zero is None or zero.dtype is None:
        return False
    low, high = zero.dtype.integer_range
    step, origin = float(scale.numpy()), int(zero.numpy())
    slack = step * 1e-3
    return bool(
        (low - origin) * step >= limits[0] - slack and (high - origin) * step <= limits[1] + slack
    )


def _compute(graph: Graph, site: Site) -> None:
    op, domain, inputs = FORMS[site.node.op](site)
    dropped = DROPPED.get(site.node.op, ())
    attrs = {k: v for k, v in site.node.attrs.items() if k not in dropped}
    new = graph.add(op, inputs, attrs, domain=domain, name=site.node.name, like=site.node)
    _take_over(graph, site, new)


def _move(graph: Graph, site: Site) -> None:
    inputs = [site.operands[0].integers, *site.node.inputs[1:]]
    new = graph.add(
        site.node.op, inputs, dict(site.node.attrs), name=site.node.name, like=site.node
    )
    _take_over(graph, site, new)


def _take_over(graph: Graph, site: Site, new: Node) -> None:
    new.precision = "int8"
    new.output.name, new.output.dtype = site.result.name, site.result.dtype
    new.output.shape, new.output.origin = site.result.shape, site.result.origin
    graph.replace(site.result, new.output)
