"""The same inputs give the same bytes: whatever the threads, hash seeds and orders are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from rewriting import net, noise
from small_model import Feeds, small_model

from ptq_opt import quantize
from ptq_opt.ir import load, save
from ptq_opt.ir.calibration import calibrate
from ptq_opt.ir.evaluate import THREADS

SCRIPT = Path(__file__).parents[1] / "digests.py"


def digests(threads: str, hash_seed: str) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    done = subprocess.run(
        [sys.executable, SCRIPT, threads],
        env={**os.environ, **dict.fromkeys(names, threads), "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_threads_and_hash_seeds_change_no_byte() -> None:
    """Those of ONNX Runtime and of numpy's BLAS, one against two."""
    assert digests("1", "1") == digests("2", "2")


@pytest.mark.parametrize("method", ["mean-max", "percentile"])
def test_threads_change_no_bit_of_a_range(method: str) -> None:
    """Large tensors, so that ONNX Runtime does share the work."""
    rng, found = np.random.default_rng(0), []
    samples: list[Feeds] = [{"x": rng.standard_normal((1, 3, 32, 32)).astype(np.float32)}]
    for threads in (1, 2, 3):
        graph = load(small_model())
        token = THREADS.set(threads)
        values = [value for node in graph.order() for value in node.outputs]
        calibration = calibrate(graph, samples, values, method=method, channel_axis=1)
        THREADS.reset(token)
        both = (calibration.ranges, calibration.channels)
        found.append([{name: seen.rows.tobytes() for name, seen in part.items()} for part in both])
    assert found[0] == found[1] == found[2]


def two_branches() -> onnx.ModelProto:
    """Normalized convolutions, and a matrix product behind an Elu."""
    names = ("gamma", "beta", "mean", "var")
    parameters = dict(zip(names, noise(4, 4, positive=True) * [[1], [9], [1], [1]], strict=True))
    spread = np.float32([[[100]], [[1]], [[1]], [[0.01]]])
    return save(net(
        """c = Conv(x, w)
        n = BatchNormalization(c, gamma, beta, mean, var)
        r = Relu(n)
        y = Conv(r, v)
        e = Elu(t)
        z = MatMul(e, m)""",
        "float[1,4,6,6] x, float[1,12,16] t", "float[] y, float[] z",
        w=noise(4, 4, 3, 3), v=noise(8, 4, 1, 1) * spread, m=noise(16, 24, seed=1),
        **{name: array.astype(np.float32) for name, array in parameters.items()},
    ))  # fmt: skip


@pytest.mark.parametrize("other", ["align", "equalize", "absorb-bias"])
def test_the_order_of_independent_passes_changes_no_byte(other: str) -> None:
    """Smoothing is of products of matrices here, the others of convolutions."""
    levels = np.geomspace(0.05, 20, 16).astype(np.float32)
    samples = [{"x": noise(1, 4, 6, 6, seed=k), "t": noise(1, 12, 16, seed=k) * levels}
               for k in range(4)]  # fmt: skip
    made = []
    for passes in (f"{other},smooth,quant", f"smooth,{other},quant"):
        result = quantize(two_branches(), samples, passes=passes)
        done = {report.spec: report.rewritten for report in result.report.passes}
        assert done[other] and done["smooth"]
        made.append(result.model.SerializeToString(deterministic=True))
    assert made[0] == made[1]


def test_the_seed_is_the_only_chance() -> None:
    """Without data, samples are made up from it."""
    one, again, other = (
        quantize(small_model(), passes="calibrate,quant", seed=seed).model.SerializeToString(
            deterministic=True
        )
        for seed in (1, 1, 2)
    )
    assert one == again != other
