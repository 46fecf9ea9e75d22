"""Linear operators and normalization in the form that engines have kernels for."""

from __future__ import annotations

import math

import numpy as np

from ...ir import DType, Node, Value
from ...ir.tensor import Array
from ..base import Skip, single_reader
from ..driver import Rewriter, Rule
from ..pattern import is_constant_float, scalar

LAYER_NORMALIZATION = 17
"""Operator set that brought it."""


def gemm_factors(node: Node, rw: Rewriter) -> bool:
    """Fold alpha, beta and transB into constants; a weight only transposed is a view, no copy."""
    weight, bias = node.inputs[1], node.input(2)
    attrs, graph = node.attrs, rw.graph
    if weight is None or not is_constant_float(weight):
        return False
    alpha, beta = attrs.get("alpha", 1.0), attrs.get("beta", 1.0)
    fixed_bias = bias is None or is_constant_float(bias)
    if alpha == 1 and not attrs.get("transB", 0) and (beta == 1 or not fixed_bias):
        return False
    array = weight.numpy()
    array = array.T if attrs.get("transB", 0) else array
    graph.set_input(node, 1, rw.constant(_scaled(array, alpha), weight.name))
    graph.set_attrs(node, alpha=1.0, transB=0)
    if fixed_bias:
        if bias is not None and beta != 1:
            graph.set_input(node, 2, rw.constant(_scaled(bias.numpy(), beta), bias.name))
        graph.set_attrs(node, beta=1.0)
    return True


def _scaled(array: Array, factor: float) -> Array:
    if factor == 1:
        return array
    scaled: Array = (array.astype(np.float64) * factor).astype(array.dtype)
    return scaled


def gemm(node: Node, rw: Rewriter) -> bool:
    """MatMul of matrices and a constant bias of its columns is a Gemm."""
    for product, bias in (node.inputs, node.inputs[::-1]):
        matmul = product.producer if product is not None else None
        if product is None or bias is None or matmul is None or not matmul.is_op("MatMul"):
            continue
        x, weight = matmul.inputs
        if x is None or weight is None or x.rank != 2 or weight.shape is None or bias.const is None:
            return False
        columns = weight.shape[-1]
        if weight.rank != 2 or not is_constant_float(bias) or single_reader(product) is not node:
            return False
        if bias.const.shape not in ((columns,), (1, columns)):
            return False
        new = rw.add(
            "Gemm", x, weight, bias, name=matmul.name, like=node.output,
            alpha=1.0, beta=1.0, transA=0, transB=0,
        )  # fmt: skip
        rw.replace(node.output, new)
        return True
    return False


def pad(node: Node, rw: Rewriter) -> bool:
    """Zeros that a Pad adds around the input of a convolution or mean are its own padding."""
    x = node.inputs[0]
    source = x.producer if x is not None else None
    if source is None or not source.is_op("Pad") or "pads" not in node.attrs:
        return False
    amounts, data = _spatial_zeros(source), source.inputs[0]
    if amounts is None or data is None:
        raise Skip("the Pad before it adds more than zeros around each channel")
    own, graph = node.attrs["pads"], rw.graph
    pads = [a + b for a, b in zip(own, amounts, strict=True)]
    if node.op == "AveragePool":
        if any(p >= k for p, k in zip(pads, node.attrs["kernel_shape"] * 2, strict=True)):
            raise Skip("the Pad before it is larger than its window")
        if node.attrs.get("ceil_mode", 0):
            raise Skip("it rounds its size up")
        if any(own) and not node.attrs.get("count_include_pad", 0):
            raise Skip("it counts the zeros of the Pad before it but not its own")
        graph.set_attrs(node, count_include_pad=1)
    graph.set_attrs(node, pads=pads)
    graph.set_input(node, 0, data)
    rw.erase_unused(source)
    return True


def _spatial_zeros(node: Node) -> list[int] | None:
    """The amounts of a Pad that adds zeros to spatial dimensions only."""
    pads, fill, axes = node.inputs[1], node.input(2), node.input(3)
    data = node.inputs[0]
    mode = node.attrs.get("mode", "constant")
    if mode != "constant" or pads is None or not pads.is_constant:
        return None
    if fill is not None and scalar(fill) != 0:
        return None
    amounts = pads.numpy().astype(int)
    if axes is not None:
        if not axes.is_constant or data is None or data.rank is None:
            return None
        whole = np.zeros((2, data.rank), int)
        whole[:, axes.numpy().astype(int)] = amounts.reshape(2, -1)
        amounts = whole.reshape(-1)
    begin, end = amounts.reshape(2, -1)
    if begin[:2].any() or end[:2].any() or (amounts < 0).any():
        return None
    return [*begin[2:].tolist(), *end[2:].tolist()]


def dilated_mean(node: Node, rw: Rewriter) -> bool:
    """AveragePool has no dilations, to which operator set 19 gave them: it is a convolution then.

    What ONNX Runtime makes of it between integers knows no such attribute and is refused.
    """
    attrs, x = node.attrs, node.inputs[0]
    dilations, pads = attrs.get("dilations"), attrs.get("pads")
    if dilations is None or pads is None or x is None:
        return False
    if all(step == 1 for step in dilations):
        rw.graph.set_attrs(node, dilations=None)
        return True
    channels, kernel = x.shape[1] if x.shape else None, attrs["kernel_shape"]
    if not isinstance(channels, int) or x.dtype is not DType.FLOAT:
        raise Skip("the channels of what it averages are not known, or no float32")
    if attrs.get("ceil_mode", 0) or (any(pads) and not attrs.get("count_include_pad", 0)):
        raise Skip("has dilations, and windows of several sizes")
    shares = np.full((channels, 1, *kernel), 1 / math.prod(kernel), np.float32)
    same = {name: attrs[name] for name in ("kernel_shape", "strides", "dilations", "pads")}
    weights = rw.constant(shares, f"{node.output.name}_shares")
    new = rw.add("Conv", x, weights, name=node.name, like=node.output, group=channels, **same)
    rw.replace(node.output, new)
    return True


