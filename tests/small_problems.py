"""Placement problems small enough to look at every placement."""

import itertools

import numpy as np

from ptq_opt.ir.tensor import Array
from ptq_opt.passes.placement import Link, Problem, Shared


def random_problem(seed: int) -> Problem:
    """Up to seven operators; forbidden precisions, shared tensors, pairs that agree."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 8))
    times = np.where(rng.random((count, 2)) < 0.15, np.inf, rng.integers(0, 31, (count, 2)))
    losses = rng.integers(0, 10, count)
    problem = Problem()
    for (slow, fast), loss in zip(times.tolist(), losses.tolist(), strict=True):
        problem.add(slow if np.isfinite([slow, fast]).any() else 1.0, fast, float(loss))
    for _ in range(rng.integers(0, 8)):
        producer, *readers = rng.integers(0, count, rng.integers(2, 5)).tolist()
        quantize, dequantize = rng.integers(0, 10, 2).tolist()
        problem.links.append(Link(producer, tuple(readers), float(quantize), float(dequantize)))
    if np.isfinite(times).all() and count > 1 and rng.random() < 0.5:
        problem.together = [tuple(rng.integers(0, count, 2).tolist()) for _ in range(2)]
    for _ in range(rng.integers(0, 4)):
        members = rng.integers(0, count, rng.integers(1, 4)).tolist()
        problem.shared.append(Shared(tuple(members), float(rng.integers(0, 10))))
    return problem


def costs(problem: Problem) -> tuple[Array, Array, Array]:
    """Every placement, bool [2^n, n]; its time and its loss, [2^n]."""
    count = len(problem.float_time)
    integer = np.array(list(itertools.product([False, True], repeat=count)))
    time = np.where(integer, problem.integer_time, problem.float_time).sum(1)
    for link in problem.links:
        made, read = integer[:, link.producer], integer[:, list(link.consumers)]
        time += link.dequantize * (made & ~read.all(1)) + link.quantize * (~made & read.any(1))
    for a, b in problem.together:
        time[integer[:, a] != integer[:, b]] = np.inf
    loss = integer @ np.array(problem.loss)
    for shared in problem.shared:
        loss += shared.loss * integer[:, list(shared.operators)].any(1)
    return integer, time, loss


def ten_operators() -> Problem:
    """A network whose optimum is known: 464 microseconds (docs/architecture.md)."""
    problem = Problem()
    slow = [400, 30, 20, 30, 60, 380, 12, 15, 10, 0]
    fast = [130, np.inf, 6, np.inf, 40, 125, np.inf, np.inf, 10, np.inf]
    for times in zip(slow, fast, strict=True):
        problem.add(*map(float, times))
    problem.loss = [3, 0, 1, 0, 5, 9, 0, 0, 0, 0]
    readers = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5, 6, 7), (5, 8), (8, 9)]
    problem.links = [Link(p, tuple(c), 16.0, 12.0) for p, *c in readers]
    return problem
