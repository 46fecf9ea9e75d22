"""Patterns written as functions: the parameters are the variables, calls build the operators.

    def pattern(p, x, w, b, scale, bias, mean, var):
        return p.BatchNormalization(p.Conv(x, w, b), scale, bias, mean, var)

matches from the last operator backwards. The first `p.Op(...)` operand may be a variable, another
operator or a Python number (a scalar constant of that value). Variables may bind to nothing when
the operand is optional and left out; a variable used twice must bind to the same value. Operators
whose operands commute (Add, Mul, ...) match either way. Values between the operators of a pattern
must not be read from outside, unless `shared=True` is given to their operator.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir import DType, Graph, Node, Value
from .base import Context, Pass, Skip
from .driver import Rewriter, Rule, apply

COMMUTATIVE = frozenset({"Add", "Mul", "Min", "Max", "Sum", "And", "Or", "Xor", "Equal"})


@dataclass(frozen=True, eq=False)
class Variable:
    """Stands for any value."""

    name: str


@dataclass(frozen=True, eq=False)
class Operator:
    """Stands for one operator's first output."""

    op: str
    operands: tuple[Variable | Operator | float, ...]
    name: str | None = None
    shared: bool = False


class Builder:
    """`p` of a pattern function: `p.Conv(x, w)` is an operator, `bind` names it for the rewrite."""

    def __getattr__(self, op: str) -> Callable[..., Operator]:
        """The operator type `op`."""

        def build(*operands: Any, bind: str | None = None, shared: bool = False) -> Operator:
            return Operator(op, operands, bind, shared)

        return build


class Match:
    """What the variables (`m.x`) and bound operators (`m.nodes["conv"]`) stand for."""

    def __init__(self, root: Node) -> None:
        """Start at the pattern's last operator."""
        self.root = root
        self.values: dict[str, Value | None] = {}
        self.nodes: dict[str, Node] = {}
        self.inner: list[Node] = []

    def __getattr__(self, name: str) -> Any:
        """The value bound to variable `name`."""
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None

    def copy(self) -> Match:
        """The same bindings, to be extended independently."""
        other = Match(self.root)
        other.values, other.nodes = dict(self.values), dict(self.nodes)
        other.inner = list(self.inner)
        return other


def compile_pattern(function: Callable[..., Operator]) -> Operator:
    """The pattern a function describes."""
    names = list(inspect.signature(function).parameters)[1:]
    return function(Builder(), *(Variable(name) for name in names))


def match(pattern: Operator, node: Node) -> Match | None:
    """Match `pattern` at `node`; `Skip` when only a reader from outside stands in the way."""
    reason = None
    for found in _match_node(pattern, node, Match(node)):
        needed = _needed_outside(found)
        if needed is None:
            return found
        reason = reason or needed
    if reason is not None:
        raise Skip(reason)
    return None


def _needed_outside(m: Match) -> str | None:
    """Why the operators of a match cannot go: something else needs what they compute."""
    inside = {m.root, *m.inner}
    for node in m.inner:
        for reader in (r for value in node.outputs for r in value.consumers):
            if reader not in inside:
                what = f"{reader.op} reads it" if reader.outputs else "the graph returns it"
                return f"the result of {node.op} is needed: {what}"
    return None


def _match_node(pattern: Operator, node: Node, m: Match) -> Iterator[Match]:
    if node.domain or node.op != pattern.op or len(node.inputs) > len(pattern.operands):
        return
    orders = [pattern.operands]
    if node.op in COMMUTATIVE and len(pattern.operands) == 2:
        orders.append(pattern.operands[::-1])
    for operands in orders:
        branch = m.copy()
        if pattern.name:
            branch.nodes[pattern.name] = node
        yield from _match_operands(operands, node, 0, branch)


def _match_operands(
    operands: tuple[Variable | Operator | float, ...], node: Node, slot: int, m: Match
) -> Iterator[Match]:
    if slot == len(operands):
        yield m
        return
    want, value = operands[slot], node.input(slot)
    if isinstance(want, Operator):
        if value is None or value.producer is None or value.index != 0:
            return
        branch = m.copy()
        if not want.shared:
            branch.inner.append(value.producer)
        for found in _match_node(want, value.producer, branch):
            yield from _match_operands(operands, node, slot + 1, found)
    elif isinstance(want, Variable):
        if m.values.get(want.name, value) is value:
            branch = m.copy()
            branch.values[want.name] = value
            yield from _match_operands(operands, node, slot + 1, branch)
    elif value is not None and is_scalar(value, want):
        yield from _match_operands(operands, node, slot + 1, m)


def scalar(value: Value | None) -> float | None:
    """The single element of a constant, None when it is not one."""
    if value is None or not value.is_constant or value.const is None or value.const.size != 1:
        return None
    dtype = value.const.dtype
    if not (dtype.is_float or dtype.is_integer or dtype is DType.BOOL):
        return None
    return float(value.numpy().reshape(()))


def is_constant_float(value: Value | None) -> bool:
    """True for a constant of a real floating point type."""
    return value is not None and value.is_constant and bool(value.dtype and value.dtype.is_float)


def is_scalar(value: Value, number: float) -> bool:
    """True for a one-element constant equal to `number` (to float32 precision)."""
    found = scalar(value)
    return found is not None and bool(np.isclose(found, number, rtol=1e-4, atol=1e-7))


def rule(
    name: str, function: Callable[..., Operator], rewrite: Callable[[Match, Rewriter], Any]
) -> Rule:
    """A rule that calls `rewrite(match, rewriter)` wherever the pattern matches."""
    pattern = compile_pattern(function)

    def visit(node: Node, rw: Rewriter) -> bool:
        found = match(pattern, node)
        return found is not None and rewrite(found, rw) is not False

    return Rule(name, (pattern.op,), visit)


@dataclass(frozen=True)
class PatternPass(Pass):
    """A pass that is one pattern and its rewrite."""

    @staticmethod
    @abstractmethod
    def pattern(p: Builder, *variables: Variable) -> Operator:
        """Build the pattern; see the module's text."""

    @abstractmethod
    def rewrite(self, m: Match, rw: Rewriter) -> None:
        """Rewrite one match; decline by `raise Skip(reason)`."""

    def run(self, graph: Graph, context: Context) -> None:
        """Rewrite every match."""
        apply(graph, [rule(self.name, type(self).pattern, self.rewrite)], context.report)