def spatial_mean(node: Node, rw: Rewriter) -> bool:
    """The mean over both or all three spatial dimensions is GlobalAveragePool.

    Not so where it is taken off again, which is the beginning of a normalization.
    """
    x, axes = node.inputs[0], reduced_axes(node)
    if x is None or x.rank is None or x.rank < 4 or axes is None:
        return False
    if any(reader.is_op("Sub") for reader in node.output.consumers):
        return False
    if sorted(a % x.rank for a in axes) != list(range(2, x.rank)):
        return False
    if x.dtype is None or not x.dtype.is_float:
        return False
    keep = node.attrs.get("keepdims", 1)
    pooled = rw.add("GlobalAveragePool", x, name=node.name)
    pooled.dtype, pooled.shape = x.dtype, (*(x.shape or ())[:2], *(1,) * (x.rank - 2))
    if not keep:
        pooled = rw.add("Flatten", pooled, like=node.output, axis=1)
    rw.replace(node.output, pooled)
    return True


def reduced_axes(node: Node) -> list[int] | None:
    """Axes of a reduction, from the attribute or the constant input; None when not known."""
    axes = node.input(1)
    if axes is not None:
        return [int(a) for a in axes.numpy()] if axes.is_constant else None
    found = node.attrs.get("axes")
    return list(found) if isinstance(found, list) else None


def layer_normalization(node: Node, rw: Rewriter) -> bool:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, written out, is LayerNormalization."""
    if rw.graph.info.opset < LAYER_NORMALIZATION:
        return False
    found = _normalized(node)
    if found is None:
        return False
    x, epsilon, axis = found
    if x.rank is None or x.shape is None:
        return False
    normal, last = tuple(x.shape[axis:]), node
    if not all(isinstance(d, int) for d in normal):
        return False
    scale, last = _next_constant("Mul", last, normal)
    bias, last = _next_constant("Add", last, normal)
    kind = x.dtype.numpy if x.dtype is not None else np.float32
    one = scale if scale is not None else rw.constant(np.ones(normal, kind))
    operands = [x, one] if bias is None else [x, one, bias]
    new = rw.add(
        "LayerNormalization", *operands, name=last.name, like=last.output,
        axis=axis - x.rank, epsilon=epsilon,
    )  # fmt: skip
    rw.replace(last.output, new)
    return True


def _normalized(node: Node) -> tuple[Value, float, int] | None:
    """(x, epsilon, first axis) of a Div that ends the written-out normalization."""
    centred, deviation = node.inputs
    root = deviation.producer if deviation is not None else None
    shifted = _operand(root, "Sqrt")
    epsilon = scalar(shifted.inputs[1]) if shifted is not None and shifted.is_op("Add") else None
    variance = shifted.inputs[0].producer if shifted and shifted.inputs[0] else None
    square = _operand(variance, "ReduceMean")
    sub = centred.producer if centred is not None else None
    if epsilon is None or square is None or sub is None or not sub.is_op("Sub"):
        return None
    x, mean = sub.inputs
    reduction = mean.producer if mean is not None else None
    if x is None or reduction is None or not reduction.is_op("ReduceMean"):
        return None
    if reduction.inputs[0] is not x or not _is_square(square, centred):
        return None
    if any(r not in (square, node) for r in centred.consumers):  # type: ignore[union-attr]
        return None
    axes = [_trailing(r, x) for r in (reduction, variance)]
    if axes[0] is None or axes[0] != axes[1]:
        return None
    return x, epsilon, axes[0]


def _operand(node: Node | None, op: str) -> Node | None:
    """The producer of the first operand of `node`, if that is an `op`."""
    if node is None or not node.is_op(op) or node.inputs[0] is None:
        return None
    return node.inputs[0].producer


def _is_square(node: Node, of: Value | None) -> bool:
    if node.is_op("Pow"):
        return node.inputs[0] is of and scalar(node.inputs[1]) == 2
    return node.is_op("Mul") and node.inputs[0] is of and node.inputs[1] is of


def _trailing(node: Node | None, x: Value) -> int | None:
    """The first of the reduced axes when these are all the last ones and kept."""
    axes = reduced_axes(node) if node is not None else None
    if node is None or axes is None or x.rank is None or not node.attrs.get("keepdims", 1):
        return None
    places = sorted(a % x.rank for a in axes)
    return places[0] if places and places == list(range(places[0], x.rank)) else None


def _next_constant(
    op: str, node: Node, shape: tuple[int | str | None, ...]
) -> tuple[Value | None, Node]:
    """The constant of an `op` right after `node` and that operator, if it fits `shape`."""
    reader = single_reader(node.output)
    for c in reader.inputs if reader is not None and reader.is_op(op) else ():
        if c is not None and is_constant_float(c) and c.shape == shape:
            assert reader is not None
            return c, reader
    return None, node


RULES = (
    Rule("gemm-factors", ("Gemm",), gemm_factors),
    Rule("gemm", ("Add",), gemm),
    Rule("pad", ("Conv", "AveragePool"), pad),
    Rule("dilated-mean", ("AveragePool",), dilated_mean),
    Rule("spatial-mean", ("ReduceMean",), spatial_mean),
    Rule("layer-normalization", ("Div",), layer_normalization),
)
