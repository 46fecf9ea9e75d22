"""Layers with a bias: operators with constant weights, and what they add to every channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import DType, Graph, Node, Value, quant
from ..ir.reach import out_of_reach
from ..ir.tensor import Array
from .base import Report, single_reader
from .units import clamp_limits, weight_axis


@dataclass(frozen=True, eq=False)
class Clamp:
    """A Relu or Clip: its result, and the bounds between which it passes values on."""

    result: Value
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Layer:
    """A Conv, ConvTranspose, Gemm or MatMul with constant weights, and where its bias is.

    Attributes:
        node: multiplies.
        adder: adds the bias: `node` itself, or the Add behind a MatMul.
        slot: of the bias among the operands of `adder`; it may be left out there.
    """

    node: Node
    adder: Node
    slot: int

    @property
    def output(self) -> Value:
        """The result, bias included and before any activation function."""
        return self.adder.output

    @property
    def data(self) -> Value:
        """The activations it reads."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def weights(self) -> Value:
        """The constant it multiplies by."""
        value = self.node.inputs[1]
        assert value is not None
        return value

    @property
    def bias(self) -> Value | None:
        """The constant it adds, None when there is none."""
        return self.adder.input(self.slot)

    @property
    def clamp(self) -> Clamp | None:
        """The Relu or Clip that alone reads `output`."""
        return clamp_behind(self.output)

    @property
    def axis(self) -> int:
        """The channel axis of `data` and `output`."""
        return -1 if self.node.op == "MatMul" else 1

    @property
    def channels(self) -> int:
        """How many channels `output` has."""
        group = self.node.attrs.get("group", 1) if self.node.op == "ConvTranspose" else 1
        return int(self.weights.numpy().shape[weight_axis(self.node)]) * int(group)

    @property
    def inputs(self) -> int:
        """How many channels `data` has."""
        shape, node = self.weights.numpy().shape, self.node
        if node.op == "Conv":
            return int(shape[1]) * int(node.attrs.get("group", 1))
        return int(shape[1] if node.attrs.get("transB", 0) else shape[0])

    def in_clone(self, where: dict[Value, Value]) -> Layer:
        """The same layer in a clone, given what became of each value."""
        node, adder = where[self.node.output].producer, where[self.output].producer
        assert node is not None and adder is not None
        return Layer(node, adder, self.slot)

    def response(self, weights: Array, means: Array) -> Array:
        """Mean output per channel, without bias, for inputs that are constant in each channel.

        Exact for the means of any input where nothing is padded. A strided ConvTranspose spreads
        its kernel over the positions between the inputs: the mean of those is returned.

        Args:
            weights: shape of the layer's weights.
            means: [samples, input channels].

        Returns:
            [samples, output channels], float64.
        """
        node = self.node
        if node.op in ("Gemm", "MatMul"):
            columns = weights.T if node.attrs.get("transB", 0) else weights
            parts = np.array_split(columns, -(-weights.size // quant.ELEMENTS) or 1, axis=1)
            return np.concatenate([means @ part.astype(np.float64) for part in parts], axis=1)
        matrix = weights.astype(np.float64).sum(axis=tuple(range(2, weights.ndim)))
        group = int(node.attrs.get("group", 1))
        inputs = means.reshape(len(means), group, -1)
        if node.op == "Conv":
            return _per_group("sgi,goi->sgo", inputs, matrix)
        steps = float(np.prod(node.attrs.get("strides", [1])))
        return _per_group("sgi,gio->sgo", inputs, matrix) / steps


def clamp_behind(value: Value) -> Clamp | None:
    """The Relu or Clip that alone reads `value`."""
    reader = single_reader(value)
    limits = clamp_limits(reader) if reader and reader.input(0) is value else None
    if reader is None or limits is None or not np.isfinite(limits).any():
        return None
    return Clamp(reader.output, *limits) if reader.output.rank == value.rank else None


def find_layers(graph: Graph, report: Report) -> list[Layer]:
    """The layers of `graph` whose bias can be changed, in topological order of their outputs.

    Those in bodies are not looked at. What cannot be changed is recorded in `report`.
    """
    hidden = out_of_reach(graph)
    found = []
    for node in graph.order():
        if node.is_op("Conv", "ConvTranspose", "Gemm", "MatMul"):
            layer = _as_layer(node)
            obstacle = "has no bias behind it" if layer is None else _obstacle(layer)
            if layer is not None and layer.output in hidden:
                obstacle = "ONNX Runtime cannot compute it"
            if layer is not None and not obstacle:
                found.append(layer)
            elif node.precision == "int8":
                report.skip(obstacle, node)
    place = {node: k for k, node in enumerate(graph.order())}
    return sorted(found, key=lambda layer: place[layer.adder])


def last_layers(graph: Graph, layers: Sequence[Layer]) -> list[Layer]:
    """The layers from which no path of floats leads to another.

    Integers (indices, counts, shapes) are no path: an error changes them wholly or not at all.
    """
    nodes = {layer.node for layer in layers}
    before: set[Node] = set()
    for node in reversed(graph.order()):
        real = [v for v in node.outputs if v.dtype is None or v.dtype.is_float]
        if any(after in nodes or after in before for v in real for after in v.consumers):
            before.add(node)
    return [layer for layer in layers if layer.adder not in before]


def _per_group(product: str, inputs: Array, matrix: Array) -> Array:
    """Multiply [samples, group, channels] by the rows of `matrix` that belong to each group."""
    blocks = matrix.reshape(inputs.shape[1], -1, matrix.shape[1])
    return np.asarray(np.einsum(product, inputs, blocks).reshape(len(inputs), -1))


def _as_layer(node: Node) -> Layer | None:
    if node.op != "MatMul":
        return Layer(node, node, 2)
    adder = single_reader(node.output)
    if adder is None or not adder.is_op("Add"):
        return None
    slot = 1 if adder.inputs[0] is node.output else 0
    other = adder.inputs[slot]
    return Layer(node, adder, slot) if other is not None and other.is_constant else None


def _obstacle(layer: Layer) -> str:
    """Why the bias of a layer cannot be changed; empty when it can."""
    weights, bias, node = layer.node.input(1), layer.bias, layer.node
    if weights is None or not weights.is_constant or weights.dtype is not DType.FLOAT:
        return "its weights are not constant float"
    if bias is not None and not bias.is_constant:
        return "its bias is not constant"
    if node.op == "Gemm" and any(node.attrs.get(k, 1.0) != 1.0 for k in ("alpha", "beta")):
        return "has alpha or beta"
    if node.op == "Gemm" and node.attrs.get("transA", 0):
        return "has transA"
    if layer.output.rank is None or layer.data.rank is None:
        return "the rank of its data is unknown"
    if node.op == "MatMul" and weights.rank != 2:
        return "its weights are not a matrix"
    return ""
