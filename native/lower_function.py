"""Activation functions right behind sums, with no grid in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..ir import Node
from .lowering import Lowering
from .model import Function, Kind, Type
from .values import FLOAT, Declined, Pending, Stored, Target, static


def _alpha(node: Node, default: float) -> float:
    return float(node.attrs.get("alpha", default))


def _beta(node: Node) -> float:
    return float(node.attrs.get("beta", 0.5))


def _gelu(node: Node) -> tuple[Function, float, float]:
    approximate = node.attrs.get("approximate", "none") in ("tanh", b"tanh")
    return (Function.GELU_TANH if approximate else Function.GELU), 0.0, 0.0


FUNCTIONS: dict[str, Callable[[Node], tuple[Function, float, float]]] = {
    "HardSigmoid": lambda n: (Function.HARD_SIGMOID, _alpha(n, 0.2), _beta(n)),
    "HardSwish": lambda n: (Function.HARD_SWISH, 1 / 6, 0.5),
    "LeakyRelu": lambda n: (Function.LEAKY_RELU, _alpha(n, 0.01), 0.0),
    "Elu": lambda n: (Function.ELU, _alpha(n, 1.0), 0.0),
    "Sigmoid": lambda n: (Function.SIGMOID, 0.0, 0.0),
    "Swish": lambda n: (Function.SWISH, _alpha(n, 1.0), 0.0),
    "QuickGelu": lambda n: (Function.SWISH, _alpha(n, 1.702), 0.0),
    "Tanh": lambda n: (Function.TANH, 0.0, 0.0),
    "Gelu": _gelu,
}  # fmt: skip
"""Functions of sums that need no grid in between: name, a, b."""


def function_of_sum(low: Lowering, x: Pending, kind: Function, a: float, b: float) -> Pending:
    """A function of what waits for its grid, computed from the real sums."""
    if not x.free:
        raise Declined("a function of a bounded result that is not rounded to a grid")

    def emit(target: Target | None) -> Stored:
        if target is None:
            target = FLOAT
        if target.dtype not in (Type.U8, Type.S8, Type.F32):
            raise Declined("a function of sums that is rounded to more than 8 bits")
        source = x.emit(None)
        stage = low.stage([source])
        y = low.make(
            stage, target.dtype, static(source), source.order, target.scale, target.zero_point
        )
        numbers = low.models[stage].constant(np.array([kind, a, b], np.float32))
        return low.emit(stage, Kind.FUNCTION, [low.id(source, stage), numbers], y, target.limits)

    return replace(low.pending(emit), of=(x, kind, a, b))


def gated(low: Lowering, node: Node) -> Pending | None:
    """The products of x and its Sigmoid or HardSigmoid, as exporters write Swish and HardSwish."""
    found = [low.values.get(v) if v is not None else None for v in node.inputs]
    products = {Function.SIGMOID: Function.SWISH, Function.HARD_SIGMOID: Function.HARD_SWISH}
    for x, gate in (found, found[::-1]):
        if isinstance(gate, Pending) and gate.of is not None and gate.free and gate.of[0] is x:
            _, kind, a, b = gate.of
            if kind in products:
                a = 1.0 if kind == Function.SIGMOID else a
                return function_of_sum(low, gate.of[0], products[kind], a, b)
    return None
