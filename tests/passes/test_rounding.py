"""The solvers: integers with the least quadratic loss, against brute force and the literature."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptq_opt.ir.tensor import Array
from ptq_opt.passes.rounding import Gptq, Quadratic, Steps, descend, exchange

UNIT = Steps(np.ones((1, 1, 1), np.float32), np.zeros((1, 1, 1), np.float32), -8, 7)


def problem(inputs: Array, rows: int, seed: int = 0) -> tuple[Array, Quadratic]:
    """Weights [1, rows, K] and the loss of their changes on `inputs` [N, K]."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(-4, 4, (1, rows, inputs.shape[1])).astype(np.float32)
    hessian = (inputs.T @ inputs / len(inputs)).astype(np.float32)[None]
    hessian += 1e-3 * np.eye(inputs.shape[1], dtype=np.float32)
    return weights, Quadratic(hessian, np.zeros_like(weights))


def correlated(count: int, size: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((size, size)) + 0.5
    return (rng.standard_normal((count, size)) @ mixed).astype(np.float32)


def test_nearest_is_not_best() -> None:
    """The example of algorithms.md, V12."""
    w = np.array([[[0.40, 0.45, 0.30]]], np.float32)
    x = np.array([[1, 1, 1], [1, 0.9, 1.1], [0.8, 1, 1]], np.float32)
    loss = Quadratic((x.T @ x / 3)[None], np.zeros_like(w))

    def error(integers: Array) -> float:
        return float(np.square(x @ (integers - w).ravel()).mean())

    nearest = UNIT.nearest(w)
    assert nearest.ravel().tolist() == [0, 0, 0]
    assert error(nearest) == pytest.approx(1.251875)
    found = exchange(w, loss, UNIT, descend(w, loss, UNIT, nearest))
    assert found.ravel().tolist() == [0, 0, 1]
    assert error(found) == pytest.approx(0.0095417, abs=1e-6)


def test_uncorrelated_inputs_leave_the_nearest() -> None:
    weights, loss = problem(np.eye(6, dtype=np.float32), 5)
    assert np.array_equal(Gptq(weights, loss).integers(UNIT), UNIT.nearest(weights))
    assert np.array_equal(
        descend(weights, loss, UNIT, UNIT.nearest(weights)), UNIT.nearest(weights)
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 4))
def test_descent_ends_where_no_single_integer_can_improve(seed: int, size: int, rows: int) -> None:
    weights, loss = problem(correlated(40, size, seed), rows, seed)
    start = Gptq(weights, loss).integers(UNIT)
    found = exchange(weights, loss, UNIT, descend(weights, loss, UNIT, start))
    assert found.min() >= -8 and found.max() <= 7 and np.array_equal(found, np.rint(found))
    best = loss.of(found - weights)
    slack = 1e-4 * (1 + np.abs(best))
    assert (best <= loss.of(start - weights) + slack).all()
    for k, step in itertools.product(range(size), (-1, 1)):
        moved = found.copy()
        moved[..., k] = np.clip(moved[..., k] + step, -8, 7)
        assert (best <= loss.of(moved - weights) + slack).all()


@pytest.mark.parametrize("seed", range(5))
def test_against_all_combinations(seed: int) -> None:
    """Of rounding up or down: what is found is close to the best, the nearest is not."""
    weights, loss = problem(correlated(60, 8, seed), 3, seed)
    every = np.array(list(itertools.product((0, 1), repeat=8)), np.float32)
    best = np.stack([loss.of(np.floor(weights) + up - weights) for up in every]).min(0).sum()
    nearest = loss.of(UNIT.nearest(weights) - weights).sum()
    start = descend(weights, loss, UNIT, Gptq(weights, loss).integers(UNIT))
    found = loss.of(exchange(weights, loss, UNIT, start) - weights).sum()
    assert found <= 1.3 * best and found < nearest


def test_errors_are_made_good_by_later_columns() -> None:
    """Two equal inputs: what the first integer lacks the second has to give."""
    x = np.ones((10, 2), np.float32)
    weights = np.array([[[0.4, 0.4]]], np.float32)
    hessian = (x.T @ x / 10 + 1e-3 * np.eye(2)).astype(np.float32)[None]
    found = Gptq(weights, Quadratic(hessian, np.zeros_like(weights))).integers(UNIT)
    assert found.ravel().tolist() == [0, 1]


def test_the_order_of_columns() -> None:
    x = np.ones((10, 3), np.float32) * np.array([0.5, 1, 3], np.float32)
    weights = np.array([[[0.3, 0.3, 0.3]]], np.float32)
    hessian = (x.T @ x / 10 + 1e-3 * np.eye(3)).astype(np.float32)[None]
    loss = Quadratic(hessian, np.zeros_like(weights))
    assert Gptq(weights, loss, by_order=True).integers(UNIT).ravel().tolist()[2] == 0
    assert loss.of(Gptq(weights, loss, by_order=True).integers(UNIT) - weights) <= loss.of(
        UNIT.nearest(weights) - weights
    )


def test_what_is_asked_for_moves_the_weights() -> None:
    """With `linear` = C the free optimum is the weights plus C over H."""
    weights, loss = problem(correlated(50, 5, 1), 2)
    wanted = np.rint(weights + 2.0)
    asked = Quadratic(loss.hessian, (wanted - weights) @ loss.hessian)
    assert np.array_equal(Gptq(weights, asked).integers(UNIT), np.clip(wanted, -8, 7))


def test_sets_of_rows_have_their_own_hessians() -> None:
    parts = [problem(correlated(30, 4, seed), 3, seed) for seed in (1, 2)]
    weights = np.concatenate([w for w, _ in parts])
    loss = Quadratic(
        np.concatenate([q.hessian for _, q in parts]), np.concatenate([q.linear for _, q in parts])
    )
    start = Gptq(weights, loss).integers(UNIT)
    together = descend(weights, loss, UNIT, start)
    for k, (w, q) in enumerate(parts):
        assert np.array_equal(start[k], Gptq(w, q).integers(UNIT)[0])
        assert np.array_equal(together[k], descend(w, q, UNIT, Gptq(w, q).integers(UNIT))[0])


def test_a_scale_for_every_column() -> None:
    """As blocks have."""
    weights, loss = problem(correlated(30, 6, 3), 2)
    scale = np.repeat(np.array([0.5, 1.0, 2.0], np.float32), 2)[None, None]
    steps = Steps(np.broadcast_to(scale, (1, 2, 6)), np.zeros((1, 2, 1), np.float32), -8, 7)
    found = descend(weights, loss, steps, Gptq(weights, loss).integers(steps))
    assert (
        loss.of(steps.reals(found) - weights)
        <= loss.of(steps.reals(steps.nearest(weights)) - weights)
    ).all()
