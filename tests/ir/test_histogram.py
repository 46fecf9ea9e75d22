"""Histograms of a stream, and the ranges chosen from them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ptq_opt.ir import DType
from ptq_opt.ir.histogram import (
    Histogram,
    aciq,
    gauss_reach,
    laplace_reach,
    least_divergence,
    least_noise,
    noise,
    percentile,
)

FLOATS = st.floats(-(2.0**20), 2.0**20, width=32, allow_subnormal=False)
NEAR_ZERO = st.floats(-1, 1, width=32, allow_subnormal=False)


def histogram(*parts: np.ndarray, rows: int = 1, bins: int = 4096) -> Histogram:
    found = Histogram(rows, bins)
    for part in parts:
        data = np.asarray(part, np.float32).reshape(rows, -1)
        low, high = data.min(axis=1).astype(np.float64), data.max(axis=1).astype(np.float64)
        found.add(data, low, high)
    return found


def normal(n: int = 100_000) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(n).astype(np.float32)


# -- counting --------------------------------------------------------------------------------------


@given(
    st.lists(arrays(np.float32, (2, 3), elements=FLOATS | NEAR_ZERO), min_size=1, max_size=6),
    st.sampled_from([2, 5, 64]),
)
@settings(max_examples=100)
def test_no_count_is_lost_and_every_element_is_in_its_bin(
    parts: list[np.ndarray], bins: int
) -> None:
    found = histogram(*parts, rows=2, bins=bins)
    whole = np.concatenate(parts, axis=1)
    assert found.counts.sum(axis=1).tolist() == [3 * len(parts)] * 2
    for row in range(2):
        elements = whole[row].astype(np.float64)
        index = np.floor(np.ldexp(elements, -found.exponent[row])) - found.start[row]
        np.testing.assert_array_equal(
            found.counts[row], np.bincount(index.astype(int), minlength=bins)
        )
        assert (found.low[row], found.high[row]) == (elements.min(), elements.max())


@given(st.lists(arrays(np.float32, (1, 4), elements=FLOATS | NEAR_ZERO), min_size=1, max_size=6))
@settings(max_examples=100)
def test_order_and_division_of_the_data_do_not_matter(parts: list[np.ndarray]) -> None:
    one, two = histogram(*parts, bins=16), histogram(*parts[::-1], bins=16)
    at_once = histogram(np.concatenate(parts, axis=1), bins=16)
    for other in (two, at_once):
        np.testing.assert_array_equal(one.counts, other.counts)
        assert (one.exponent, one.start) == (other.exponent, other.start)


def test_at_least_half_of_the_bins_serve() -> None:
    row = histogram(normal()).row(0)
    assert 2048 <= (row.high - row.low) / row.width <= 4096


def test_large_data_are_counted_in_pieces() -> None:
    data = normal(300_000)
    assert histogram(data).counts.sum() == 300_000
    assert histogram(data, rows=3, bins=8).counts.sum(axis=1).tolist() == [100_000] * 3


# -- choosing ranges -------------------------------------------------------------------------------


def test_percentile() -> None:
    row = histogram(np.linspace(-1, 3, 10_001)).row(0)
    assert percentile(row, 99) == pytest.approx((-0.96, 2.96), abs=2e-3)
    assert percentile(row, 100) == (-1, 3)


def test_reach_of_laplace_and_gauss_distributions_is_the_published_one() -> None:
    bits = range(2, 9)
    laplace = [2.8307, 3.8972, 5.0286, 6.2048, 7.4131, 8.6456, 9.8968]
    gauss = [1.7106, 2.1516, 2.5591, 2.9362, 3.2869, 3.6151, 3.9240]
    assert [laplace_reach(m) for m in bits] == pytest.approx(laplace, abs=1e-4)
    assert [gauss_reach(m) for m in bits] == pytest.approx(gauss, abs=1e-4)


def test_aciq_clips_normal_data_as_normal_and_laplace_data_as_laplace() -> None:
    low, high = aciq(histogram(normal()).row(0), DType.UINT4, symmetric=False)
    assert (low, high) == pytest.approx((-2.5591, 2.5591), rel=0.02)
    laplace = 1 + np.random.default_rng(0).laplace(size=100_000)
    low, high = aciq(histogram(laplace).row(0), DType.UINT4, symmetric=False)
    assert (low - 1, high - 1) == pytest.approx((-5.0286, 5.0286), rel=0.02)


def test_aciq_of_a_rectified_tensor_uses_one_more_bit() -> None:
    laplace = np.maximum(np.random.default_rng(0).laplace(size=100_000), 0)
    low, high = aciq(histogram(laplace).row(0), DType.UINT4, symmetric=False)
    assert low == 0
    assert high == pytest.approx(6.2048, rel=0.02)


@pytest.mark.parametrize("symmetric", [False, True])
def test_least_noise_is_close_to_the_best_of_all_ranges(symmetric: bool) -> None:
    data = np.concatenate([normal(20_000), [-9.0, 14.0]])
    row = histogram(data).row(0)
    found = least_noise(row, DType.INT4, symmetric)

    def error(low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
        return noise(row, np.atleast_1d(low), np.atleast_1d(high), DType.INT4, symmetric)

    lows, highs = np.meshgrid(np.linspace(-9, -0.5, 30), np.linspace(0.5, 14, 50))
    best = error(lows.ravel(), highs.ravel()).min()
    assert error(*found) <= 1.05 * best
    assert error(*found) < error(row.low, row.high) / 4


def test_noise_is_the_squared_error_of_quantization() -> None:
    data = normal(20_000)
    low, high = np.array([-3.0, -1.0]), np.array([3.0, 2.0])
    expected = []
    for bottom, top in zip(low, high, strict=True):
        step = (top - bottom) / 255
        zero = np.rint(-bottom / step)
        rounded = (np.clip(np.rint(data / step) + zero, 0, 255) - zero) * step
        expected.append(np.mean((data - rounded) ** 2))
    found = noise(histogram(data).row(0), low, high, DType.UINT8, symmetric=False)
    assert found == pytest.approx(expected, rel=0.05)


def test_least_divergence_clips_outliers_but_not_a_plain_distribution() -> None:
    plain = histogram(np.random.default_rng(0).uniform(0, 1, 100_000)).row(0)
    assert least_divergence(plain, DType.UINT8) == pytest.approx((0, 1), abs=0.02)
    far = histogram(np.concatenate([normal(), [-50.0, 80.0]])).row(0)
    low, high = least_divergence(far, DType.INT8)
    assert 3 < high < 10 and -10 < low < -3


def test_zeros_of_a_rectified_tensor_do_not_narrow_its_range() -> None:
    mostly_zero = np.maximum(normal() - 1, 0)
    low, high = least_divergence(histogram(mostly_zero).row(0), DType.UINT8)
    assert low == 0
    assert high > 2


@pytest.mark.parametrize("data", [[0, 0], [3, 3], [-2, -2], [1e-30, 0], [0, 1e30], [-1e-40, 0]])
def test_ranges_of_degenerate_tensors_are_within_what_was_seen(data: list[float]) -> None:
    row = histogram(np.array(data)).row(0)
    for low, high in (
        percentile(row, 99.9),
        least_noise(row, DType.UINT8, False),
        least_divergence(row, DType.UINT8),
        aciq(row, DType.UINT8, False),
    ):
        assert min(row.low, 0) <= low <= high <= max(row.high, 0)
