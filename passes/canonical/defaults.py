"""Attributes that other passes read are always there, and padding is always explicit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...ir import Node, Value
from ..base import Skip
from ..driver import Rewriter, Rule

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "BatchNormalization": {"epsilon": 1e-5},
    "Conv": {"group": 1},
    "ConvTranspose": {"group": 1},
    "Elu": {"alpha": 1.0},
    "Flatten": {"axis": 1},
    "Gather": {"axis": 0},
    "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "InstanceNormalization": {"epsilon": 1e-5},
    "LayerNormalization": {"axis": -1, "epsilon": 1e-5},
    "LeakyRelu": {"alpha": 0.01},
    "LogSoftmax": {"axis": -1},
    "MaxPool": {"ceil_mode": 0},
    "AveragePool": {"ceil_mode": 0, "count_include_pad": 0},
    "ReduceMax": {"keepdims": 1},
    "ReduceMean": {"keepdims": 1},
    "ReduceMin": {"keepdims": 1},
    "ReduceSum": {"keepdims": 1},
    "Softmax": {"axis": -1},
    "Split": {"axis": 0},
}
"""Defaults of the ONNX standard, operator sets 13 and later."""

WINDOWED = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")


def explicit_defaults(node: Node, rw: Rewriter) -> bool:
    """Write out the attributes of `DEFAULTS` and those of a sliding window."""
    missing = dict(DEFAULTS.get(node.op, {}))
    kernel = kernel_shape(node) if node.op in WINDOWED else None
    if kernel:
        n = len(kernel)
        missing |= {"kernel_shape": kernel, "strides": [1] * n}
        if node.op != "AveragePool":
            missing["dilations"] = [1] * n
        if node.op == "ConvTranspose":
            missing["output_padding"] = [0] * n
        if node.attrs.get("auto_pad", "NOTSET") == "NOTSET" and "output_shape" not in node.attrs:
            missing["pads"] = [0] * 2 * n
    missing = {name: value for name, value in missing.items() if name not in node.attrs}
    if missing:
        rw.graph.set_attrs(node, **missing)
    return bool(missing)


def kernel_shape(node: Node) -> list[int] | None:
    """The window of a convolution or pooling; a convolution's may have to come from its weight."""
    if "kernel_shape" in node.attrs:
        return list(node.attrs["kernel_shape"])
    weight = node.input(1)
    if node.op not in ("Conv", "ConvTranspose") or weight is None or weight.shape is None:
        return None
    spatial = [d for d in weight.shape[2:] if isinstance(d, int)]
    return spatial if len(spatial) == len(weight.shape) - 2 else None


def explicit_padding(node: Node, rw: Rewriter) -> bool:
    """auto_pad and output_shape become pads."""
    mode = node.attrs.get("auto_pad", "NOTSET")
    if mode == "NOTSET" and "output_shape" not in node.attrs:
        if "auto_pad" in node.attrs:
            rw.graph.set_attrs(node, auto_pad=None)
            return True
        return False
    kernel = kernel_shape(node)
    if kernel is None:
        raise Skip("its kernel size is not known")
    if mode == "VALID":
        pads = [0] * 2 * len(kernel)
    elif node.op == "ConvTranspose":
        pads = _transposed_pads(node, kernel, mode)
    else:
        pads = _same_pads(node, kernel, mode)
    rw.graph.set_attrs(node, pads=pads, auto_pad=None, output_shape=None)
    return True


def _spatial(value: Value | None) -> list[int | None]:
    """Sizes of all dimensions after the second, None where not known."""
    if value is None or value.shape is None:
        raise Skip("the shape of its input is not known")
    return [d if isinstance(d, int) else None for d in value.shape[2:]]


def _same_pads(node: Node, kernel: list[int], mode: str) -> list[int]:
    strides, dilations = _window(node, len(kernel))
    totals = []
    sizes = _spatial(node.inputs[0]) if any(s != 1 for s in strides) else [None] * len(kernel)
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        reach = (k - 1) * d + 1
        if s == 1:
            totals.append(reach - 1)
        elif size is None:
            raise Skip("the shape of its input is not known")
        else:
            totals.append(max((-(-size // s) - 1) * s + reach - size, 0))
    return _halves(totals, odd_at_end=mode == "SAME_UPPER")


def _transposed_pads(node: Node, kernel: list[int], mode: str) -> list[int]:
    strides, dilations = _window(node, len(kernel))
    extra = node.attrs.get("output_padding", [0] * len(kernel))
    sizes = _spatial(node.inputs[0])
    wanted = node.attrs.get("output_shape")
    totals = []
    for i, (size, k, s, d) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        if size is None:
            raise Skip("the shape of its input is not known")
        out = wanted[i - len(kernel)] if wanted else size * s
        total = s * (size - 1) + extra[i] + (k - 1) * d + 1 - out
        if total < 0:
            raise Skip("its output is larger than its kernel reaches")
        totals.append(total)
    return _halves(totals, odd_at_end=mode == "SAME_UPPER")


def _window(node: Node, n: int) -> tuple[list[int], list[int]]:
    return node.attrs.get("strides", [1] * n), node.attrs.get("dilations", [1] * n)


def _halves(totals: list[int], *, odd_at_end: bool) -> list[int]:
    less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return [*less, *more] if odd_at_end else [*more, *less]


RULES = (
    Rule("explicit-padding", WINDOWED, explicit_padding),
    Rule("explicit-defaults", tuple({*DEFAULTS, *WINDOWED}), explicit_defaults),
)
