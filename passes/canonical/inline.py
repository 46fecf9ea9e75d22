"""Model-local functions, and If of a known condition, are written out where they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from ...ir import Graph, Node, Value
from ...ir.clone import clone
from ..base import PassError, Report, Skip
from ..driver import Rewriter, Rule

DEEPEST = 100
"""Levels of functions that call functions."""


def inline_functions(graph: Graph, report: Report) -> bool:
    """Replace calls of model-local functions by their operators; True when there were any.

    A function of other operator set versions than the model's stays.
    """
    functions, before = graph.info.functions, report.rewritten
    for _ in range(DEEPEST):
        calls = [
            (inner, node)
            for inner in list(graph.graphs())
            for node in inner.order()
            if _key(node) in functions
        ]
        fitting = [(g, node) for g, node in calls if _fits(functions[_key(node)], graph)]
        for inner, node in fitting:
            _inline(inner, node, functions[_key(node)])
        report.rewritten += len(fitting)
        if not calls:
            functions.clear()
        if not fitting:
            return report.rewritten > before
    raise PassError(f"a function that '{graph.name}' calls calls itself")


def _key(node: Node) -> tuple[str, str, str]:
    return node.domain, node.op, node.overload


def _fits(function: Graph, graph: Graph) -> bool:
    known = graph.info.opsets
    return all(known.setdefault(d, v) == v for d, v in function.info.opsets.items())


def _inline(graph: Graph, node: Node, function: Graph) -> None:
    body, _ = clone(function)
    given = dict(node.attrs)
    for default in getattr(function.rest, "attribute_proto", ()):
        given.setdefault(default.name, default)
    for part in body.graphs():
        for inner in part.order():
            inner.attrs = _resolved(inner.attrs, given)
    operands = [*node.inputs, *[None] * (len(body.inputs) - len(node.inputs))]
    results = splice(graph, body, dict(zip(body.inputs, operands, strict=True)), node)
    _finish(graph, node, results)


def _resolved(attrs: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes with the caller's values for parameters; those it does not give are left out."""
    found = {}
    for name, value in attrs.items():
        if not isinstance(value, onnx.AttributeProto) or not value.ref_attr_name:
            found[name] = value
        elif value.ref_attr_name in given:
            found[name] = _value(given[value.ref_attr_name])
    return found


def _value(given: Any) -> Any:
    """A default of a function as a plain value, when it has such a form."""
    if isinstance(given, onnx.AttributeProto) and not given.ref_attr_name:
        plain = onnx.helper.get_attribute_value(given)
        if isinstance(plain, bytes):
            return plain.decode()
        if isinstance(plain, (int, float)):
            return plain
        if plain and isinstance(plain[0], (int, float)):
            return list(plain)
    return given


def splice(
    graph: Graph, body: Graph, given: Mapping[Value, Value | None], like: Node
) -> list[Value | None]:
    """Copy the operators of `body` into `graph`; the values that its outputs became.

    Args:
        graph: where to.
        body: its nested bodies are taken over, not copied.
        given: what its inputs and captured values are.
        like: the operator whose place the copies take.
    """
    where: dict[Value, Value | None] = dict(given)
    prefix = f"{like.name}/" if like.name else ""

    def here(value: Value | None) -> Value | None:
        if value is not None and value not in where and value.const is not None:
            where[value] = graph.constant(value.const, value.name)
        return where[value] if value is not None else None

    for node in body.order():
        captured = [here(value) for value in node.captures]
        if None in captured:
            raise PassError(f"{like.label} leaves out an input that its body reads")
        name = prefix + node.name if node.name else ""
        operands = [here(value) for value in node.inputs]
        while operands and operands[-1] is None:
            operands.pop()
        new = graph.add(
            node.op, operands, node.attrs, len(node.outputs),
            domain=node.domain, name=name, overload=node.overload,
            captures=[value for value in captured if value is not None], like=like,
        )  # fmt: skip
        for inner in new.bodies.values():
            for standin, position in inner.captures.items():
                outer = captured[position]
                assert outer is not None
                inner.captures[standin] = new.captures.index(outer)
            for part in inner.graphs():
                part.info = graph.info
        for old, value in zip(node.outputs, new.outputs, strict=True):
            where[old] = value
            value.dtype, value.shape, value.info = old.dtype, old.shape, old.info
            value.name = prefix + old.name if old.name else ""
            value.origin = value.name or None
    return [here(value) for value in body.outputs]


def _finish(graph: Graph, node: Node, results: Sequence[Value | None]) -> None:
    """Let the readers of `node` read `results`; each stands for the tensor it replaces."""
    for old, new in zip(node.outputs, results, strict=False):
        if new is None:
            continue
        if new.producer is not None and old.name and old.uses:
            new.name, new.origin = old.name, old.origin
        graph.replace(old, new)
    graph.erase(node)


def known_branch(node: Node, rw: Rewriter) -> bool:
    """If of a constant condition is the operators of the branch taken."""
    condition = node.inputs[0]
    if condition is None or not condition.is_constant:
        return False
    taken = bool(condition.numpy().reshape(-1)[0])
    body = node.attrs.get("then_branch" if taken else "else_branch")
    if not isinstance(body, Graph):
        raise Skip("its branches are parameters of a function")
    given = {standin: node.captures[position] for standin, position in body.captures.items()}
    _finish(rw.graph, node, splice(rw.graph, body, given, node))
    return True


RULES = (Rule("known-branch", ("If",), known_branch),)
