"""The models of the onnx package: its single-operator tests and its stored models, with data."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

CONSTANTS = "+constants"
"""Ends the name of a case whose inputs but the first are constants."""


@dataclass(frozen=True)
class Case:
    """A model and what it is run on.

    Attributes:
        name: of the test, or path of the file.
        model: not to be changed.
        feeds: input name -> array; None where the package has no data for it.
    """

    name: str
    model: onnx.ModelProto
    feeds: Mapping[str, Any] | None

    def specialized(self) -> Case | None:
        """The case with all inputs but the first as initializers; None where that is no other.

        In the node tests weights, bounds and shapes are inputs; in models they are constants.
        """
        if self.feeds is None or len(self.feeds) < 2 or self.name.endswith(CONSTANTS):
            return None
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        first, *others = model.graph.input
        if not all(other.type.HasField("tensor_type") for other in others):
            return None
        for other in others:
            given = np.asarray(self.feeds[other.name])
            model.graph.initializer.append(numpy_helper.from_array(given, other.name))
        del model.graph.input[1:]
        return Case(self.name + CONSTANTS, model, {first.name: self.feeds[first.name]})


@functools.cache
def node_cases() -> dict[str, Case]:
    """Every single-operator test, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases overflow and divide by zero on purpose
        found = collect_testcases(None)
    cases = {}
    for test in found:
        if test.model is None or test.data_sets is None:
            continue
        names = [info.name for info in test.model.graph.input]
        arrays = [_array(given) for given in test.data_sets[0][0]]
        cases[test.name] = Case(test.name, test.model, dict(zip(names, arrays, strict=False)))
    return cases


@functools.cache
def stored_models() -> dict[str, Case]:
    """Every model file, by path."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data"
    cases: dict[str, Case] = {}
    for path in sorted(folder.rglob("*.onnx")):
        name, model = path.relative_to(folder).as_posix(), onnx.load(path)
        inputs = sorted(path.parent.glob("test_data_set_0/input_*.pb"), key=_number)
        names = [info.name for info in model.graph.input]
        arrays = [_read(file, info) for file, info in zip(inputs, model.graph.input, strict=False)]
        cases[name] = Case(name, model, dict(zip(names, arrays, strict=False)) if arrays else None)
    return cases


@functools.cache
def all_cases() -> dict[str, Case]:
    """Node tests, the same with constants, and stored models."""
    nodes = node_cases()
    constants = [other for case in nodes.values() if (other := case.specialized()) is not None]
    return nodes | {case.name: case for case in constants} | stored_models()


def all_models() -> dict[str, onnx.ModelProto]:
    """Every model as it is, by name."""
    cases = node_cases() | stored_models()
    return {name: case.model for name, case in cases.items()}


def _number(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def _array(given: Any) -> Any:
    """Cases hold types that numpy lacks as protos."""
    if isinstance(given, onnx.TensorProto):
        return numpy_helper.to_array(given)
    return given if given is None or isinstance(given, list) else np.asarray(given)


def _read(path: Path, info: onnx.ValueInfoProto) -> Any:
    """Data of a stored model: a tensor, or a list where the input is a sequence."""
    if info.type.HasField("sequence_type"):
        sequence = onnx.SequenceProto()
        sequence.ParseFromString(path.read_bytes())
        return numpy_helper.to_list(sequence)
    return numpy_helper.to_array(onnx.load_tensor(path))
