"""The fastest placement that is good enough: few questions, and exact between two corners."""

import itertools

import numpy as np
import pytest
from small_problems import costs as every_placement
from small_problems import random_problem, ten_operators

from ptq_opt.passes.fastest import APART, Ask, apart, between, costs, fastest, first
from ptq_opt.passes.hull import hull
from ptq_opt.passes.placement import Placement, Problem


def asking(limit: float, asked: list[Placement], *, tells: bool = True) -> Ask:
    """Placements of a loss up to `limit` are good; an answer `tells` how far off one is."""

    def ask(placement: Placement) -> float:
        if placement not in asked:
            asked.append(placement)
        if tells and placement.loss:
            return limit / placement.loss
        return np.inf if placement.loss <= limit else 0.0

    return ask


def test_a_search_of_ten_operators() -> None:
    """The corners are (17, 464), (12, 472), (3, 699), (0, 957)."""
    for limit, time in ((17, 464), (16, 472), (12, 472), (3, 699), (2, 957), (0, 957)):
        found = fastest(ten_operators(), asking(limit, []))
        assert found is not None
        assert found.time == time


def test_none_when_none_is_good() -> None:
    assert fastest(ten_operators(), lambda _: 0.5) is None
    assert fastest(Problem([1.0], [2.0]), lambda _: 0.5) is None


def test_between_two_corners_all_choices_of_what_differs_are_looked_at() -> None:
    looked_at = 0
    for seed in range(100):
        problem = random_problem(seed)
        integer, time, loss = every_placement(problem)
        for faster, finer in itertools.pairwise(hull(problem)):
            inside = (integer <= faster.integer).all(1) & (integer >= finer.integer).all(1)
            inside &= (time > faster.time) & (time < finer.time)
            inside &= (loss < faster.loss) & (loss > finer.loss)
            points = {(time[k], loss[k]) for k in np.flatnonzero(inside)}
            best = [
                (t, a)
                for t, a in points
                if not any(u <= t and b <= a and (u, b) != (t, a) for u, b in points)
            ]
            found = between(problem, faster, finer)
            assert [(p.time, p.loss) for p in found] == sorted(best), f"seed {seed}"
            looked_at += len(found)
    assert looked_at > 10


def test_what_is_found_is_the_fastest_between_the_corners() -> None:
    for seed in range(60):
        problem = random_problem(seed)
        corners = hull(problem)
        limit = (corners[0].loss + corners[-1].loss) / 2
        found = fastest(problem, asking(limit, []))
        assert found is not None
        corner = next(p for p in corners if p.loss <= limit)
        assert found.loss <= limit
        assert found.time <= APART * corner.time


def test_many_placements_at_once_cost_what_one_by_one_costs() -> None:
    for seed in range(30):
        problem = random_problem(seed)
        integer, _, _ = every_placement(problem)
        time, loss = costs(problem, integer)
        one_by_one = [problem.placement(row) for row in integer.tolist()]
        np.testing.assert_array_equal(time, [p.time for p in one_by_one])
        np.testing.assert_allclose(loss, [p.loss for p in one_by_one])


def chain(count: int) -> Problem:
    """Independent operators, each of another worth: as many corners as operators, and one."""
    return Problem([2.0 + k for k in range(count)], [1.0] * count, loss=[1.0] * count)


@pytest.mark.parametrize("count", [3, 30])
def test_few_questions_are_asked(count: int) -> None:
    assert len(hull(chain(count))) == count + 1
    for limit in (0, 1, count // 2, count - 1):
        for tells, most in ((True, 4), (False, 2 + np.ceil(np.log2(count)))):
            asked: list[Placement] = []
            found = fastest(chain(count), asking(limit, asked, tells=tells))
            assert found is not None
            assert found.loss == limit
            assert len(asked) <= (most if limit else 6)


def test_answers_that_mislead_cost_no_more_than_twice_as_many_questions() -> None:
    placements = [Placement((), float(k), float(1000 - k)) for k in range(1000)]
    for k in (0, 1, 500, 998, 999):
        for power in (0.01, 10.0):
            asked: list[Placement] = []
            ask = asking(1000 - k, asked)
            assert first(placements, lambda p: ask(p) ** power, 1000.0) == k  # noqa: B023
            assert len(asked) <= 2 * np.ceil(np.log2(1000))


def test_a_search_near_a_placement_that_is_known() -> None:
    """The one of loss 3 takes 699; nothing is asked of what is not faster."""
    known = ten_operators().placement([True, False, True, False, *[False] * 6])
    asked: list[Placement] = []
    assert fastest(ten_operators(), asking(2, asked), near=known, below=699) is None
    assert all(placement.time < 699 or placement == known for placement in asked)


def test_what_predictions_cannot_tell_apart_is_asked_once() -> None:
    placements = [Placement((), time, 0.0) for time in (1.0, 1.04, 1.06, 2.0, 2.0, 3.0)]
    assert [p.time for p in apart(placements, np.inf)] == [1.0, 1.06, 2.0, 3.0]
    assert [p.time for p in apart(placements, 3.0)] == [1.0, 1.06, 2.0]
    assert apart(placements, 1.0) == []


def test_many_undecided_operators_change_in_groups() -> None:
    count = 40
    same = Problem([3.0] * count, [1.0] * count, loss=[1.0] * count)
    faster, finer = hull(same)
    found = between(same, faster, finer)
    assert all(finer.time > p.time > faster.time for p in found)
    assert len(found) > 10


def test_the_first_good_one() -> None:
    placements = [Placement((), float(k), float(9 - k)) for k in range(9)]
    for k in range(10):
        asked: list[Placement] = []
        assert first(placements, asking(9 - k, asked, tells=False)) == k
        assert len(asked) <= 4
