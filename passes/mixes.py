"""More samples out of few: what a network makes of mixes of two is known as well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..ir.samples import Feeds, Samples
from ..ir.tensor import Array

SHARES = (0.3, 0.7)
"""Of one of the two in a mix."""


def with_mixes(samples: Samples, picked: Sequence[int], seed: int) -> Iterator[Feeds]:
    """All samples, then as many weighted means of two of those numbered in `picked`.

    Where samples are few and alike, what corrects their errors need not help others. Labels are
    not asked for, so any input teaches, and a mix stays in the range of its two. Models that take
    other things than floats get no mixes, and of samples with unlike shapes the first stays.

    The idea: Zhang et al. 2017, mixup (1710.09412), there with labels.
    """
    yield from samples
    if not picked or any(
        value.dtype is None or not value.dtype.is_float for value in samples.inputs
    ):
        return
    rng = np.random.default_rng(seed)
    for _ in range(len(samples)):
        one, other = (samples[int(number)] for number in rng.choice(picked, 2))
        share = float(rng.uniform(*SHARES))
        yield {name: _mix(array, other.get(name), share) for name, array in one.items()}


def _mix(one: Array, other: Array | None, share: float) -> Array:
    if other is None or other.shape != one.shape:
        return one
    return (share * one + (1 - share) * other).astype(one.dtype)
