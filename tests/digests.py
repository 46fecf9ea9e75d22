"""Prints digests of what a run makes, for tests that compare runs: python digests.py THREADS."""

import hashlib
import json
import sys

import numpy as np
from small_model import make_samples, small_model

from ptq_opt import quantize
from ptq_opt.ir.blas import one_thread

PASSES = "calibrate{method=mse},clip,sensitivity{samples=2},round{places=64},bias{samples=4},quant"


def main() -> None:
    rng = np.random.default_rng(0)
    small = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "w3": (8, 5)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in small.items()}
    model = small_model(**weights)
    made = quantize(model, make_samples(4), passes=PASSES, threads=int(sys.argv[1]))
    numbers = rng.standard_normal(10**6)
    with one_thread():
        energy = np.float64(numbers @ numbers)
    data = {"model": made.model.SerializeToString(deterministic=True), "sum": energy.tobytes()}
    print(json.dumps({name: hashlib.sha256(part).hexdigest() for name, part in data.items()}))


if __name__ == "__main__":
    main()
