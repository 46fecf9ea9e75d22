"""Activations that exporters write out become one operator, or one written form.

Clip takes scalar constants; Relu6 is Clip(0, 6). Below the operator set that has it, hard swish is
x * HardSigmoid(x) and GELU is (x * (1 + erf(x / sqrt 2))) * 0.5, which ONNX Runtime fuses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.polynomial import Polynomial

from ...ir import DType, Node, Value
from ..base import single_reader
from ..driver import Rewriter, Rule
from ..pattern import is_scalar, scalar
from .arithmetic import is_float

HARD_SWISH, GELU = 14, 20
"""Operator sets that brought them."""

LARGEST_FLOAT, LARGEST_FLOAT16 = 3.4e38, 65504.0
"""Bounds from here on are none."""

Bounds = tuple[float, float]


def bounds(node: Node) -> Bounds | None:
    """Lower and upper bound of a Clip or Relu, infinite where there is none; None when computed."""
    if node.op == "Relu":
        return 0.0, math.inf
    found = []
    for slot, default in ((1, -math.inf), (2, math.inf)):
        value = node.input(slot)
        bound = scalar(value) if value is not None else default
        if bound is None:
            return None
        found.append(bound)
    return found[0], found[1]


def clamp(node: Node, rw: Rewriter) -> bool:
    """Min or Max with a scalar constant is a Clip."""
    if len(node.inputs) != 2:
        return False
    for x, c in (node.inputs, node.inputs[::-1]):
        if x is None or c is None or c.const is None or not is_float(c) or x.is_constant:
            continue
        bound = scalar(c)
        if bound is None or (c.const.shape and len(c.const.shape) > (x.rank or 0)):
            continue
        limits = (-math.inf, bound) if node.op == "Min" else (bound, math.inf)
        _replace_by_clip(node, x, limits, rw)
        return True
    return False


def clip_of_clip(node: Node, rw: Rewriter) -> bool:
    """Clip after Clip or Relu is one Clip."""
    x = node.inputs[0]
    inner = x.producer if x is not None else None
    if x is None or inner is None or not inner.is_op("Clip", "Relu"):
        return False
    if inner.op == node.op == "Relu" or single_reader(x) is not node:
        return False
    first, second = bounds(inner), bounds(node)
    if first is None or second is None or first[0] > first[1] or second[0] > second[1]:
        return False
    low, high = np.clip(first, *second)
    data = inner.inputs[0]
    assert data is not None
    _replace_by_clip(node, data, (float(low), float(high)), rw)
    return True


def clip_at_zero(node: Node, rw: Rewriter) -> bool:
    """Clip from 0 without an upper bound is Relu; bounds beyond every float are none."""
    limits, x = bounds(node), node.inputs[0]
    if limits is None or x is None or x.dtype is None or not x.dtype.is_float:
        return False
    largest = LARGEST_FLOAT16 if x.dtype is DType.FLOAT16 else LARGEST_FLOAT
    low, high = limits
    if low == 0 and high >= largest:
        rw.replace(node.output, rw.add("Relu", x, name=node.name, like=node.output))
        return True
    for slot, infinite in ((1, low <= -largest), (2, high >= largest)):
        if infinite and node.input(slot) is not None:
            rw.graph.set_input(node, slot, None)
            return True
    return False


def _replace_by_clip(node: Node, x: Value, limits: Bounds, rw: Rewriter) -> None:
    dtype = x.dtype or node.output.dtype
    kind = dtype.numpy if dtype is not None else np.float32
    low, high = (
        rw.constant(np.asarray(bound, kind)) if math.isfinite(bound) else None for bound in limits
    )
    operands = [x, low, high] if high is not None else [x, low] if low is not None else [x]
    rw.replace(node.output, rw.add("Clip", *operands, name=node.name, like=node.output))


def shifted_clip(value: Value | None) -> tuple[Value, float, float] | None:
    """(x, shift, high) when `value` is Clip(x + shift, 0, high) read by one node."""
    clip = value.producer if value is not None else None
    if value is None or clip is None or not clip.is_op("Clip") or not single_reader(value):
        return None
    limits, inner = bounds(clip), clip.inputs[0]
    add = inner.producer if inner is not None else None
    if limits is None or inner is None or add is None or not add.is_op("Add"):
        return None
    shift, x = scalar(add.inputs[1]), add.inputs[0]
    if shift is None or x is None or limits[0] != 0 or single_reader(inner) is not clip:
        return None
    return x, shift, limits[1]


def hard_sigmoid(node: Node, rw: Rewriter) -> bool:
    """Clip(x + b, 0, h) / h is HardSigmoid."""
    found, scale = shifted_clip(node.inputs[0]), scalar(node.inputs[1])
    if found is None or scale is None or not math.isclose(scale * found[2], 1, rel_tol=1e-5):
        return False
    rw.replace(node.output, _hard_sigmoid(rw, found, node.name, node.output))
    return True


def _hard_sigmoid(
    rw: Rewriter, clip: tuple[Value, float, float], name: str = "", like: Value | None = None
) -> Value:
    x, shift, high = clip
    return rw.add("HardSigmoid", x, name=name, like=like or x, alpha=1 / high, beta=shift / high)


def product(node: Node) -> tuple[float, list[Value]]:
    """The scalar and the other factors of a Mul and of those Mul that only it reads."""
    scale = 1.0
    factors: list[Value] = []
    for value in node.inputs:
        assert value is not None
        number, inner = scalar(value), value.producer
        if number is not None:
            scale *= number
        elif inner is not None and inner.is_op("Mul") and single_reader(value) is node:
            more, others = product(inner)
            scale, factors = scale * more, factors + others
        else:
            factors.append(value)
    return scale, factors


def gate(node: Node, rw: Rewriter) -> bool:
    """A value times a function of itself: hard swish or GELU."""
    if not any(v is not None and _may_gate(v) for v in node.inputs):
        return False
    scale, factors = product(node)
    if len(factors) != 2:
        return False
    for x, g in (factors, factors[::-1]):
        new = _hard_swish(x, g, scale, rw) or _gelu(node, x, g, scale, rw)
        if new is not None:
            if new.producer is not None:
                new.producer.name = node.name
            new.dtype, new.shape = node.output.dtype, node.output.shape
            rw.replace(node.output, new)
            return True
    return False


def _may_gate(value: Value) -> bool:
    return value.producer is not None and value.producer.is_op("Mul", "Clip", "HardSigmoid", "Add")


def _hard_swish(x: Value, g: Value, scale: float, rw: Rewriter) -> Value | None:
    has_operator = rw.graph.info.opset >= HARD_SWISH
    sigmoid, clip = g.producer, shifted_clip(g)
    if clip is not None and clip[0] is x and math.isclose(scale * clip[2], 1, rel_tol=1e-5):
        alpha, beta = 1 / clip[2], clip[1] / clip[2]
        if not has_operator or not _is_swish(alpha, beta):
            return rw.add("Mul", x, _hard_sigmoid(rw, clip))
    elif sigmoid is not None and sigmoid.is_op("HardSigmoid") and sigmoid.inputs[0] is x:
        alpha, beta = sigmoid.attrs.get("alpha", 0.2), sigmoid.attrs.get("beta", 0.5)
        if scale != 1 or single_reader(g) is None or not has_operator or not _is_swish(alpha, beta):
            return None
    else:
        return None
    return rw.add("HardSwish", x)


def _is_swish(alpha: float, beta: float) -> bool:
    return math.isclose(alpha, 1 / 6, rel_tol=1e-4) and math.isclose(beta, 0.5, rel_tol=1e-4)


def _gelu(node: Node, x: Value, g: Value, scale: float, rw: Rewriter) -> Value | None:
    """Match x * (1 + f) * 0.5 for the f of either GELU, and x * (f * 0.5 + 0.5)."""
    add = g.producer
    if add is None or not add.is_op("Add") or single_reader(g) is None:
        return None
    f, one = add.inputs[0], scalar(add.inputs[1])
    if f is None or one is None:
        return None
    if f.producer is not None and f.producer.is_op("Mul") and single_reader(f) is add:
        half = scalar(f.producer.inputs[1])
        scale, one = scale * (half or 0), one / (half or math.inf)
        f = f.producer.inputs[0]
    inner = f.producer if f is not None else None
    if inner is None or not math.isclose(scale, 0.5) or not math.isclose(one, 1):
        return None
    is_erf = inner.is_op("Erf") and _is_over_sqrt2(inner.inputs[0], x)
    if not is_erf and not (inner.is_op("Tanh") and _is_cubic(inner.inputs[0], x)):
        return None
    if rw.graph.info.opset >= GELU:
        return rw.add("Gelu", x, approximate="none" if is_erf else "tanh")
    return _written_gelu(node, x, rw) if is_erf else None


def _is_over_sqrt2(u: Value | None, x: Value) -> bool:
    node = u.producer if u is not None else None
    if node is None or not node.is_op("Div", "Mul") or node.inputs[0] is not x:
        return False
    factor = math.sqrt(2) if node.op == "Div" else math.sqrt(0.5)
    return node.inputs[1] is not None and is_scalar(node.inputs[1], factor)


def _is_cubic(u: Value | None, x: Value) -> bool:
    """Whether u = sqrt(2 / pi) * (x + 0.044715 * x^3) as a polynomial, however written."""
    found = _polynomial(u, x, 12) if u is not None else None
    c = math.sqrt(2 / math.pi)
    wanted = Polynomial([0, c, 0, c * 0.044715])
    if found is None or found.degree() != wanted.degree():
        return False
    return bool(np.allclose(found.coef, wanted.coef, rtol=1e-3, atol=1e-6))


def _polynomial(u: Value, x: Value, depth: int) -> Polynomial | None:
    """How `u` depends on `x`, when it does so by sums, products and powers only."""
    if u is x:
        return Polynomial([0.0, 1.0])
    number, node = scalar(u), u.producer
    if number is not None:
        return Polynomial([number])
    if node is None or not depth or not node.is_op("Mul", "Add", "Pow"):
        return None
    left, right = (_polynomial(v, x, depth - 1) if v is not None else None for v in node.inputs)
    if left is None or right is None:
        return None
    if node.op == "Mul":
        return left * right
    if node.op == "Add":
        return left + right
    return left ** int(right.coef[0]) if right.degree() == 0 and right.coef[0] in (2, 3) else None


def _written_gelu(node: Node, x: Value, rw: Rewriter) -> Value | None:
    """The form ONNX Runtime fuses; None when `node` is in that form."""
    kind = x.dtype.numpy if x.dtype is not None else np.float32
    half, inner = node.inputs[1], node.inputs[0]
    if half is not None and scalar(half) is not None and inner is not None and inner.producer:
        terms = [v.producer for v in inner.producer.inputs if v is not None and v is not x]
        add = terms[0] if len(terms) == 1 else None
        erf = add.inputs[0].producer if add and add.is_op("Add") and add.inputs[0] else None
        div = erf.inputs[0].producer if erf and erf.is_op("Erf") and erf.inputs[0] else None
        if div is not None and div.is_op("Div"):
            return None
    root2, one, half = (rw.constant(np.asarray(c, kind)) for c in (math.sqrt(2), 1.0, 0.5))
    erf_ = rw.add("Erf", rw.add("Div", x, root2, like=x), like=x)
    return rw.add("Mul", rw.add("Mul", x, rw.add("Add", erf_, one, like=x), like=x), half)


def sigmoid(node: Node, rw: Rewriter) -> bool:
    """Write y / (1 + exp(-x)) as y * Sigmoid(x)."""
    reciprocal = node.op == "Reciprocal"
    denominator = node.inputs[0 if reciprocal else 1]
    x = next(_exponents(denominator), None)
    if x is None:
        return False
    gate_ = rw.add("Sigmoid", x, like=x)
    numerator = None if reciprocal else node.inputs[0]
    if numerator is not None and not is_scalar(numerator, 1.0):
        gate_ = rw.add("Mul", numerator, gate_, name=node.name, like=node.output)
    rw.replace(node.output, gate_)
    return True


def _exponents(value: Value | None) -> Iterator[Value]:
    """The x of 1 + exp(-x)."""
    add = value.producer if value is not None else None
    if add is None or not add.is_op("Add") or scalar(add.inputs[1]) != 1:
        return
    exp = add.inputs[0].producer if add.inputs[0] is not None else None
    minus = exp.inputs[0].producer if exp and exp.is_op("Exp") and exp.inputs[0] else None
    if minus is None or minus.inputs[0] is None:
        return
    if minus.is_op("Neg") or (minus.is_op("Mul") and scalar(minus.inputs[1]) == -1):
        yield minus.inputs[0]


RULES = (
    Rule("clamp", ("Min", "Max"), clamp),
    Rule("clip-of-clip", ("Clip", "Relu"), clip_of_clip),
    Rule("clip-at-zero", ("Clip",), clip_at_zero),
    Rule("hard-sigmoid", ("Mul",), hard_sigmoid),
    Rule("gate", ("Mul",), gate),
    Rule("sigmoid", ("Div", "Reciprocal"), sigmoid),
)
