"""How far outputs are from the float model's: noise, divergence, angle, agreement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.evaluate import dot
from ..ir.tensor import Array


@dataclass(frozen=True)
class Measure:
    """A loss of an output over samples: the sum of its distances over the sum of its weights.

    Attributes:
        distance: of an output of one sample from the float model's, 0 when they are equal.
        weight: what one sample's output counts.
    """

    distance: Callable[[Array, Array], float]
    weight: Callable[[Array], float]


class Tally:
    """Losses of several outputs, sample by sample."""

    def __init__(self, measure: Measure, outputs: int) -> None:
        """Nothing seen yet."""
        self.measure = measure
        self._distances, self._weights = np.zeros(outputs), np.zeros(outputs)

    def add(self, real: Sequence[Array], found: Sequence[Array]) -> None:
        """Take in the outputs of one sample."""
        for k, (a, b) in enumerate(zip(real, found, strict=True)):
            self._distances[k] += self.measure.distance(a, b)
            self._weights[k] += self.measure.weight(a)

    @property
    def losses(self) -> Array:
        """One per output, float64; infinite where an output is not finite."""
        safe = np.where(self._weights > 0, self._weights, 1.0)
        return np.nan_to_num(self._distances / safe, nan=np.inf)


def squared(array: Array) -> float:
    """Sum of squares, in single precision: a dB needs no more, and BLAS is fast."""
    flat = array.astype(np.promote_types(array.dtype, np.float32), copy=False).ravel()
    return dot(flat, flat)


def class_axis(array: Array) -> int:
    """The axis of classes: 1 for images and volumes, else the last."""
    return 1 if array.ndim >= 4 else -1


def _positions(array: Array) -> float:
    """How many distributions over classes a tensor holds."""
    return array.size / max(array.shape[class_axis(array)], 1) if array.ndim else 1.0


def _log_softmax(array: Array) -> Array:
    """Logarithms of the probabilities that `array` stands for as logits, float64.

    Probabilities stay what they are: their softmax would be nearly flat.
    """
    axis = class_axis(array)
    wide = array.astype(np.float64)
    sums = wide.sum(axis=axis, keepdims=True)
    if (wide >= 0).all() and np.abs(sums - 1).max(initial=0.0) < 1e-2:
        return np.asarray(np.log(np.maximum(wide / sums, 1e-12)))
    shifted = wide - wide.max(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)))


def _divergence(real: Array, found: Array) -> float:
    if not real.ndim:
        return 0.0
    p, q = _log_softmax(real), _log_softmax(found)
    return max(float((np.exp(p) * (p - q)).sum()), 0.0)


def _angle(real: Array, found: Array) -> float:
    a, b = real.ravel().astype(np.float64), found.ravel().astype(np.float64)
    size = float(np.sqrt(dot(a, a) * dot(b, b)))
    return max(1.0 - dot(a, b) / size, 0.0) if size else float(squared(a - b) > 0)


def _disagreement(real: Array, found: Array) -> float:
    if not real.ndim:
        return 0.0
    axis = class_axis(real)
    return float((real.argmax(axis) != found.argmax(axis)).sum())


MEASURES: dict[str, Measure] = {
    "sqnr": Measure(lambda real, found: squared(real - found), squared),
    "mse": Measure(lambda real, found: squared(real - found), lambda real: float(real.size)),
    "kl": Measure(_divergence, _positions),
    "cosine": Measure(_angle, lambda _: 1.0),
    "top1": Measure(_disagreement, _positions),
}
"""Energy of the noise over that of the signal; mean squared error; Kullback-Leibler divergence
between the softmax of the outputs, nats; 1 - cosine; share of positions whose largest differs."""
