"""Prints the most memory, in bytes, that a run over N samples takes: python peak_memory.py N.

Each sample's activations are some hundred kilobytes, and the budget for kept ones is 1 MB: what
grows with the samples shows.
"""

import resource
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ptq_opt import quantize
from ptq_opt.ir import save
from ptq_opt.ir.memory import LIMIT
from ptq_opt.ir.target import find_target
from ptq_opt.ir.tensor import Array
from ptq_opt.ir.text import parse

NUMBERS = ", ".join(f"{np.sin(k):.3f}" for k in range(64))
MODEL = f"""
g (float[1,8,64,64] x) => (float[1,8,64,64] y)
<float[8,8,1,1] v = {{{NUMBERS}}}, float[8,8,1,1] w = {{{NUMBERS}}}> {{
  a = Conv(x, v)
  b = Relu(a)
  c = Conv(b, w)
  d = Relu(c)
  y = Conv(d, v)
}}
"""


def samples(count: int) -> Iterator[dict[str, Array]]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield {"x": rng.standard_normal((1, 8, 64, 64), np.float32)}


def main() -> None:
    count = int(sys.argv[1])
    passes = f"calibrate{{method=percentile,samples={count}}},bias{{samples={count}}},quant"
    target = find_target()
    free = replace(target, costs=replace(target.costs, quantize=0, dequantize=0))
    LIMIT.set(8 << 20)
    made = quantize(
        save(parse(MODEL)), samples(count + 8), passes=passes, target=free, samples=count, threads=1
    )
    assert made.report.samples == count and "sequential" in str(made.report.passes)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)


if __name__ == "__main__":
    main()
