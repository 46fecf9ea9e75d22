"""Random networks whose channels can partly be rescaled, drawn by hypothesis."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from rewriting import noise

from ptq_opt.ir import DType, Graph, ModelInfo, Value
from ptq_opt.ir.shapes import infer


def random_network(data: st.DataObject) -> Graph:
    """A few operators over shared values, with one of them among the outputs."""
    network = Network(data)
    for _ in range(data.draw(st.integers(2, 8))):
        network.grow()
    middle = network.values[data.draw(st.integers(0, len(network.values) - 1))]
    outputs = list(dict.fromkeys([network.values[-1], middle]))
    network.graph.set_outputs(outputs, [f"y{k}" for k in range(len(outputs))])
    network.graph.sweep()
    return network.graph


class Network:
    """Grows by operators over values of 4 channels and 6 x 6 elements, any of them shared."""

    def __init__(self, draw: st.DataObject) -> None:
        self.draw = draw
        self.graph = Graph("random", ModelInfo(ir_version=8, opsets={"": 17}))
        x = self.graph.input("x", DType.FLOAT, (1, 4, 6, 6))
        self.values = [self.op("Conv", x, self.noise(4, 4, 1, 1))]
        self.shared = self.noise(4, 4, 3, 3)
        infer(self.graph)

    def pick(self, *items: Any) -> Any:
        return self.draw.draw(st.sampled_from(items))

    def noise(self, *shape: int) -> Value:
        return self.graph.constant(noise(*shape, seed=self.draw.draw(st.integers(0, 99))))

    def op(self, op: str, *inputs: Value, **attrs: Any) -> Value:
        return self.graph.add(op, inputs, attrs).output

    def grow(self) -> None:
        """Append one operator, or a few."""
        x, z = (self.values[self.pick(*range(len(self.values)))] for _ in range(2))
        same = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
        numbers = self.graph.constant
        makers = {
            "conv": lambda: self.conv(x),
            "shared": lambda: self.op("Conv", x, self.shared, pads=[1, 1, 1, 1]),
            "gate": lambda: self.op("Mul", x, self.op("Sigmoid", z)),
            "unary": lambda: self.op(
                self.pick("Relu", "LeakyRelu", "Sigmoid", "Neg", "Identity"), x
            ),
            "prelu": lambda: self.op("PRelu", x, self.noise(4, 1, 1)),
            "pool": lambda: self.op(self.pick("MaxPool", "AveragePool"), x, **same),
            "binary": lambda: self.op(self.pick("Add", "Add", "Sub", "Max"), x, z),
            "constant": lambda: self.op(self.pick("Add", "Mul"), self.noise(4, 1, 1), x),
            "concat": lambda: self.op(
                "Conv", self.op("Concat", x, z, axis=1), self.noise(4, 8, 1, 1)
            ),
            "halves": lambda: self.op(
                "Concat", *reversed(self.graph.add("Split", [x], {"axis": 1}, 2).outputs), axis=1
            ),
            "shuffle": lambda: self.op(
                "Gather", x, numbers(np.array(self.pick([3, 1, 2, 0], [2, 2, 0, 1]))), axis=1
            ),
            "clip": lambda: self.op(
                "Clip", x, numbers(np.float32(0)), numbers(np.float32(self.pick(6, 3e38)))
            ),
        }
        made = makers[self.pick(*makers)]()
        infer(self.graph)
        self.values.append(made)

    def conv(self, x: Value) -> Value:
        """A convolution of 4 to 4 channels, with or without padding, groups and bias."""
        group, kernel = self.pick(1, 2, 4), self.pick(1, 3)
        weights = [self.noise(4, 4 // group, kernel, kernel)] + [self.noise(4)] * self.pick(0, 1)
        attrs = {"group": group} if group > 1 or self.pick(True, False) else {}
        pads = {"pads": [1, 1, 1, 1]} if kernel == 3 else {}
        return self.op(self.pick("Conv", "ConvTranspose"), x, *weights, **attrs, **pads)
