"""A small model and a folder of samples."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from small_model import Feeds, make_samples, small_model


@pytest.fixture
def model() -> onnx.ModelProto:
    return small_model()


@pytest.fixture
def samples() -> list[Feeds]:
    return make_samples(30)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with model.onnx and 30 samples in calib/."""
    onnx.save(small_model(), tmp_path / "model.onnx")
    (tmp_path / "calib").mkdir()
    for k, feeds in enumerate(make_samples(30)):
        np.savez(tmp_path / "calib" / f"{k:03}.npz", **feeds)
    return tmp_path
