"""The demo's measures, and that its proof can fail."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptq_opt.tools import demo

DATA = Path(__file__).resolve().parents[1] / "data/crepe_tiny"
GOOD = demo.Scores(rpa50=0.99, sqnr_db=35.0, size_bytes=100, milliseconds=1.0)


def test_pitch_is_right_within_50_cents() -> None:
    probabilities = np.zeros((3, 360), np.float32)
    probabilities[:, 100] = 1
    pitch = 10 * 2 ** ((demo.FIRST_BIN_CENTS + 2000 + np.array([0, 49, 51])) / 1200)
    assert demo.raw_pitch_accuracy(probabilities, pitch) == pytest.approx(2 / 3)


def test_sqnr_of_a_tenth_is_20_db() -> None:
    signal = np.ones(10, np.float32)
    assert demo.sqnr_db(signal, signal * np.float32(0.9)) == pytest.approx(20, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({}, []),
        ({"rpa50": 0.97}, ["pitch within 50 cents"]),
        ({"sqnr_db": 29.9}, ["SQNR of the output"]),
        ({"sqnr_db": float("nan")}, ["SQNR of the output"]),
        ({"size_bytes": 150}, ["size"]),
        ({"milliseconds": 9.0}, []),  # a busy machine proves nothing
    ],
)
def test_bounds(changes: dict[str, float], failing: list[str]) -> None:
    fp32 = demo.Scores(rpa50=0.995, sqnr_db=300.0, size_bytes=400, milliseconds=2.0)
    rows = demo.verdicts(fp32, replace(GOOD, **changes))
    assert [name for name, *_, holds in rows if holds is False] == failing


def test_example_model_finds_the_pitch_of_held_back_sounds() -> None:
    with np.load(DATA / "test.npz") as arrays:
        frames, pitch = arrays["frames"], arrays["pitch_hz"]
    scores = demo.measure([(DATA / "model.onnx").read_bytes()], frames, pitch)[0]
    assert scores.rpa50 == 0.995
    assert len(demo.load_samples(DATA / "calib")) == 64


def test_held_back_sounds_do_not_calibrate() -> None:
    with np.load(DATA / "test.npz") as arrays:
        held_back = {frame.tobytes() for frame in arrays["frames"]}
    samples = demo.load_samples(DATA / "calib")
    assert not held_back & {sample["frames"].tobytes() for sample in samples}
