"""Applies rewrite rules until nothing changes, re-visiting only what a rewrite touched."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..ir import Graph, Node, Value
from .base import PassError, Report, Skip


@dataclass(frozen=True)
class Rule:
    """One rewrite, rooted at an operator.

    Attributes:
        name: what statistics and the loop guard call it.
        ops: operator types of the standard's domain (or "domain::Type") it looks at.
        rewrite: gets a node of such a type; returns False when it does not apply, raises `Skip`
            when it nearly does, and otherwise has rewritten.
    """

    name: str
    ops: tuple[str, ...]
    rewrite: Callable[[Node, Rewriter], bool | None]


class Rewriter:
    """The edits a rule may do; new nodes take the place of the node the rule is rooted at."""

    def __init__(self, graph: Graph, node: Node, report: Report) -> None:
        """Edit `graph` around `node`."""
        self.graph, self.node, self.report = graph, node, report

    def add(
        self,
        op: str,
        *inputs: Value | None,
        domain: str = "",
        name: str = "",
        like: Value | None = None,
        **attrs: Any,
    ) -> Value:
        """Add a one-output operator; the result takes dtype and shape of `like`."""
        node = self.graph.add(op, inputs, attrs, domain=domain, name=name, like=self.node)
        if like is not None:
            node.output.dtype, node.output.shape = like.dtype, like.shape
        return node.output

    def constant(self, array: Any, name: str = "") -> Value:
        """Make a constant."""
        return self.graph.constant(array, name)

    def replace(self, old: Value, new: Value) -> None:
        """Let all readers of `old` read `new`, then erase what nobody needs any more."""
        if old.name and not new.name and new.producer is not None:
            new.name = old.name
        self.graph.replace(old, new)
        if old.producer is not None:
            self.erase_unused(old.producer)

    def erase_unused(self, node: Node) -> None:
        """Erase `node` and what only it needed."""
        stack = [node]
        while stack:
            node = stack.pop()
            if node in self.graph and not any(v.uses for v in node.outputs):
                before = [v.producer for _, v in node.operands() if v.producer is not None]
                self.graph.erase(node)
                stack.extend(before)


def apply(graph: Graph, rules: Sequence[Rule], report: Report, *, sweeps: int = 16) -> None:
    """Apply `rules` to the graph and its bodies until none fires.

    A rule that fires more than `sweeps` times per node does not converge: `PassError` names it.
    """
    by_op: dict[str, list[Rule]] = {}
    for rule in rules:
        for op in rule.ops:
            by_op.setdefault(op, []).append(rule)
    for inner in list(graph.graphs()):
        _apply_to(inner, by_op, report, sweeps * (len(inner) + 4))


def _apply_to(graph: Graph, by_op: dict[str, list[Rule]], report: Report, limit: int) -> None:
    skips: dict[tuple[Node, str], str] = {}
    fired: Counter[str] = Counter()
    queue = [(node.rank, node) for node in graph.order() if _key(node) in by_op]
    queued = {node for _, node in queue}
    heapq.heapify(queue)
    graph.touched = {}
    try:
        while queue:
            node = heapq.heappop(queue)[1]
            queued.discard(node)
            for rule in by_op[_key(node)] if node in graph else ():
                if _visit(graph, node, rule, report, skips):
                    fired[rule.name] += 1
                    if fired[rule.name] > limit:
                        raise PassError(f"rule '{rule.name}' does not converge at {node.label}")
                    break
            for again in _around(graph):
                if _key(again) in by_op and again not in queued:
                    queued.add(again)
                    heapq.heappush(queue, (again.rank, again))
    finally:
        graph.touched = None
    report.rewritten += sum(fired.values())
    for (node, _), reason in skips.items():
        if node in graph:
            report.skip(reason, node)


def _visit(
    graph: Graph, node: Node, rule: Rule, report: Report, skips: dict[tuple[Node, str], str]
) -> bool:
    """Try one rule at one node; True when it fired."""
    skips.pop((node, rule.name), None)
    version = graph.version
    try:
        if rule.rewrite(node, Rewriter(graph, node, report)) is False:
            return False
    except Skip as reason:
        if graph.version != version:
            raise PassError(f"rule '{rule.name}' changed {node.label} and then declined") from None
        report.matched += 1
        skips[node, rule.name] = str(reason)
        return False
    report.matched += 1
    return True


def _around(graph: Graph) -> list[Node]:
    """The touched nodes and the readers of what they produce; clears the record."""
    assert graph.touched is not None
    touched = [node for node in graph.touched if node in graph]
    readers = [r for node in touched for v in node.outputs for r in v.consumers if r.outputs]
    graph.touched = {}
    return list(dict.fromkeys([*touched, *readers]))


def _key(node: Node) -> str:
    return f"{node.domain}::{node.op}" if node.domain else node.op
