"""What is wrong with a model or a request, told before the long work starts."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ..ir import DType, Graph, ModelError, Node, UsageError, Value
from ..ir.spelling import closest, nearest
from ..passes.base import all_nodes, examples
from ..passes.quantized import quantized_already
from ..passes.select import ROLES, WEIGHTED, selects

OPERANDS = (*WEIGHTED, "BatchNormalization", "LayerNormalization", "InstanceNormalization", "PRelu")
"""Operators whose constants cannot mean anything when they are infinite."""


def check_source(graph: Graph) -> None:
    """`ModelError` when quantizing `graph` cannot succeed: integers already, float16, NaN."""
    nodes = [node for _, node in all_nodes(graph)]
    _check_float(graph)
    _check_width(nodes)
    for node in nodes:
        for _, value in node.operands():
            _check_finite(value, node)


def _check_float(graph: Graph) -> None:
    """Refuse what is quantized already and has no layer left to quantize."""
    kept = [node for inner in graph.graphs() for node in quantized_already(inner)]
    if kept and not any(
        n.is_op(*WEIGHTED) for n in {n for _, n in all_nodes(graph)}.difference(kept)
    ):
        names = examples(node.label for node in kept)
        raise ModelError(
            f"the model is quantized already ({len(kept)} operators: {names}) and has no layer in "
            "float: start from the float32 model it was made from"
        )


def _check_width(nodes: Sequence[Node]) -> None:
    operands = [(n.input(1), n) for n in nodes if n.is_op(*WEIGHTED)]
    weights = [(v, n) for v, n in operands if v is not None and v.const is not None]
    halves = [(v, n) for v, n in weights if v.dtype in (DType.FLOAT16, DType.BFLOAT16)]
    if halves and len(halves) == len(weights):
        value, node = halves[0]
        raise ModelError(
            f"the model computes in half precision ('{value.name}' of {node.label}); "
            "export it in float32: integers replace both"
        )


def _check_finite(value: Value, reader: Node) -> None:
    """NaN is an error anywhere, infinity where it is a factor and not a mask or a bound."""
    if value.const is None or value.dtype is None or not value.dtype.is_float:
        return
    data = value.const.numpy()
    data = data if data.dtype.kind == "f" else data.astype(np.float32)  # those of ml_dtypes
    strict = reader.is_op(*OPERANDS)
    if (np.isfinite(data).all() if strict else not np.isnan(data).any()) or not data.size:
        return
    kind = "NaN" if np.isnan(data).any() else "infinite"
    count = int(np.sum(~np.isfinite(data) if strict else np.isnan(data)))
    raise ModelError(
        f"constant '{value.name}' of {reader.label} holds {count} {kind} element(s) "
        f"out of {data.size}: repair or export the model again"
    )


def check_patterns(graph: Graph, patterns: Sequence[str], option: str) -> None:
    """`UsageError` for a pattern that is malformed or selects nothing (as far as can be told)."""
    nodes = [node for _, node in all_nodes(graph)]
    for pattern in patterns:
        try:
            if any(selects(pattern, node) for node in nodes):
                continue
        except re.error as error:
            raise UsageError(f"{option} '{pattern}' is not a regular expression: {error}") from None
        if graph.info.functions:  # operators in them get their names when they are written out
            continue
        if pattern.startswith("is:"):
            if pattern[3:] in ROLES:  # told once constants are known
                continue
            raise UsageError(f"no role is called '{pattern[3:]}'{nearest(pattern[3:], ROLES)}")
        if pattern.startswith("op:"):
            known = sorted({node.op for node in nodes})
            raise UsageError(
                f"the model has no operator of type '{pattern[3:]}'{nearest(pattern[3:], known)}"
            )
        names = [node.name or node.output.name for node in nodes if node.outputs]
        hint = closest(pattern, names) if len(names) <= 5000 else ""
        raise UsageError(f"no node's name matches {option} '{pattern}'{hint}")
