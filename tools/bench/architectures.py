"""Architectures that the zoo lacks, built from their papers with seeded noise for weights.

BatchNormalization is folded: each convolution has a bias, and its weights are He scaled (He et al.,
"Delving Deep into Rectifiers", 2015), so that activations neither vanish nor overflow.

- Inception-ResNet-v2: Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual
  Connections on Learning", 2016, with the stem of Inception-v3, as its authors released it.
- DeepLab v3 on MobileNet-v3 large: Chen et al., "Rethinking Atrous Convolution for Semantic Image
  Segmentation", 2017; Howard et al., "Searching for MobileNetV3", 2019. Output stride 16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

from ...ir import DType, Graph, ModelInfo, Value
from ...ir.onnx_save import save_model

Size = int | tuple[int, int]


class Network:
    """A graph that grows by layers; values are [1, channels, height, width]."""

    def __init__(self, name: str, size: int) -> None:
        """Start with an image of `size` pixels each way."""
        self.graph = Graph(name, ModelInfo(opsets={"": 17}))
        self.random = np.random.default_rng(size)
        self.input = self.graph.input("image", DType.FLOAT, (1, 3, size, size))
        self.channels = {self.input: 3}

    def add(
        self, op: str, inputs: Sequence[Value | None], channels: int = 0, **attrs: object
    ) -> Value:
        """One operator; as many channels as its first operand has, unless told."""
        result = self.graph.add(op, inputs, attrs).output
        first = inputs[0]
        self.channels[result] = channels or (self.channels[first] if first is not None else 0)
        return result

    def constant(self, *numbers: float) -> Value:
        """A vector."""
        return self.graph.constant(np.array(numbers, np.float32))

    def conv(
        self, x: Value, channels: int, kernel: Size = 1, *, stride: int = 1, groups: int = 1,
        dilation: int = 1, valid: bool = False, act: str = "Relu",
    ) -> Value:  # fmt: skip
        """A convolution of the same size, or without padding if `valid`, and its activation."""
        high, wide = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        shape = (channels, self.channels[x] // groups, high, wide)
        deviation = np.sqrt((2 if act else 1) / np.prod(shape[1:]))
        weight = self.random.standard_normal(shape, np.float32) * np.float32(deviation)
        bias = self.random.standard_normal(channels, np.float32) * np.float32(0.05)
        pads = [0 if valid else k // 2 * dilation for k in (high, wide)] * 2
        attrs: dict[str, Any] = {"strides": [stride] * 2, "dilations": [dilation] * 2, "pads": pads}
        operands = [x, self.graph.constant(weight), self.graph.constant(bias)]
        y = self.add("Conv", operands, channels, group=groups, kernel_shape=[high, wide], **attrs)
        return self.add(act, [y]) if act else y

    def pool(self, x: Value, op: str = "MaxPool", *, stride: int = 2, pad: int = 0) -> Value:
        """Over 3 x 3 pixels."""
        attrs: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [stride] * 2, "pads": [pad] * 4}
        return self.add(op, [x], **attrs)

    def concat(self, *parts: Value) -> Value:
        """Branches side by side."""
        return self.add("Concat", parts, sum(self.channels[p] for p in parts), axis=1)

    def resize(self, x: Value, size: int) -> Value:
        """Bilinear."""
        to = self.graph.constant(np.array([1, self.channels[x], size, size]))
        return self.add("Resize", [x, None, None, to], mode="linear")

    def finish(self, y: Value) -> onnx.ModelProto:
        """The model that computes `y`."""
        y.name = "result"
        self.graph.set_outputs([y])
        return save_model(self.graph)


def inception_resnet_v2() -> onnx.ModelProto:
    """299 x 299 pixels, 1000 classes, 13.2 G multiply-accumulates."""
    net = Network("inception_resnet_v2", 299)
    conv, pool, concat = net.conv, net.pool, net.concat

    def residual(x: Value, scale: float, *branches: Value, act: str = "Relu") -> Value:
        change = conv(concat(*branches), net.channels[x], act="")
        total = net.add("Add", [x, net.add("Mul", [change, net.constant(scale)])])
        return net.add(act, [total]) if act else total

    x = conv(conv(net.input, 32, 3, stride=2, valid=True), 32, 3, valid=True)
    x = conv(conv(pool(conv(x, 64, 3)), 80), 192, 3, valid=True)
    x = pool(x)
    around = conv(pool(x, "AveragePool", stride=1, pad=1), 64)
    x = concat(conv(x, 96), conv(conv(x, 48), 64, 5), conv(conv(conv(x, 64), 96, 3), 96, 3), around)
    for _ in range(10):
        deep = conv(conv(conv(x, 32), 48, 3), 64, 3)
        x = residual(x, 0.17, conv(x, 32), conv(conv(x, 32), 32, 3), deep)
    deep = conv(conv(conv(x, 256), 256, 3), 384, 3, stride=2, valid=True)
    x = concat(conv(x, 384, 3, stride=2, valid=True), deep, pool(x))
    for _ in range(20):
        x = residual(x, 0.1, conv(x, 192), conv(conv(conv(x, 128), 160, (1, 7)), 192, (7, 1)))
    short = [conv(conv(x, 256), n, 3, stride=2, valid=True) for n in (384, 288)]
    deep = conv(conv(conv(x, 256), 288, 3), 320, 3, stride=2, valid=True)
    x = concat(*short, deep, pool(x))
    for k in range(10):
        last = k == 9
        branches = conv(x, 192), conv(conv(conv(x, 192), 224, (1, 3)), 256, (3, 1))
        x = residual(x, 1.0 if last else 0.2, *branches, act="" if last else "Relu")
    x = net.add("GlobalAveragePool", [conv(x, 1536)])
    return net.finish(net.add("Flatten", [conv(x, 1000, act="")]))


MOBILENET_V3 = (  # kernel, expanded, channels, whether excited, activation, stride, dilation
    (3, 16, 16, False, "Relu", 1, 1), (3, 64, 24, False, "Relu", 2, 1),
    (3, 72, 24, False, "Relu", 1, 1), (5, 72, 40, True, "Relu", 2, 1),
    (5, 120, 40, True, "Relu", 1, 1), (5, 120, 40, True, "Relu", 1, 1),
    (3, 240, 80, False, "HardSwish", 2, 1), (3, 200, 80, False, "HardSwish", 1, 1),
    (3, 184, 80, False, "HardSwish", 1, 1), (3, 184, 80, False, "HardSwish", 1, 1),
    (3, 480, 112, True, "HardSwish", 1, 1), (3, 672, 112, True, "HardSwish", 1, 1),
    (5, 672, 160, True, "HardSwish", 1, 2), (5, 960, 160, True, "HardSwish", 1, 2),
    (5, 960, 160, True, "HardSwish", 1, 2),
)  # fmt: skip
"""The blocks; where the last stride was, a dilation keeps the output stride at 16."""


def deeplabv3_mobilenet_v3() -> onnx.ModelProto:
    """513 x 513 pixels, 21 classes, 10.4 G multiply-accumulates."""
    net = Network("deeplabv3_mobilenet_v3", 513)
    conv = net.conv

    def excited(x: Value) -> Value:
        width = net.channels[x]
        squeezed = max(8, (width // 4 + 4) // 8 * 8)
        gate = conv(net.add("GlobalAveragePool", [x]), squeezed)
        gate = conv(gate, width, act="")
        return net.add("Mul", [x, net.add("HardSigmoid", [gate], alpha=1 / 6)])

    def block(
        x: Value, kernel: int, expanded: int, channels: int, gated: bool, act: str, stride: int,
        dilation: int,
    ) -> Value:  # fmt: skip
        y = conv(x, expanded, act=act) if expanded != net.channels[x] else x
        y = conv(y, expanded, kernel, stride=stride, groups=expanded, dilation=dilation, act=act)
        y = conv(excited(y) if gated else y, channels, act="")
        same = stride == 1 and channels == net.channels[x]
        return net.add("Add", [y, x]) if same else y

    x = conv(net.input, 16, 3, stride=2, act="HardSwish")
    for row in MOBILENET_V3:
        x = block(x, *row)
    x = conv(x, 960, act="HardSwish")
    image = net.resize(conv(net.add("GlobalAveragePool", [x]), 256), 33)
    x = net.concat(conv(x, 256), *(conv(x, 256, 3, dilation=d) for d in (12, 24, 36)), image)
    x = conv(conv(conv(x, 256), 256, 3), 21, act="")
    return net.finish(net.resize(x, 513))


ARCHITECTURES: dict[str, Callable[[], onnx.ModelProto]] = {
    "inception_resnet_v2": inception_resnet_v2,
    "deeplabv3_mobilenet_v3": deeplabv3_mobilenet_v3,
}
