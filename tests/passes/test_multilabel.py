"""One of several formats for every operator: elimination is exact, expansion comes close."""

import itertools

import numpy as np
import pytest

from ptq_opt.ir.tensor import Array
from ptq_opt.passes.multilabel import Formats, choose, eliminate, expand

BYTES = np.array([4.0, 2.0, 1.0, 0.5])


def conversion(size: float, formats: int = 4) -> Array:
    """Reading one format and writing the other."""
    return size * (BYTES[:formats, None] + BYTES[None, :formats])


def random_problem(seed: int, count: int, fan_out: int = 3) -> Formats:
    rng = np.random.default_rng(seed)
    formats = int(rng.integers(2, 5))
    problem = Formats()
    for _ in range(count):
        costs = rng.integers(10, 300, formats).astype(float)
        costs[1:][rng.random(formats - 1) < 0.15] = np.inf
        problem.add(costs)
    for producer in range(count - 1):
        readers = producer + 1 + rng.integers(0, min(3, count - producer - 1), fan_out)
        size = float(rng.integers(1, 20))
        problem.link(producer, readers.tolist(), conversion(size, formats))
    return problem


def brute_force(problem: Formats) -> float:
    ranges = [range(costs.size) for costs in problem.alone]
    return min(problem.cost(labels) for labels in itertools.product(*ranges))


def test_three_operators_of_which_the_middle_one_knows_floats_only() -> None:
    """fp32, fp16, int8, int4; the best is 125, the second best 137."""
    problem = Formats()
    for costs in ([100, 60, 40, 30], [80, 50, np.inf, np.inf], [100, 60, 40, 25]):
        problem.add(costs)
    problem.link(0, (1,), conversion(4))
    problem.link(1, (2,), conversion(4))
    every = sorted({problem.cost(c) for c in itertools.product(range(4), repeat=3)})
    assert every[:2] == [125, 137]
    labels, proven = choose(problem)
    assert (labels, proven) == ([3, 1, 3], True)


def test_a_format_is_made_once_for_all_who_read_it() -> None:
    problem = Formats()
    for costs in ([0.0, np.inf], [9.0, 1.0], [9.0, 1.0], [9.0, 1.0]):
        problem.add(costs)
    problem.link(0, (1, 2, 3, 3), np.array([[0.0, 10.0], [10.0, 0.0]]))
    assert problem.cost([0, 1, 1, 1]) == 13
    assert problem.cost([0, 0, 0, 1]) == 29
    assert choose(problem)[0] == [0, 1, 1, 1]


def test_elimination_equals_brute_force() -> None:
    for seed in range(300):
        problem = random_problem(seed, count=2 + seed % 5)
        labels = eliminate(problem)
        assert labels is not None
        assert problem.cost(labels) == brute_force(problem), f"seed {seed}"


def test_expansion_comes_close() -> None:
    worst, exact = 0.0, 0
    for seed in range(60):
        problem = random_problem(seed, count=2 + seed % 5, fan_out=1)
        gap = problem.cost(expand(problem)) / brute_force(problem) - 1
        worst, exact = max(worst, gap), exact + (gap == 0)
    assert exact >= 54
    assert worst < 0.05


def test_tables_that_become_too_large_are_given_up() -> None:
    problem = random_problem(0, count=6)
    assert eliminate(problem, largest=4) is None
    assert np.isfinite(problem.cost(expand(problem)))


@pytest.mark.parametrize("problem", [Formats(), Formats([np.array([2.0, 1.0])])])
def test_nothing_to_convert(problem: Formats) -> None:
    assert choose(problem) == ([1] * len(problem.alone), True)
