"""How long placements of large networks take to solve; run it to see.

python tests/large_placement.py 10000 100000
"""

import random
import sys
import time
from collections import defaultdict

import numpy as np

from ptq_opt.passes.hull import hull
from ptq_opt.passes.placement import Link, Problem, solve, sweep

KINDS = ("residual", "dense", "unet")


def random_network(operators: int, kind: str) -> Problem:
    """A chain with skips: every fifth operator, up to four of the last twelve, or across."""
    rng, problem = random.Random(0), Problem()
    readers: dict[int, set[int]] = defaultdict(set)
    for k in range(operators):
        heavy = rng.random() < 0.35
        slow = rng.randint(200, 2000) if heavy else rng.randint(5, 60)
        fast = slow * (rng.uniform(0.25, 0.6) if heavy else rng.uniform(0.3, 1.1))
        problem.add(slow, np.inf if rng.random() < 0.05 else round(fast), rng.randint(0, 50))
        if k:
            readers[k - 1].add(k)
        if kind == "residual" and k >= 6 and k % 5 == 0:
            readers[k - 5].add(k)
        if kind == "dense" and k >= 2:
            near = range(max(0, k - 12), k - 1)
            for other in rng.sample(near, min(4, len(near))):
                readers[other].add(k)
        if kind == "unet" and k > operators // 2:
            readers[operators - k].add(k)
    for producer, consumers in readers.items():
        costs = rng.randint(5, 80), rng.randint(5, 60)
        problem.links.append(Link(producer, tuple(sorted(consumers)), *costs))
    return problem


def main() -> None:
    for operators in [int(arg) for arg in sys.argv[1:]] or [10_000, 100_000]:
        for kind in KINDS:
            problem = random_network(operators, kind)
            clock = [time.process_time()]
            solve(problem, 2.0)
            clock.append(time.process_time())
            found = sweep(problem, np.geomspace(1, 200, 25))
            clock.append(time.process_time())
            corners = len(hull(problem)) if operators <= 10_000 else 0
            clock.append(time.process_time())
            one, many, every = np.diff(clock)
            print(
                f"{operators} operators, {kind}: one placement {one:.2f} s, "
                f"25 prices {many:.2f} s, {len({p.integer for p in found})} of them different"
                + (f", all {corners} corners {every:.1f} s" if corners else "")
            )


if __name__ == "__main__":
    main()
