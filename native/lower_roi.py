"""Regions of an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..ir import Node, Value
from .handlers import bytes_of, handles
from .lowering import Lowering, title
from .model import ABSENT, Array, Kind, Model, Role, Type
from .orders import channels_last
from .values import Abstract, Const, Declined, Grid, Raw, Rows, Stored, static


@handles("RoiAlign")
def roi_align(low: Lowering, node: Node) -> list[Abstract]:
    """Float results, in ONNX's order, of any number of regions of an 8-bit image."""
    grid = bytes_of(low, node.inputs[0])
    regions, batch = (_operand(low, value) for value in node.inputs[1:3])
    stored = [source for source in (regions, batch) if isinstance(source, Stored)]
    stage = low.stage([grid.stored, *stored])
    image = replace(grid, stored=low.arrange(grid.stored, channels_last(4), stage))
    if any(source.shape is None for source in stored):
        if len(stored) < 2:
            raise Declined("an unknown number of regions, their images constant")
        rows = Rows(node.label, stage, [image.stored, *stored], _sized(low, node, image))
        return [Raw(low.open_rows(rows, node.output, Type.F32))]
    model = low.models[stage]
    ids = [
        low.id(source, stage) if isinstance(source, Stored) else model.constant(source)
        for source in (regions, batch)
    ]
    attrs, scale = _attributes(low, node)
    count = static(regions)[0] if isinstance(regions, Stored) else len(regions)
    y = low.make(stage, Type.F32, (count, *_row(node, image)))
    inputs = [low.grid_id(image, stage), *ids, model.constant(scale), ABSENT]
    return [Raw(low.emit(stage, Kind.ROI_ALIGN, inputs, y, attrs))]


def _sized(low: Lowering, node: Node, image: Grid) -> Callable[[int], Model]:
    """The model for up to so many regions, the last input being how many there are."""
    attrs, scale = _attributes(low, node)
    row, x = _row(node, image), image.stored
    label, nodes = node.label, [title(node)]

    def model(most: int) -> Model:
        made = Model()
        inputs = [
            made.tensor(x.dtype, x.dims, image.scale, image.zero_point, Role.INPUT),
            made.tensor(Type.F32, (most, 4), role=Role.INPUT),
            made.tensor(Type.S64, (most,), role=Role.INPUT),
            made.constant(scale),
            made.tensor(Type.S64, (1,), role=Role.INPUT),
        ]
        y = made.tensor(Type.F32, (most, *row), role=Role.OUTPUT)
        made.op(Kind.ROI_ALIGN, inputs, [y], attrs, label, nodes)
        return made

    return model


def _operand(low: Lowering, value: Value | None) -> Stored | Array:
    assert value is not None
    found = low.values.get(value)
    return found.array if isinstance(found, Const) else low.as_onnx(value)


def _row(node: Node, image: Grid) -> tuple[int, ...]:
    """The shape of one region's result."""
    size = (int(node.attrs.get(name, 1)) for name in ("output_height", "output_width"))
    return (static(image.stored)[1], *size)


def _attributes(low: Lowering, node: Node) -> tuple[list[int], Array]:
    """`sampling_ratio, half_pixel, largest`, and the spatial scale."""
    usual = "half_pixel" if low.graph.info.opset >= 16 else "output_half_pixel"
    half = node.attrs.get("coordinate_transformation_mode", usual) in ("half_pixel", b"half_pixel")
    largest = node.attrs.get("mode", "avg") in ("max", b"max")
    scale = np.array([node.attrs.get("spatial_scale", 1.0)], np.float32)
    return [int(node.attrs.get("sampling_ratio", 0)), int(half), int(largest)], scale
