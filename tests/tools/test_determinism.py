"""The same inputs give the same bytes: whatever the threads, hash seeds and orders are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_model import Feeds, make_samples, small_model

from ptq_opt import quantize
from ptq_opt.ir import load
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


def test_the_order_of_independent_passes_changes_no_byte() -> None:
    """Smoothing is of products of matrices here, alignment of convolutions."""
    made = [
        quantize(small_model(), make_samples(2), passes=f"{passes},quant").model
        for passes in ("align,smooth", "smooth,align")
    ]
    assert made[0].SerializeToString(deterministic=True) == made[1].SerializeToString(
        deterministic=True
    )


def test_the_seed_is_the_only_chance() -> None:
    """Without data, samples are made up from it."""
    one, again, other = (
        quantize(small_model(), passes="calibrate,quant", seed=seed).model.SerializeToString(
            deterministic=True
        )
        for seed in (1, 1, 2)
    )
    assert one == again != other
