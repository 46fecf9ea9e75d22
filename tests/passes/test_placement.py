"""Minimum cuts find what brute force finds, at every price, and among equals the most floats."""

from collections.abc import Sequence

import numpy as np
import pytest
from large_placement import KINDS, random_network
from small_problems import costs, random_problem, ten_operators

from ptq_opt.ir import UsageError
from ptq_opt.ir.tensor import Array
from ptq_opt.passes.hull import hull
from ptq_opt.passes.placement import Link, Placement, Problem, solve, sweep


def corners(time: Array, loss: Array) -> list[tuple[float, float]]:
    """Lower convex hull of all (loss, time), from the fastest to that of least loss."""
    best: dict[float, float] = {}
    for a, t in zip(loss.tolist(), time.tolist(), strict=True):
        best[a] = min(t, best.get(a, np.inf))
    found: list[tuple[float, float]] = []
    for a, t in sorted(best.items()):
        if found and t >= found[-1][1]:
            continue
        while len(found) > 1:
            (a0, t0), (a1, t1) = found[-2:]
            if (t1 - t0) * (a - a0) < (t - t0) * (a1 - a0):
                break
            found.pop()
        found.append((a, t))
    return found[::-1]


@pytest.mark.parametrize("price", [0.0, 1.0, 0.5, 3.0, 40.0])
def test_equals_brute_force(price: float) -> None:
    for seed in range(500):
        problem = random_problem(seed)
        integer, time, loss = costs(problem)
        found = solve(problem, price)
        total = time + price * loss
        (row,) = np.flatnonzero((integer == found).all(1))
        assert total[row] == total.min(), f"seed {seed}"
        assert problem.cost(found) == time[row], f"seed {seed}"
        assert sum(found) == integer[total == total.min()].sum(1).min(), f"seed {seed}"


def test_the_hull_equals_that_of_all_placements() -> None:
    for seed in range(1000, 2000):
        problem = random_problem(seed)
        _, time, loss = costs(problem)
        found, possible = hull(problem), np.isfinite(time)
        points = [(p.loss, p.time) for p in found]
        assert points == corners(time[possible], loss[possible]), f"seed {seed}"
        assert nested(found), f"seed {seed}"


@pytest.mark.parametrize("kind", KINDS)
def test_corners_of_a_large_hull_are_what_cuts_of_the_whole_find(kind: str) -> None:
    problem = random_network(200, kind)
    found = hull(problem)
    assert len(found) > 80
    assert nested(found)
    for faster, corner, finer in zip(found[:-2], found[1:-1], found[2:], strict=True):
        price = (finer.time - faster.time) / (faster.loss - finer.loss)
        whole = problem.placement(solve(problem, price))
        assert corner.time + price * corner.loss == pytest.approx(whole.time + price * whole.loss)
        assert (corner.time, corner.loss) == pytest.approx(
            (problem.cost(corner.integer), problem.placement(corner.integer).loss)
        )


def test_a_sweep_is_nested() -> None:
    rng = np.random.default_rng(0)
    for seed in range(3000, 3100):
        problem, prices = random_problem(seed), sorted(rng.exponential(5.0, 5))
        found = sweep(problem, reversed(prices))
        assert [list(p.integer) for p in found] == [solve(problem, price) for price in prices]
        assert nested(found), f"seed {seed}"


def nested(placements: Sequence[Placement]) -> bool:
    """True when what is in float stays there."""
    sides = np.array([p.integer for p in placements])
    return not (sides[1:] & ~sides[:-1]).any()


def test_pairs_that_must_agree() -> None:
    problem = Problem()
    problem.add(10.0, 1.0)
    problem.add(1.0, 5.0)
    problem.together.append((0, 1))
    assert solve(problem) == [True, True]
    problem.pin(1, integer=False)
    assert solve(problem) == [False, False]


def test_pins_that_contradict() -> None:
    problem = Problem([3.0, 3.0, 3.0], [1.0, 1.0, 1.0], together=[(1, 2)])
    problem.pin(1, integer=False)
    problem.pin(2, integer=True)
    with pytest.raises(UsageError, match="operator 1 and what must agree with it"):
        solve(problem)


def test_ten_operators() -> None:
    placement = solve(ten_operators())
    assert "".join("FI"[p] for p in placement) == "IFFFIIFFFF"
    assert ten_operators().cost(placement) == 464.0


def test_the_hull_of_ten_operators() -> None:
    found = hull(ten_operators())
    assert [(p.loss, p.time) for p in found] == [(17, 464), (12, 472), (3, 699), (0, 957)]
    letters = ["".join("FI"[p] for p in point.integer) for point in found]
    assert letters == ["IFFFIIFFFF", "IFFFFIFFFF", "IFFFFFFFFF", "FFFFFFFFFF"]


def test_losses_far_apart_keep_times_apart() -> None:
    """Scaled to 31 bits together, one loss of 10^12 would leave nothing of the times."""
    problem = Problem()
    problem.add(30.0, 10.0, 1e12)
    for _ in range(3):
        problem.add(2.0, 1.0, 1e-3)
    problem.links = [Link(0, (1, 2), 0.4, 0.4), Link(1, (3,), 0.4, 0.4)]
    assert solve(problem, price=1.0) == [False, True, True, True]


def test_an_integer_operator_between_floats_reverts() -> None:
    """The saving of the middle one, 14, is less than its two conversions, 28."""
    problem = Problem()
    for slow, fast in ((30.0, np.inf), (20.0, 6.0), (30.0, np.inf)):
        problem.add(slow, fast)
    problem.links = [Link(0, (1,), 16.0, 12.0), Link(1, (2,), 16.0, 12.0)]
    assert solve(problem) == [False, False, False]


def test_a_conversion_is_shared_by_all_readers() -> None:
    problem = Problem()
    problem.add(0.0, np.inf)
    for _ in range(4):
        problem.add(10.0, 5.0)
    problem.links = [Link(0, (1, 2, 3, 4), 16.0, 12.0)]
    assert solve(problem) == [False, True, True, True, True]


def test_a_tie_that_no_decimal_factor_keeps() -> None:
    """Found by the property above: both placements cost 32."""
    problem = Problem()
    for slow, fast in ((30.0, 21.0), (1.0, np.inf), (1.0, np.inf)):
        problem.add(slow, fast)
    problem.links = [Link(1, (0,), 9.0, 0.0)]
    assert solve(problem) == [False, False, False]


def test_nothing_to_place() -> None:
    assert solve(Problem()) == []
