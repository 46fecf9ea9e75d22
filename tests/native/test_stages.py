"""Programs and parts of ONNX Runtime one after the other: whose memory results are in."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import parser
from sessions import exact_session

from ptq_opt import native

# p is of a program, t of ONNX Runtime, r of a program of its own for so many rows.
MODEL = """
<ir_version: 9, opset_import: ["" : 16]>
main (float[1,8,5,5] x, bool[3] wanted) => (float[1,8,5,5] p, float[1,8,5,5] t, float[n,8,1,1] r)
  <float s = {0.05}, uint8 z = {100}, int64 axis = {2}, int64[1] first = {0},
   float[3,4] corners = {0,0,4,4, 1,2,3,5, 2,2,2,2}, int64[3] images = {0,0,0}> {
  q = QuantizeLinear(x, s, z)
  d = DequantizeLinear(q, s, z)
  m = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(d)
  v = QuantizeLinear(m, s, z)
  p = DequantizeLinear(v, s, z)
  t = CumSum(p, axis)
  u = QuantizeLinear(t, s, z)
  w = DequantizeLinear(u, s, z)
  found = NonZero(wanted)
  rows = Squeeze(found, first)
  some = Gather(corners, rows)
  where = Gather(images, rows)
  r = RoiAlign(w, some, where)
}"""


def sample(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(0, 3, (1, 8, 5, 5)).astype(np.float32),
        "wanted": np.arange(3) <= seed % 3,
    }


def test_results_belong_to_the_caller() -> None:
    """Memory between the stages is used again, that of results never."""
    model = parser.parse_model(MODEL)
    program, session = native.compile(model), exact_session(model)
    assert {time.op for time in program.profile(sample(0))} > {"onnxruntime", "roi_align"}
    samples = [sample(seed) for seed in range(8)]
    found = [program.run(each) for each in samples]
    for each, results in zip(samples, found, strict=True):
        for result, want in zip(results.values(), session.run(None, each), strict=True):
            np.testing.assert_array_equal(result, want)


def test_runs_at_the_same_time_share_no_memory() -> None:
    program = native.compile(parser.parse_model(MODEL))
    samples = [sample(seed) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(program.run, samples))
    for each, results in zip(samples, found, strict=True):
        for name, want in program.run(each).items():
            np.testing.assert_array_equal(results[name], want)


def test_waiting_threads_of_a_part_leave_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes next wants them: spinning threads made a model of many parts ten times slower."""
    original, told = ort.InferenceSession, []

    def opened(model: bytes, options: ort.SessionOptions, **rest: Any) -> ort.InferenceSession:
        if options.intra_op_num_threads == 2:
            told.append(options.get_session_config_entry("session.intra_op.allow_spinning"))
        return original(model, options, **rest)

    monkeypatch.setattr(ort, "InferenceSession", opened)
    native.compile(parser.parse_model(MODEL), threads=2).run(sample(0))
    assert told
    assert set(told) == {"0"}
