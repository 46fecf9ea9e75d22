"""Raises a model's operator set in place, so that no name, annotation or weight is touched.

From version 7 on few operators changed in a way that old nodes notice: attributes that became
inputs, two renamed operators, and three defaults with a new meaning. `CHANGES` lists them all, from
ONNX's changelog of operators; anything else means the same in every later version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

from ..ir import Graph, Node
from ..ir.clone import clone
from .base import PassError

OLDEST = 7
NEWEST = 25
"""The last operator set whose QuantizeLinear ONNX Runtime 1.32 has."""


def raise_opset(graph: Graph, at_least: int) -> None:
    """Bring `graph`, its bodies and its functions to operator set `at_least` (13 or later).

    Ranks, where known, save operators around Softmax; see `ir.shapes.infer`.

    Raises:
        PassError: a node cannot be expressed in the newer set, or changed before version 7.
    """
    info = graph.info
    if info.opset >= at_least and not info.functions:
        return
    if at_least > onnx.defs.onnx_opset_version():
        raise PassError(
            f"the package onnx {onnx.__version__} knows operator sets up to "
            f"{onnx.defs.onnx_opset_version()}, this needs {at_least}: install a later one"
        )
    for key, function in info.functions.items():
        if function.info.opset < at_least:
            info.functions[key] = clone(function)[0]  # clones of a graph share functions
    for part in (graph, *info.functions.values()):
        before = part.info.opset
        if before >= at_least:
            continue
        for inner in list(part.graphs()):
            for node in inner.order():
                if node.domain == "":
                    _convert(inner, node, before, at_least)
        part.info.opsets[""] = at_least
    needed = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", info.opset)])
    info.ir_version = max(info.ir_version, needed)


def lower_opset(graph: Graph, at_most: int) -> None:
    """Declare operator set `at_most` where nothing in `graph` has changed since.

    An engine may know an operator set but lack its newest QuantizeLinear.
    """
    info = graph.info
    if info.opset <= at_most or info.functions:
        return
    nodes = (node for inner in graph.graphs() for node in inner if node.domain == "")
    if all(onnx.defs.get_schema(node.op, info.opset).since_version <= at_most for node in nodes):
        info.opsets[""] = at_most


def _convert(graph: Graph, node: Node, before: int, after: int) -> None:
    if before < OLDEST and onnx.defs.get_schema(node.op, OLDEST).since_version > before:
        raise PassError(
            f"{node.label} is of operator set {before}, {OLDEST} is the first that is understood: "
            "export the model again"
        )
    for version, ops, change in CHANGES:
        if before < version <= after and node.op in ops:
            change(graph, node)


def _take(node: Node, name: str, default: Any = None) -> Any:
    """The attribute `name`; an attribute of a function that its caller fills in cannot be moved."""
    found = node.attrs.get(name, default)
    if isinstance(found, onnx.AttributeProto):
        if found.ref_attr_name:
            raise PassError(f"{node.label}: attribute '{name}' is a parameter of its function")
        return onnx.helper.get_attribute_value(found)
    return found


def _to_inputs(*places: tuple[str, int], kind: type = np.int64) -> Callable[[Graph, Node], None]:
    """Attributes, each with its slot, become constant inputs."""

    def change(graph: Graph, node: Node) -> None:
        for name, slot in places:
            value = _take(node, name)
            if value is not None:
                graph.set_attrs(node, **{name: None})
                graph.set_input(node, slot, graph.constant(np.asarray(value, kind)))

    return change


def _clip(graph: Graph, node: Node) -> None:
    kind = node.output.dtype.numpy if node.output.dtype else np.float32
    for slot, name in enumerate(("min", "max"), 1):
        bound = _take(node, name)
        graph.set_attrs(node, **{name: None})
        if bound is not None and abs(bound) < np.finfo(np.float32).max:
            graph.set_input(node, slot, graph.constant(np.asarray(bound, kind)))


def _pad(graph: Graph, node: Node) -> None:
    fill = _take(node, "value", 0.0)
    kind = node.output.dtype.numpy if node.output.dtype else np.float32
    graph.set_attrs(node, value=None)
    _to_inputs(("pads", 1))(graph, node)
    if fill:
        graph.set_input(node, 2, graph.constant(np.asarray(fill, kind)))


def _top_k(graph: Graph, node: Node) -> None:
    k = _take(node, "k")
    graph.set_attrs(node, k=None)
    graph.set_input(node, 1, graph.constant(np.asarray([k], np.int64)))


def _resize_of_upsample(graph: Graph, node: Node) -> None:
    node.op = "Resize"
    graph.set_attrs(node, mode=_take(node, "mode", "nearest"))


def _resize(graph: Graph, node: Node) -> None:
    """Before version 11 coordinates were asymmetric, and nearest rounded towards the source."""
    scales = node.input(1)
    graph.set_input(node, 2, scales)
    graph.set_input(node, 1, graph.constant(np.zeros(0, np.float32)))
    attrs = {"coordinate_transformation_mode": "asymmetric"}
    if _take(node, "mode", "nearest") == "nearest":
        shrinks = scales is not None and scales.is_constant and bool((scales.numpy() < 1).any())
        attrs["nearest_mode"] = "ceil" if shrinks else "floor"
    graph.set_attrs(node, **attrs)


def _dropout(graph: Graph, node: Node) -> None:
    """Inference ignores the ratio; the seed cannot matter."""
    graph.set_attrs(node, ratio=None, seed=None)


def _softmax(graph: Graph, node: Node) -> None:
    """Before version 13 the axes from `axis` on were one; usually only one is larger than 1."""
    axis, data = _take(node, "axis", 1), node.inputs[0]
    assert data is not None
    if data.shape is not None:
        axis += len(data.shape) if axis < 0 else 0
        long = [k for k in range(axis, len(data.shape)) if data.shape[k] != 1]
        if len(long) <= 1:
            graph.set_attrs(node, axis=long[0] if long else axis)
            return
    old = node.output
    shape = graph.add("Shape", [data], like=node).output
    flat = graph.add("Flatten", [data], {"axis": axis}, like=node).output
    rows = graph.add(node.op, [flat], {"axis": -1}, name=node.name, like=node).output
    new = graph.add("Reshape", [rows, shape], like=node).output
    new.name, new.dtype, new.shape = old.name, old.dtype, old.shape
    flat.dtype = rows.dtype = old.dtype
    graph.replace(old, new)
    graph.erase(node)


def _batch_normalization_of_9(graph: Graph, node: Node) -> None:
    if not _take(node, "spatial", 1):
        raise PassError(f"{node.label}: spatial=0 has no equivalent after operator set 8")
    graph.set_attrs(node, spatial=None)


def _batch_normalization_of_14(graph: Graph, node: Node) -> None:
    if any(value.uses for value in node.outputs[1:]):
        raise PassError(f"{node.label} is in training mode: export the model for inference")
    del node.outputs[1:]


def _scan(_graph: Graph, node: Node) -> None:
    raise PassError(f"{node.label} has no equivalent after operator set 8")


def _rename(op: str) -> Callable[[Graph, Node], None]:
    def change(graph: Graph, node: Node) -> None:
        node.op = op
        graph.set_attrs(node)

    return change


def _split(graph: Graph, node: Node) -> None:
    if node.input(1) is None:
        graph.set_attrs(node, num_outputs=len(node.outputs))


def _roi_align(graph: Graph, node: Node) -> None:
    graph.set_attrs(node, coordinate_transformation_mode="output_half_pixel")


def _grid_sample(graph: Graph, node: Node) -> None:
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = _take(node, "mode", "bilinear")
    graph.set_attrs(node, mode=names.get(mode, mode))


def _dft(graph: Graph, node: Node) -> None:
    axis = _take(node, "axis", 1)
    graph.set_attrs(node, axis=None)
    graph.set_input(node, 2, graph.constant(np.asarray(axis, np.int64)))


def _group_normalization(graph: Graph, node: Node) -> None:
    """Scale and bias were per group, later per channel."""
    data, groups = node.inputs[0], _take(node, "num_groups")
    channels = data.shape[1] if data is not None and data.shape else None
    for slot in (1, 2):
        value = node.inputs[slot]
        if value is None or not value.is_constant or not isinstance(channels, int):
            raise PassError(f"{node.label}: needs constant scale and bias and known channels")
        repeated = np.repeat(value.numpy(), channels // groups)
        graph.set_input(node, slot, graph.constant(repeated, value.name))


_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"),
    *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare"),
)

CHANGES: Sequence[tuple[int, tuple[str, ...], Callable[[Graph, Node], None]]] = (
    (9, ("BatchNormalization",), _batch_normalization_of_9),
    (9, ("Scan",), _scan),
    (9, ("Upsample",), _to_inputs(("scales", 1), kind=np.float32)),
    (10, ("Upsample",), _resize_of_upsample),
    (10, ("Slice",), _to_inputs(("starts", 1), ("ends", 2), ("axes", 3))),
    (10, ("TopK",), _top_k),
    (11, ("Clip",), _clip),
    (11, ("Pad",), _pad),
    (11, ("Resize",), _resize),
    (11, ("Scatter",), _rename("ScatterElements")),
    (12, ("Dropout",), _dropout),
    (13, ("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    (13, ("Squeeze", "Unsqueeze", "ReduceSum"), _to_inputs(("axes", 1))),
    (13, ("Split",), _to_inputs(("split", 1))),
    (14, ("BatchNormalization",), _batch_normalization_of_14),
    (16, ("RoiAlign",), _roi_align),
    (18, _REDUCTIONS, _to_inputs(("axes", 1))),
    (18, ("Split",), _split),
    (20, ("GridSample",), _grid_sample),
    (20, ("DFT",), _dft),
    (21, ("GroupNormalization",), _group_normalization),
)
"""(version that brought it, operators, what to do to a node), by version."""
