"""The minimum cut finds what brute force finds, and among equals the most float operators."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ptq_opt.passes.placement import Link, Problem, solve

TIMES = st.one_of(st.integers(0, 30).map(float), st.just(np.inf))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    count = draw(st.integers(1, 7))
    index = st.integers(0, count - 1)
    problem = Problem()
    for _ in range(count):
        slow, fast = draw(TIMES), draw(TIMES)
        problem.add(slow if np.isfinite(fast) or np.isfinite(slow) else 1.0, fast)
    for _ in range(draw(st.integers(0, 7))):
        readers = tuple(draw(st.lists(index, min_size=1, max_size=3)))
        costs = draw(st.tuples(st.integers(0, 9), st.integers(0, 9)))
        problem.links.append(Link(draw(index), readers, float(costs[0]), float(costs[1])))
    return problem


def every_placement(problem: Problem) -> list[tuple[bool, ...]]:
    return list(itertools.product([False, True], repeat=len(problem.float_time)))


@settings(max_examples=1500, deadline=None)
@given(problems())
def test_equals_brute_force(problem: Problem) -> None:
    best = min(problem.cost(p) for p in every_placement(problem))
    assert problem.cost(solve(problem)) == best


@settings(max_examples=300, deadline=None)
@given(problems())
def test_among_equals_the_most_float(problem: Problem) -> None:
    best = min(problem.cost(p) for p in every_placement(problem))
    fewest = min(sum(p) for p in every_placement(problem) if problem.cost(p) == best)
    assert sum(solve(problem)) == fewest


def test_pairs_that_must_agree() -> None:
    problem = Problem()
    problem.add(10.0, 1.0)
    problem.add(1.0, 5.0)
    problem.together.append((0, 1))
    assert solve(problem) == [True, True]
    problem.integer_time[1] = np.inf
    assert solve(problem) == [False, False]


def ten_operators() -> Problem:
    """A network whose optimum is known: 464 microseconds (docs/architecture.md)."""
    problem = Problem()
    slow = [400, 30, 20, 30, 60, 380, 12, 15, 10, 0]
    fast = [130, np.inf, 6, np.inf, 40, 125, np.inf, np.inf, 10, np.inf]
    for times in zip(slow, fast, strict=True):
        problem.add(*map(float, times))
    readers = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5, 6, 7), (5, 8), (8, 9)]
    problem.links = [Link(p, tuple(c), 16.0, 12.0) for p, *c in readers]
    return problem


def test_ten_operators() -> None:
    placement = solve(ten_operators())
    assert "".join("FI"[p] for p in placement) == "IFFFIIFFFF"
    assert ten_operators().cost(placement) == 464.0


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
