"""Patterns by which users name operators, and how the weights of those named are stored."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ..ir import Node, Value
from ..ir.grid_rule import GridRule
from ..ir.target import Target

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def selects(pattern: str, node: Node) -> bool:
    """True when `pattern` is found in the node's name (that of its first output when unnamed).

    `op:TYPE` selects by operator type instead. Both are regular expressions; a type must match
    as a whole. `is:ROLE` selects by role, see `ROLES`.
    """
    kind, _, rest = pattern.partition(":")
    if kind == "op":
        return re.fullmatch(rest, node.op) is not None
    if kind == "is" and rest in ROLES:
        return ROLES[rest](node)
    name = node.name or next((v.name for v in node.outputs if v.name), "")
    return re.search(pattern, name) is not None


def is_end(node: Node) -> bool:
    """True for a layer with none before it or none after it, on any path of floats.

    What reads an embedding of tokens is no first layer: no path of floats leads to an input.
    """
    return _is_layer(node) and (_is_first(node) or _is_last(node))


def is_depthwise(node: Node) -> bool:
    """True for a convolution with as many groups as input channels, and more than one."""
    group = node.attrs.get("group", 1)
    weights = node.input(1) if node.is_op("Conv", "ConvTranspose") else None
    if weights is None or not weights.shape or group == 1:
        return False
    inputs = weights.shape[0] if node.op == "ConvTranspose" else group * weights.shape[1]
    return bool(inputs == group)


ROLES: dict[str, Callable[[Node], bool]] = {"end": is_end, "depthwise": is_depthwise}


def rule_of(node: Node, target: Target) -> GridRule | None:
    """How the target stores the weights of `node`; that of any operator that shares them counts."""
    weights = node.input(1) if _is_layer(node) else None
    readers = weights.consumers if weights is not None else [node]
    for pattern, rule in target.layers:
        if any(selects(pattern, reader) for reader in readers):
            return rule
    return target.weights


def _is_layer(node: Node) -> bool:
    """True for an operator that multiplies by constants."""
    weights = node.input(1) if node.is_op(*WEIGHTED) else None
    return weights is not None and weights.is_constant


def _is_first(node: Node) -> bool:
    def operands(reader: Node) -> Iterable[Value]:
        return (value for _, value in reader.operands() if not value.is_constant)

    def producer(value: Value) -> Iterable[Node]:
        return () if value.producer is None else (value.producer,)

    sources = _between(operands(node), producer, operands)
    return sources is not None and any(value.producer is None for value in sources)


def _is_last(node: Node) -> bool:
    return _between(node.outputs, lambda v: v.consumers, lambda reader: reader.outputs) is not None


def _between(
    start: Iterable[Value],
    step: Callable[[Value], Iterable[Node]],
    values: Callable[[Node], Iterable[Value]],
) -> set[Value] | None:
    """Floats on the way from `start` to the end of the graph; None when a layer is on it."""
    seen: set[Value] = set()
    stack = list(start)
    while stack:
        value = stack.pop()
        if value in seen or not (value.dtype is None or value.dtype.is_float):
            continue
        seen.add(value)
        for node in step(value):
            if _is_layer(node):
                return None
            stack.extend(values(node))
    return seen
