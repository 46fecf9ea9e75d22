"""Small graphs with random weights, and a plan for them that needs no calibration."""

import numpy as np

from ptq_opt.ir import DType, Graph, ModelInfo, Node, QuantInfo, Value, grid
from ptq_opt.ir.evaluate import Runner
from ptq_opt.ir.tensor import Array

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
Feeds = dict[str, Array]


class Net:
    """Builds small graphs with random weights; every method returns the value it made."""

    def __init__(self, shape: tuple[int, ...] = ("n", 3, 6, 6), seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = Graph("net", ModelInfo(opsets={"": 17}))
        self.x = self.graph.input("x", DType.FLOAT, shape)

    def random(self, *shape: int) -> Value:
        return self.graph.constant(self.rng.normal(0.1, 0.5, shape).astype(np.float32), "w")

    def add(self, op: str, *inputs: Value | None, **attrs: object) -> Value:
        value = self.graph.add(op, inputs, attrs).output
        value.name = value.origin = f"{op.lower()}_{len(self.graph)}"
        return value

    def conv(
        self, x: Value, channels: int, kernel: int = 3, *, bias: bool = True, **attrs: int
    ) -> Value:
        assert x.shape is not None
        group = attrs.get("group", 1)
        w = self.random(channels, x.shape[1] // group, kernel, kernel)
        b = self.random(channels) if bias else None
        y = self.add("Conv", x, w, b, pads=[kernel // 2] * 4, **attrs)
        y.dtype, y.shape = DType.FLOAT, (x.shape[0], channels, *x.shape[2:])
        return y

    def like(self, op: str, x: Value, *others: Value, **attrs: object) -> Value:
        y = self.add(op, x, *others, **attrs)
        y.dtype, y.shape = DType.FLOAT, x.shape
        return y

    def done(self, *outputs: Value) -> Graph:
        self.graph.set_outputs(outputs, [f"out_{k}" for k in range(len(outputs))])
        return self.graph


def feeds(count: int, *shape: int, seed: int = 1) -> list[Feeds]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(0.3, 1.0, shape).astype(np.float32)} for _ in range(count)]


def plan(graph: Graph, samples: list[Feeds], bits: int = 4) -> None:
    """Put layers into integers by observed ranges; `bits` of weights make the shifts visible."""
    layers = [node for node in graph if node.is_op(*WEIGHTED)]
    watched = dict.fromkeys(v for n in layers for v in (n.inputs[0], _result(n)) if v is not None)
    runner = Runner(graph, list(watched))
    found = [runner.run(sample) for sample in samples]
    for value, arrays in zip(watched, zip(*found, strict=True), strict=True):
        low, high = min(a.min() for a in arrays), max(a.max() for a in arrays)
        value.quant = grid(low, high, DType.UINT8)
    for node in layers:
        node.precision = "int8"
        made = _result(node).producer
        assert made is not None
        made.precision = "int8"
        weights = node.inputs[1]
        assert weights is not None
        reach = np.abs(weights.numpy()).max()
        coarse = np.float32(reach / (2 ** (bits - 1) - 1))
        weights.quant = QuantInfo(DType.INT8, coarse, np.int32(0))


def _result(node: Node) -> Value:
    after = node.output.consumers
    fused = len(after) == 1 and after[0].is_op("Relu")
    return after[0].output if fused else node.output


def chain() -> Graph:
    net = Net()
    x = net.like("Relu", net.conv(net.x, 4))
    return net.done(net.conv(net.like("Relu", net.conv(x, 5)), 2))


def linear() -> Graph:
    net = Net()
    return net.done(net.conv(net.conv(net.conv(net.x, 4), 5, bias=False), 3))


def residual() -> Graph:
    net = Net()
    x = net.like("Relu", net.conv(net.x, 4))
    y = net.conv(net.like("Relu", net.conv(x, 4)), 4)
    return net.done(net.conv(net.like("Relu", net.like("Add", y, x)), 3))


def branches() -> Graph:
    """Two branches, a Concat, and an output in the middle that a later layer reads too."""
    net = Net()
    x = net.like("Relu", net.conv(net.x, 4, 1))
    left, right = net.conv(x, 2, 1), net.like("Relu", net.conv(x, 3))
    both = net.add("Concat", left, right, axis=1)
    both.dtype, both.shape = DType.FLOAT, ("n", 5, 6, 6)
    return net.done(left, net.conv(both, 2, 1), x)


def without_bias() -> Graph:
    net = Net()
    x = net.like("Relu", net.conv(net.x, 4, bias=False))
    return net.done(net.conv(x, 3, bias=False))


def depthwise() -> Graph:
    net = Net(("n", 4, 6, 6))
    x = net.like("Relu", net.conv(net.x, 4, group=4))
    return net.done(net.conv(net.like("Relu", net.conv(x, 6, group=2)), 2, 1))


def transposed() -> Graph:
    net = Net(("n", 4, 5, 5))
    attrs = {"group": 2, "strides": [2, 2]}
    x = net.add("ConvTranspose", net.x, net.random(4, 3, 2, 2), net.random(6), **attrs)
    x.dtype, x.shape = DType.FLOAT, ("n", 6, 10, 10)
    return net.done(net.conv(net.like("Relu", x), 2))


def dense() -> Graph:
    """A MatMul with an Add behind it, and a Gemm with transposed weights."""
    net = Net(("n", 7))
    x = net.add("MatMul", net.x, net.random(7, 5))
    x.dtype, x.shape = DType.FLOAT, ("n", 5)
    y = net.like("Relu", net.like("Add", net.random(1, 5), x))
    z = net.add("Gemm", y, net.random(3, 5), net.random(3), transB=1)
    z.dtype, z.shape = DType.FLOAT, ("n", 3)
    return net.done(z)


NETS = {
    f.__name__: f
    for f in (linear, chain, residual, branches, without_bias, depthwise, transposed, dense)
}


def data_for(graph: Graph, count: int, batch: int = 2) -> list[Feeds]:
    shape = graph.inputs[0].shape
    assert shape is not None
    return feeds(count, batch, *shape[1:])
