"""Sigmoid, hard swish and GELU that exporters write out become one operator, or one written form.

Below the operator set that has it, hard swish is x * HardSigmoid(x) and GELU is
(x * (1 + erf(x / sqrt 2))) * 0.5, which ONNX Runtime fuses.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.polynomial import Polynomial

from ...ir import Node, Value
from ..base import single_reader
from ..driver import Rewriter, Rule
from ..pattern import is_scalar, scalar
from .clips import bounds

HARD_SWISH, GELU = 14, 20
"""Operator sets that brought them."""


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
    over = _over_sqrt2(inner, x)
    if over is None and not (inner.is_op("Tanh") and _is_cubic(inner.inputs[0], x)):
        return None
    if rw.graph.info.opset >= GELU:
        return rw.add("Gelu", x, approximate="tanh" if over is None else "none")
    return _written_gelu(node, x, g, over, rw) if over is not None else None


def _over_sqrt2(erf: Node, x: Value) -> Node | None:
    """The operator that divides `x` by the square root of 2 for `erf`."""
    u = erf.inputs[0] if erf.is_op("Erf") else None
    node = u.producer if u is not None else None
    if node is None or not node.is_op("Div", "Mul") or node.inputs[0] is not x:
        return None
    factor = math.sqrt(2) if node.op == "Div" else math.sqrt(0.5)
    return node if node.inputs[1] is not None and is_scalar(node.inputs[1], factor) else None


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


def _written_gelu(node: Node, x: Value, g: Value, over: Node, rw: Rewriter) -> Value | None:
    """The form ONNX Runtime fuses; None when `node` is in that form."""
    product = node.inputs[0].producer if node.inputs[0] is not None else None
    last = node.inputs[1] is not None and scalar(node.inputs[1]) is not None
    if over.op == "Div" and last and product is not None and set(product.inputs) == {x, g}:
        return None
    kind = x.dtype.numpy if x.dtype is not None else np.float32
    root2, one, half = (rw.constant(np.asarray(c, kind)) for c in (math.sqrt(2), 1.0, 0.5))
    erf = rw.add("Erf", rw.add("Div", x, root2, like=x), like=x)
    return rw.add("Mul", rw.add("Mul", x, rw.add("Add", erf, one, like=x), like=x), half)


def ends_gelu(node: Node) -> bool:
    """True for the last multiplication of a written-out GELU, which has to stay for its fusion."""
    data = node.inputs[0]
    product = data.producer if data is not None else None
    if not node.is_op("Mul") or product is None or not product.is_op("Mul"):
        return False
    sums = [v.producer for v in product.inputs if v is not None and v.producer is not None]
    inner = [v for add in sums if add.is_op("Add") for v in add.inputs if v is not None]
    return any(v.producer is not None and v.producer.is_op("Erf", "Tanh") for v in inner)


def sigmoid(node: Node, rw: Rewriter) -> bool:
    """Write y / (1 + exp(-x)) as y * Sigmoid(x)."""
    reciprocal = node.op == "Reciprocal"
    x = _exponent(node.inputs[0 if reciprocal else 1])
    if x is None:
        return False
    new = rw.add("Sigmoid", x, name=node.name, like=x)
    numerator = None if reciprocal else node.inputs[0]
    if numerator is not None and not is_scalar(numerator, 1.0):
        new = rw.add("Mul", numerator, new, name=node.name, like=node.output)
    rw.replace(node.output, new)
    return True


def _exponent(value: Value | None) -> Value | None:
    """The x of 1 + exp(-x)."""
    add = value.producer if value is not None else None
    if add is None or not add.is_op("Add") or scalar(add.inputs[1]) != 1:
        return None
    exp = add.inputs[0].producer if add.inputs[0] is not None else None
    minus = exp.inputs[0].producer if exp and exp.is_op("Exp") and exp.inputs[0] else None
    if minus is None:
        return None
    negative = minus.is_op("Neg") or (minus.is_op("Mul") and scalar(minus.inputs[1]) == -1)
    return minus.inputs[0] if negative else None


RULES = (
    Rule("hard-sigmoid", ("Mul",), hard_sigmoid),
    Rule("gate", ("Mul",), gate),
    Rule("sigmoid", ("Div", "Reciprocal"), sigmoid),
)
