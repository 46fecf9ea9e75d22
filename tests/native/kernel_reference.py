"""The numbers of the C kernels in int64 NumPy, written from their specification alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def requantize(acc: Array, m: Array | float, mode: str) -> Array:
    """Accumulators times multipliers, rounded as `mode` says; int64."""
    acc, multipliers = np.broadcast_arrays(acc.astype(np.int64), np.asarray(m, np.float32))
    if mode == "float":
        return np.rint(acc.astype(np.float32) * multipliers).astype(np.float64)
    one = _fixed if mode == "fixed" else _gemmlowp
    flat = [one(int(a), float(f)) for a, f in zip(acc.flat, multipliers.flat, strict=True)]
    return np.array(flat, np.int64).reshape(acc.shape)


def _fixed(acc: int, m: float) -> int:
    """XNNPACK's rndnu: the float's 24 bits as multiplier, one rounding, ties up."""
    fraction, exponent = math.frexp(m)
    shift = 24 - exponent
    return (acc * int(fraction * (1 << 24)) + (1 << (shift - 1))) >> shift


def _gemmlowp(acc: int, m: float) -> int:
    """TFLite: saturating rounding doubling high multiply, then rounding divide by a power of 2."""
    fraction, exponent = math.frexp(m)
    q = math.floor(fraction * (1 << 31) + 0.5)
    if q == 1 << 31:
        q, exponent = q // 2, exponent + 1
    shifted = max(-(1 << 31), min((1 << 31) - 1, acc << max(exponent, 0)))
    product = shifted * q
    nudged = product + ((1 << 30) if product >= 0 else 1 - (1 << 30))
    high = abs(nudged) // (1 << 31) * (1 if nudged >= 0 else -1)
    right = max(-exponent, 0)
    mask = (1 << right) - 1
    threshold = (mask >> 1) + (1 if high < 0 else 0)
    return (high >> right) + (1 if (high & mask) > threshold else 0)


def to_grid(steps: Array, zero_point: int, low: int, high: int) -> Array:
    """Steps above the zero point as integers within limits."""
    return np.clip(steps + zero_point, low, high).astype(np.int64)


def convolve(
    x: Array,
    w: Array,
    x_zero: int,
    w_zero: int,
    groups: int,
    strides: Sequence[int],
    dilations: Sequence[int],
    begin: Sequence[int],
    out: Sequence[int],
) -> Array:
    """Accumulators int64 [N, out..., O] of x [N, in..., C] and w [O, k..., C / groups]."""
    n, size, kernel = x.shape[0], x.shape[1:-1], w.shape[1:-1]
    per_in, per_out = x.shape[-1] // groups, w.shape[0] // groups
    centred, weights = x.astype(np.int64) - x_zero, w.astype(np.int64) - w_zero
    acc = np.zeros((n, *out, w.shape[0]), np.int64)
    for position in itertools.product(*map(range, out)):
        for tap in itertools.product(*map(range, kernel)):
            at = [
                p * s + t * d - b
                for p, s, t, d, b in zip(position, strides, tap, dilations, begin, strict=True)
            ]
            if not all(0 <= a < limit for a, limit in zip(at, size, strict=True)):
                continue
            pixel = centred[(slice(None), *at)]
            for g in range(groups):
                channels = slice(g * per_out, (g + 1) * per_out)
                part = pixel[:, g * per_in : (g + 1) * per_in]
                acc[(slice(None), *position, channels)] += part @ weights[(channels, *tap)].T
    return acc


def transpose_convolve(
    x: Array,
    w: Array,
    x_zero: int,
    groups: int,
    strides: Sequence[int],
    dilations: Sequence[int],
    begin: Sequence[int],
    out: Sequence[int],
) -> Array:
    """The transposed convolution: every input pixel scatters to the outputs it reaches."""
    n, size, kernel = x.shape[0], x.shape[1:-1], w.shape[1:-1]
    per_in, per_out = x.shape[-1] // groups, w.shape[0] // groups
    centred, weights = x.astype(np.int64) - x_zero, w.astype(np.int64)
    acc = np.zeros((n, *out, w.shape[0]), np.int64)
    for position in itertools.product(*map(range, size)):
        for tap in itertools.product(*map(range, kernel)):
            at = [
                p * s + t * d - b
                for p, s, t, d, b in zip(position, strides, tap, dilations, begin, strict=True)
            ]
            if not all(0 <= a < limit for a, limit in zip(at, out, strict=True)):
                continue
            for g in range(groups):
                channels = slice(g * per_out, (g + 1) * per_out)
                part = centred[(slice(None), *position)][:, g * per_in : (g + 1) * per_in]
                acc[(slice(None), *at, channels)] += part @ weights[(channels, *tap)].T
    return acc


def pair_saturated(x: Array, w: Array) -> Array:
    """Sum over the last axis of u8 * s8 pairs, each saturated to 16 bits (vpmaddubsw)."""
    products = x.astype(np.int64) * w.astype(np.int64)
    if products.shape[-1] % 2:
        products = np.concatenate([products, np.zeros_like(products[..., :1])], -1)
    pairs = products.reshape(*products.shape[:-1], -1, 2).sum(-1)
    result: Array = np.clip(pairs, -32768, 32767).sum(-1)
    return result
