"""Tables: one for all elements, or one for each channel."""

from __future__ import annotations

import numpy as np
import pytest

from ptq_opt.native.kernels import Kernel, best_isa
from ptq_opt.native.model import Kind, Model, Role, Type

PATTERNS = np.arange(256)


def table_model(tables: np.ndarray, rows: int) -> Model:
    model = Model()
    x = model.tensor(Type.U8, (rows, len(tables)), role=Role.INPUT)
    y = model.tensor(Type.U8, (rows, len(tables)), role=Role.OUTPUT)
    model.op(Kind.LUT, [x, model.constant(tables.astype(np.uint8))], [y], [])
    return model


def lines(channels: int) -> np.ndarray:
    """What scales and biases of channels become between two grids, some behind a Relu."""
    rng = np.random.default_rng(0)
    slope, start = rng.normal(0, 1, (channels, 1)), rng.uniform(-100, 300, (channels, 1))
    low = rng.choice([0, 40], (channels, 1))
    return np.clip(np.rint(slope * PATTERNS + start), low, 255)


CURVES = np.rint(255 / (1 + np.exp(-(PATTERNS - 128) / np.array([[9.0], [20.0], [33.0]]))))


@pytest.mark.parametrize(
    ("tables", "kernel"),
    [
        (lines(200), "lines"),
        (np.repeat([[7], [0], [255]], 256, 1), "lines"),
        (CURVES, "scalar"),
        (np.concatenate([lines(5), CURVES]), "scalar"),
    ],
    ids=["lines", "constants", "curves", "some lines"],
)
def test_a_table_for_each_channel(tables: np.ndarray, kernel: str) -> None:
    x = np.random.default_rng(1).integers(0, 256, (300, len(tables))).astype(np.uint8)
    x[: min(256, len(x))] = PATTERNS[:, None]
    program = Kernel(table_model(tables, len(x)))
    found = program.run([x])[0]
    np.testing.assert_array_equal(found, tables[np.arange(len(tables)), x])
    assert program.kernels() == [kernel if best_isa() != "scalar" else "scalar"]
