"""One of several searches on a file of trials: python sharing.py METHOD TRIALS FILE.

Trials take a moment, so that those of runs that started together overlap. Prints as JSON what it
tried itself, all trials that count, and the best.
"""

import json
import sys
import time

from ptq_opt.passes.search import Budget, Choice, Params, Real, Trials, search

SPACE = {f"x{k}": Real(0, 2, 1) for k in range(6)} | {"c": Choice(("x", "y", "z"), "x")}


def main() -> None:
    method, count, file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    own: list[Params] = []

    def objective(params: Params) -> float:
        own.append(dict(params))
        time.sleep(0.05)
        far = sum((params[f"x{k}"] - 0.1 * k) ** 2 for k in range(6))
        return -far - 0.5 * (params["c"] != "y")

    print("ready", flush=True)
    sys.stdin.readline()
    trials = Trials(SPACE, objective, Budget(count), method=method, storage=file)
    search(trials, SPACE, method, lambda power: {"x0": power / 4, "x1": power / 8})
    print(json.dumps({"own": own, "count": trials.count, "best": trials.best}))


if __name__ == "__main__":
    main()
