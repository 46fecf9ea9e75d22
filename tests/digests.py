"""Prints digests of what a run makes, for tests that compare runs: python digests.py THREADS."""

import hashlib
import json
import sys

import numpy as np
from small_model import make_samples, small_model

from ptq_opt import quantize
from ptq_opt.ir.blas import one_thread
from ptq_opt.passes.registry import DEFAULT

PIPELINES = (
    DEFAULT,
    "equalize,split-outliers,calibrate{method=entropy},bits,variance,bias{mode=fast},quant",
    "calibrate{method=mse},clip,sensitivity{samples=2},round{places=64},bias{samples=4},quant",
    "tune{method=tpe,trials=4,samples=2},quant{format=qoperator},half",
)


def main() -> None:
    rng = np.random.default_rng(0)
    small = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "w3": (8, 5)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in small.items()}
    model = small_model(**weights)
    data = {}
    for passes in PIPELINES:
        made = quantize(model, make_samples(4), passes=passes, threads=int(sys.argv[1]))
        data[passes] = made.model.SerializeToString(deterministic=True)
    numbers = rng.standard_normal(10**6)
    with one_thread():
        energy = np.float64(numbers @ numbers)
    data["sum"] = energy.tobytes()
    print(json.dumps({name: hashlib.sha256(part).hexdigest() for name, part in data.items()}))


if __name__ == "__main__":
    main()
