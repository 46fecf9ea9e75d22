"""What a layer multiplies its weights by, as a matrix: one row per place of its output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..ir import Node
from ..ir.tensor import Array


def as_rows(node: Node, weights: Array) -> Array:
    """The weights of Conv, Gemm or MatMul, [groups, outputs of a group, K]."""
    if node.op == "Conv":
        return weights.reshape(int(node.attrs.get("group", 1)), -1, weights[0].size)
    return (weights if node.attrs.get("transB", 0) else weights.T)[None]


def as_weights(node: Node, rows: Array, shape: Sequence[int]) -> Array:
    """The inverse of `as_rows`; `shape` is that of the weights."""
    if node.op == "Conv" or node.attrs.get("transB", 0):
        return rows.reshape(shape)
    return rows.reshape(shape[::-1]).T


def places(node: Node, output: Array) -> int:
    """How many rows an output has: elements without the channels."""
    return int(output.size // output.shape[1 if node.op == "Conv" else -1])


def outputs(node: Node, output: Array, picked: Array) -> Array:
    """Rows `picked` of the output, [picked, channels]."""
    if node.op != "Conv":
        return output.reshape(-1, output.shape[-1])[picked]
    return _at(output, picked, output.shape)


def inputs(node: Node, data: Array, output: Sequence[int], picked: Array) -> Array:
    """What the weights are multiplied by at places `picked` of the output.

    Args:
        node: Conv with explicit pads, Gemm without transA, or MatMul.
        data: its operand.
        output: shape of its result.
        picked: numbers of places, counted over the batch, then space.

    Returns:
        [picked, groups, K], in the order of `as_rows`.
    """
    if node.op != "Conv":
        return data.reshape(-1, data.shape[-1])[picked, None]
    space = data.ndim - 2
    kernel = node.inputs[1].shape[2:]  # type: ignore[union-attr,index]
    ones = [1] * space
    pads = node.attrs.get("pads") or [0] * 2 * space
    strides, dilations = node.attrs.get("strides") or ones, node.attrs.get("dilations") or ones
    around = [(0, 0), (0, 0), *zip(pads[:space], pads[space:], strict=True)]
    reach = [(int(k) - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    windows = sliding_window_view(
        np.pad(data, around) if any(pads) else data, reach, tuple(range(2, data.ndim))
    )
    step = [slice(None, None, s) for s in (*strides, *dilations)]
    windows = windows[(slice(None), slice(None), *step)]
    found = _at(windows, picked, output)
    return found.reshape(len(picked), int(node.attrs.get("group", 1)), -1)


def _at(array: Array, picked: Array, output: Sequence[int]) -> Array:
    """[picked, channels, rest] of [batch, channels, space, rest]; `output` is [batch, _, space]."""
    batch, *space = np.unravel_index(picked, (output[0], *output[2:]))
    where: tuple[Any, ...] = (batch, slice(None), *space)
    return np.asarray(array[where])
