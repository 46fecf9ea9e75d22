"""The models that come with the onnx package: its node tests and its stored models."""

import functools
import warnings
from pathlib import Path

import onnx
from onnx.backend.test.case.node import collect_testcases

_DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"


@functools.cache
def node_cases() -> dict[str, onnx.ModelProto]:
    """Every single-operator test, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases overflow and divide by zero on purpose
        return {case.name: case.model for case in collect_testcases(None) if case.model}


@functools.cache
def stored_models() -> dict[str, onnx.ModelProto]:
    """Every model file, by path."""
    paths = sorted(_DATA.rglob("*.onnx"))
    return {str(path.relative_to(_DATA)): onnx.load(path) for path in paths}


def all_models() -> dict[str, onnx.ModelProto]:
    """Both."""
    return {**node_cases(), **stored_models()}
