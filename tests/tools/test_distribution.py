"""How values lie against a grid, where they are hardly different."""

import numpy as np
import pytest

from ptq_opt.ir.text import parse
from ptq_opt.tools.distribution import BINS, Distribution

PAIR = parse("""
g (float[2] x) => (float[2] y) <float s = {1}, uint8 z = {0}> {
  q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)
}""")


@pytest.mark.parametrize("low", [0, 1, -1e8, 1e15])
@pytest.mark.parametrize("ulps", [0, 1, 10, 1000])
def test_fewer_floats_from_end_to_end_than_bins(low: float, ulps: int) -> None:
    """DenseNet-121 on made-up samples has such a tensor."""
    values = np.array([low] * 2, np.float32)
    values[1] += ulps * np.spacing(np.abs(values[1]))
    found = Distribution.of([values], PAIR.order()[1])
    assert found is not None and found.seen_high == values[1]
    assert len(found.counts) == BINS and sum(found.counts) == 2
