"""High biases move on into the next layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..ir import Graph
from ..ir.ranges import key
from ..ir.shapes import infer
from ..ir.tensor import Array
from .base import Context, Pass, Skip
from .layers import Layer, find_layers
from .moments import Statistic
from .region_linear import padded


@dataclass(frozen=True)
class AbsorbBias(Pass):
    """Subtract from channels before a Relu what they hardly ever fall below, for their readers.

    Channels whose mean minus `deviations` standard deviations is c > 0 pass a Relu as they are,
    nearly always: c is taken from their bias, and the readers' biases get what they make of it. The
    range of the activations shrinks by c. This changes the function where a channel is below c, for
    normal channels 0.13 % of the elements with 3 deviations; hence only on request. The statistics
    are those of BatchNormalization. Source: Nagel et al. 2019, arXiv:1906.04721, section 4.1.3.

    Attributes:
        deviations: how many below the mean c is.
    """

    name: ClassVar[str] = "absorb-bias"
    requires: ClassVar[tuple[str, ...]] = ("canonical", "folded")
    invalidates: ClassVar[tuple[str, ...]] = ("ranges", "plan")

    deviations: float = 3.0

    def __post_init__(self) -> None:
        """Check the options."""
        if not self.deviations >= 0:
            raise ValueError("deviations must not be negative")

    def run(self, graph: Graph, context: Context) -> None:
        """Move the biases of all layers that a Relu follows."""
        infer(graph)
        report = context.report
        layers = find_layers(graph, report)
        for layer in layers:
            known = context.statistics.get(key(layer.output))
            if layer.clamp is None or known is None:
                continue
            report.matched += 1
            amounts = surplus(known, self.deviations)
            if not amounts.any():
                continue
            try:
                readers = _readers(layer, layers)
            except Skip as declined:
                report.skip(str(declined), layer.node)
                continue
            _add(graph, layer, -amounts)
            for reader in readers:
                _add(graph, reader, reader.response(reader.weights.numpy(), amounts[None])[0])
            context.statistics[key(layer.output)] = Statistic(known.mean - amounts, known.deviation)
            report.rewritten += 1


def surplus(known: Statistic, deviations: float) -> Array:
    """What channels are above, but for the lowest elements; 0 where that is not positive."""
    return np.maximum(known.mean - deviations * known.deviation, 0.0)


def _readers(layer: Layer, layers: list[Layer]) -> list[Layer]:
    """The layers that read what is behind the Relu; `Skip` when they cannot take all of it."""
    clamp = layer.clamp
    assert clamp is not None
    if (clamp.low, clamp.high) != (0.0, np.inf):
        raise Skip("its clamp has an upper bound, which would move")
    readers = [each for each in layers if each.data is clamp.result]
    if {(each.node, 0) for each in readers} != set(clamp.result.uses):
        raise Skip("something else than layers with a bias reads it")
    if any(each.node.is_op("ConvTranspose") or padded(each.node) for each in readers):
        raise Skip("a reader pads with zeros, which would stay")
    return readers


def _add(graph: Graph, layer: Layer, amounts: Array) -> None:
    """Add to the bias of a layer."""
    old = layer.bias
    bias = amounts if old is None else old.numpy() + amounts
    name = old.name if old is not None else f"{layer.output.name}_bias"
    graph.set_input(layer.adder, layer.slot, graph.constant(bias.astype(np.float32), name))
