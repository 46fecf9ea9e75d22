"""Applies rewrite rules until nothing changes, re-visiting only what a rewrite touched."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..ir import Graph, Node, PtqError, Value
from ..ir.garbage import without_gc
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
    """Apply `rules` to the graph and its bodies until none fires anywhere.

    A rule that fires more than `sweeps` times per node does not converge: `PassError` names it.
    """
    by_op: dict[str, list[Rule]] = {}
    for rule in rules:
        for op in rule.ops:
            by_op.setdefault(op, []).append(rule)
    with without_gc():
        for inner in list(graph.graphs()):
            _Driver(inner, by_op, report, sweeps).run()


class _Driver:
    """Applies rules to one graph."""

    def __init__(
        self, graph: Graph, by_op: dict[str, list[Rule]], report: Report, sweeps: int
    ) -> None:
        self.graph, self.by_op, self.report = graph, by_op, report
        self.limit = sweeps * (len(graph) + 4)
        self.fired: Counter[str] = Counter()
        self.skips: dict[tuple[Node, str], str] = {}

    def run(self) -> None:
        self.graph.touched = {}
        try:
            while self.sweep():
                pass
        finally:
            self.graph.touched = None
        self.report.rewritten += sum(self.fired.values())
        for (node, _), reason in self.skips.items():
            if node in self.graph:
                self.report.skip(reason, node)

    def sweep(self) -> bool:
        """Visit every node in order, and again what changes; True when some rule fired."""
        before = sum(self.fired.values())
        queue = [(node.rank, node) for node in self.graph.order() if _key(node) in self.by_op]
        queued = {node for _, node in queue}
        heapq.heapify(queue)
        while queue:
            node = heapq.heappop(queue)[1]
            queued.discard(node)
            if node in self.graph:
                self.visit(node)
            for again in self.around():
                if _key(again) in self.by_op and again not in queued:
                    queued.add(again)
                    heapq.heappush(queue, (again.rank, again))
        return sum(self.fired.values()) > before

    def visit(self, node: Node) -> None:
        """Try the rules for `node` until one fires."""
        rewriter = Rewriter(self.graph, node, self.report)
        for rule in self.by_op[_key(node)]:
            if self.attempt(rule, node, rewriter):
                self.fired[rule.name] += 1
                if self.fired[rule.name] > self.limit:
                    raise PassError(f"rule '{rule.name}' does not converge at {node.label}")
                return

    def attempt(self, rule: Rule, node: Node, rewriter: Rewriter) -> bool:
        """Try one rule; True when it fired."""
        self.skips.pop((node, rule.name), None)
        version = self.graph.version
        try:
            if rule.rewrite(node, rewriter) is False:
                if self.graph.version != version:
                    raise PassError(f"rule '{rule.name}' changed {node.label} and then declined")
                return False
        except Skip as reason:
            if self.graph.version != version:
                raise PassError(
                    f"rule '{rule.name}' changed {node.label} and then declined"
                ) from None
            self.report.matched += 1
            self.skips[node, rule.name] = str(reason)
            return False
        except (PtqError, MemoryError):
            raise
        except Exception as error:
            raise PassError(
                f"rule '{rule.name}' failed at {node.label}: {type(error).__name__}: {error}"
            ) from error
        self.report.matched += 1
        return True

    def around(self) -> list[Node]:
        """The touched nodes and the readers of what they produce; clears the record."""
        if not self.graph.touched:
            return []
        touched = [node for node in self.graph.touched if node in self.graph]
        readers = [r for node in touched for v in node.outputs for r in v.consumers if r.outputs]
        self.graph.touched = {}
        return list(dict.fromkeys([*touched, *readers]))


def _key(node: Node) -> str:
    return f"{node.domain}::{node.op}" if node.domain else node.op
