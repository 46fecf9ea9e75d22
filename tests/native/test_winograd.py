"""Convolutions by Winograd's tiles: the same integers, where they are computed so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import kernel_reference as ref
import numpy as np
import pytest

from ptq_opt.native.kernels import Kernel, best_isa, isa_names
from ptq_opt.native.model import ABSENT, Kind, Model, Role, Type

HERE = [isa for isa in isa_names()[: isa_names().index(best_isa()) + 1] if isa != "avxvnni"]
"""Without one that may be missing among better ones; the checker runs it, emulated."""
TILED = [isa for isa in HERE if isa not in ("scalar", "amx")]


def conv_model(x: Any, w: Any, out: Sequence[int], dilation: int = 1, stride: int = 1) -> Model:
    """Sums of a convolution whose padding keeps the size."""
    n = x.ndim - 2
    model = Model()
    number = model.tensor(Type.U8, x.shape, 1.0, 131, Role.INPUT)
    y = model.tensor(Type.S32, (x.shape[0], *out, w.shape[0]), 1.0, 0, Role.OUTPUT)
    weights, scales = model.constant(w), model.constant(np.ones(1, np.float32))
    inputs = [number, weights, scales, ABSENT, model.grid(number), *[ABSENT] * 4]
    pads = [k // 2 * dilation for k in w.shape[1:-1]]
    geometry = [*[stride] * n, *[dilation] * n, *pads]
    model.op(Kind.CONV, inputs, [y], [n, 1, *geometry, 0, 255, 0, 255])
    return model


def arrays(size: Sequence[int], kernel: Sequence[int], channels: int, outputs: int) -> Any:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (1, *size, channels)).astype(np.uint8)
    return x, rng.integers(-40, 41, (outputs, *kernel, channels)).astype(np.int8)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", TILED)
@pytest.mark.parametrize(
    ("size", "kernel", "dilation"),
    [
        ([24, 30], [3, 3], 1),
        ([24, 36], [3, 3], 3),
        ([5, 13, 16], [3, 3, 3], 1),
        ([4, 16, 12], [2, 3, 3], 1),
    ],
)
def test_sums_are_exact(
    size: list[int], kernel: list[int], dilation: int, isa: str, threads: int
) -> None:
    x, w = arrays(size, kernel, 67, 90)
    begin = [k // 2 * dilation for k in kernel]
    out = [s + 2 * b - (k - 1) * dilation for s, b, k in zip(size, begin, kernel, strict=True)]
    if kernel[0] == 2:
        dilation = 1
    program = Kernel(conv_model(x, w, out, dilation), isa=isa, threads=threads)
    assert program.kernels() == [f"winograd-{isa}"]
    n = len(size)
    want = ref.convolve(x, w, 131, 0, 1, [1] * n, [dilation] * n, begin, out)
    np.testing.assert_array_equal(program.run([x])[0], want)


@pytest.mark.parametrize("isa", TILED)
def test_weights_whose_sums_could_leave_26_bits(isa: str) -> None:
    """255 times the sum of an output's positive weights is 2^25 at the first channel's."""
    x, w = arrays([24, 24], [3, 3], 160, 64)
    w[0] = 127
    program = Kernel(conv_model(x, w, [24, 24]), isa=isa)
    assert program.kernels() == [isa]
    np.testing.assert_array_equal(
        program.run([x])[0], Kernel(conv_model(x, w, [24, 24]), isa="scalar").run([x])[0]
    )


@pytest.mark.parametrize("isa", TILED)
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_at_the_ends_of_26_bits(isa: str, sign: int) -> None:
    """131,586 * 255 is 2^25 - 2 and is computed, one weight more is not."""
    x, w = arrays([24, 24], [3, 3], 116, 64)
    x[...] = 255
    w[0] = 126 * sign
    w[0, 0, 0, :42] += sign
    assert abs(w[0].astype(int).sum()) == 131_586
    program = Kernel(conv_model(x, w, [24, 24]), isa=isa)
    assert program.kernels() == [f"winograd-{isa}"]
    want = Kernel(conv_model(x, w, [24, 24]), isa="scalar").run([x])[0]
    np.testing.assert_array_equal(program.run([x])[0], want)
    w[0, 0, 0, 42] += sign
    assert Kernel(conv_model(x, w, [24, 24]), isa=isa).kernels() == [isa]


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "channels"),
    [
        ([24, 24], [3, 3], 2, 64),
        ([24, 24], [3, 1], 1, 64),
        ([24, 24], [3, 3], 1, 4),
        ([4, 4], [3, 3], 1, 64),
    ],
    ids=["stride", "one column", "few channels", "one tile"],
)
def test_others_are_multiplied_one_by_one(
    size: list[int], kernel: list[int], stride: int, channels: int, isa: str
) -> None:
    x, w = arrays(size, kernel, channels, 64)
    out = [(s - 1) // stride + 1 for s in size]
    assert Kernel(conv_model(x, w, out, stride=stride), isa=isa).kernels() == [isa]
