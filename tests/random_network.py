"""Random small networks."""

import numpy as np

from ptq_opt.ir import DType, Graph, ModelInfo, Value
from ptq_opt.ir.shapes import infer
from ptq_opt.ir.tensor import Array


class Network:
    """Grows a network operator by operator, with shared values and outputs in the middle."""

    def __init__(self, seed: int, batch: int | str = 1) -> None:
        self.rng = np.random.default_rng(seed)
        opset = int(self.rng.choice([13, 17, 20]))
        self.graph = Graph("random", ModelInfo(ir_version=9, opsets={"": opset}))
        self.values = [self.graph.input("x", DType.FLOAT, (batch, 4, 6, 6))]
        self.shared = self.noise(4, 1, 1)

    def noise(self, *shape: int) -> Value:
        array: Array = self.rng.normal(0, 0.7, shape).astype(np.float32)
        return self.graph.constant(array, "c")

    def add(self, op: str, *inputs: Value, **attrs: object) -> Value:
        node = self.graph.add(op, inputs, attrs)
        node.output.name = node.output.origin = f"{op}{len(self.graph)}"
        return node.output

    def grow(self) -> None:
        """Add one operator or a typical few; all values have 4 channels of 6 x 6."""
        rng, x = self.rng, self.values[int(self.rng.integers(len(self.values)))]
        kind = rng.integers(14)
        if kind < 3:
            group, kernel = int(rng.choice([1, 2, 4])), int(rng.choice([1, 3]))
            op = str(rng.choice(["Conv", "ConvTranspose"]))
            weights = [self.noise(4, 4 // group, kernel, kernel)]
            weights += [self.noise(4)] * int(rng.integers(2))
            y = self.add(op, x, *weights, group=group, pads=[kernel // 2] * 4)
        elif kind < 5:
            positive = self.graph.constant(np.abs(self.noise(4).numpy()) + 0.3, "var")
            y = self.add("BatchNormalization", x, *(self.noise(4) for _ in range(3)), positive)
        elif kind < 8:
            shapes = [(4, 1, 1), (1, 4, 1, 1), (), (1,), (6,), (4, 6, 6)]
            c = self.noise(*shapes[int(rng.integers(len(shapes)))])
            c = self.shared if rng.random() < 0.2 else c
            op = str(rng.choice(["Add", "Mul", "Sub", "Div"]))
            if op == "Div":
                c = self.graph.constant(np.abs(c.numpy()) + 0.5, "d")
            y = self.add(op, *((x, c) if op == "Div" or rng.random() < 0.7 else (c, x)))
        elif kind < 10:
            y = self.add(str(rng.choice(["Relu", "LeakyRelu", "Sigmoid", "Identity"])), x)
        elif kind == 10:
            y = self.add("PRelu", x, self.noise(4, 1, 1))
        elif kind == 11:
            attrs = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
            y = self.add(str(rng.choice(["MaxPool", "AveragePool"])), x, **attrs)
        elif kind == 12:
            other = self.values[int(rng.integers(len(self.values)))]
            both = self.add("Concat", x, other, axis=1)
            y = self.add("Conv", self.add("Mul", both, self.noise(8, 1, 1)), self.noise(4, 8, 1, 1))
        else:
            y = self.add("Sum", *rng.choice(np.array(self.values, object), 3))
        self.values.append(y)

    def build(self, size: int) -> Graph:
        for _ in range(size):
            self.grow()
        last = len(self.values) - 1
        picked = {*self.rng.integers(1, last + 1, 2).tolist(), last}
        outputs = [self.values[k] for k in sorted(picked)]
        if self.rng.random() < 0.3:
            flat = self.add("Flatten", outputs[-1], axis=1)
            outputs.append(self.add("MatMul", flat, self.noise(144, 3)))
        self.graph.set_outputs(outputs)
        self.graph.sweep()
        infer(self.graph)
        return self.graph
