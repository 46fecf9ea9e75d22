"""The call that onnxruntime's quantizer takes, with our result."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime.quantization as theirs
import pytest
from sessions import exact_session
from small_model import make_samples, small_model

from ptq_opt import UsageError
from ptq_opt.compat import onnxruntime as ours
from ptq_opt.ir.evaluate import signal_to_noise


class Reader(ours.CalibrationDataReader):  # type: ignore[misc]
    """As their users write one."""

    def __init__(self) -> None:
        self.left: Iterator[Any] = iter(make_samples(12))

    def get_next(self) -> Any:
        return next(self.left, None)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    onnx.save(small_model(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx", tmp_path / "out.onnx"


def types(model: onnx.ModelProto) -> dict[str, set[int]]:
    """Element types of the zero points of activations and of weights."""
    kinds = {i.name: i.data_type for i in model.graph.initializer}
    found: dict[str, set[int]] = {"weights": set(), "activations": set()}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            found["activations"].add(kinds[node.input[2]])
        stored = kinds.get(node.input[0], onnx.TensorProto.INT32)
        if node.op_type == "DequantizeLinear" and stored != onnx.TensorProto.INT32:
            found["weights"].add(stored)
    return found


def quantized_ops(result: Any) -> set[str]:
    return {d.op for d in result.report.decisions if d.precision == "int8"}


@pytest.mark.parametrize("name", ["quantize_static", "quantize"])
def test_the_signature_is_theirs(name: str) -> None:
    here = inspect.signature(getattr(ours, name)).parameters
    there = inspect.signature(getattr(theirs.quantize, name, None) or getattr(theirs, name))
    assert list(here) == list(there.parameters)
    assert {k: p.default for k, p in here.items()} == {
        k: p.default for k, p in there.parameters.items()
    }


def test_the_defaults_are_theirs_and_the_file_runs(files: tuple[Path, Path]) -> None:
    source, out = files
    result = ours.quantize_static(source, out, Reader())
    assert types(onnx.load(out)) == {
        "weights": {onnx.TensorProto.INT8},
        "activations": {onnx.TensorProto.INT8},
    }
    (scale,) = [i for i in result.model.graph.initializer if i.name == "w1_scale"]
    assert list(scale.dims) == []
    feeds = make_samples(1)[0]
    real = exact_session(onnx.load(source)).run(None, feeds)[0]
    found = exact_session(onnx.load(out)).run(None, feeds)[0]
    assert signal_to_noise(real, found) > 20


def test_types_channels_and_format(files: tuple[Path, Path]) -> None:
    source, out = files
    result = ours.quantize_static(
        str(source),
        str(out),
        Reader(),
        quant_format=ours.QuantFormat.QOperator,
        per_channel=True,
        activation_type=ours.QuantType.QUInt8,
        calibrate_method=ours.CalibrationMethod.Percentile,
    )
    assert "calibrate{method=percentile" in result.report.pipeline
    assert "QLinearConv" in {node.op_type for node in onnx.load(out).graph.node}


def test_a_configuration_is_a_call(files: tuple[Path, Path]) -> None:
    source, out = files
    config = ours.StaticQuantConfig(Reader(), weight_type=ours.QuantType.QInt4, per_channel=True)
    ours.quantize(source, out, config)
    assert types(onnx.load(out))["weights"] == {onnx.TensorProto.INT4}
    with pytest.raises(UsageError, match="only StaticQuantConfig is known here, not Dynamic"):
        ours.quantize(source, out, theirs.DynamicQuantConfig())


def test_selections(files: tuple[Path, Path]) -> None:
    source, out = files
    result = ours.quantize_static(source, out, Reader(), op_types_to_quantize=["Conv"])
    assert quantized_ops(result) == {"Conv"}
    result = ours.quantize_static(source, out, Reader(), nodes_to_quantize=["second"])
    assert [d.node for d in result.report.decisions if d.precision == "int8"] == ["second"]
    result = ours.quantize_static(source, out, Reader(), nodes_to_exclude=["second"])
    assert "second" not in {d.node for d in result.report.decisions if d.precision == "int8"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"calibration_data_reader": None}, "calibration_data_reader is needed"),
        ({"calibration_cache_path": "c.json"}, "a format of onnxruntime's"),
        ({"calibration_providers": ["CUDAExecutionProvider"]}, "CPUExecutionProvider"),
        ({"activation_type": ours.QuantType.QFLOAT8E4M3FN}, "activation_type can be QInt8"),
        ({"calibrate_method": ours.CalibrationMethod.Distribution}, "can be MinMax"),
        ({"extra_options": {"SmoothQuant": True}}, r"\['SmoothQuant'\] is not supported: "),
        ({"extra_options": {"ActivationSymetric": True}}, "did you mean 'ActivationSymmetric'"),
    ],
)
def test_what_we_have_nothing_for_is_refused(
    files: tuple[Path, Path], arguments: dict[str, Any], message: str
) -> None:
    source, out = files
    with pytest.raises(UsageError, match=message):
        ours.quantize_static(source, out, **{"calibration_data_reader": Reader(), **arguments})
    assert not out.exists()


def test_options_of_theirs_that_are_off_change_nothing(files: tuple[Path, Path]) -> None:
    source, out = files
    off = {"SmoothQuant": False, "TensorQuantOverrides": {}, "CalibMaxIntermediateOutputs": 4}
    ours.quantize_static(source, out, Reader(), extra_options=off)
    first = out.read_bytes()
    ours.quantize_static(source, out, Reader())
    assert out.read_bytes() == first


def test_symmetry(files: tuple[Path, Path]) -> None:
    source, out = files
    ours.quantize_static(source, out, Reader(), extra_options={"ActivationSymmetric": True})
    model = onnx.load(out)
    kinds = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    zeros = [kinds[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert zeros and not any(np.any(zero) for zero in zeros)


def test_every_option_of_theirs_is_known() -> None:
    """Those that the docstring of their function lists, in the installed version."""
    import re

    listed = set(re.findall(r"^ +([A-Za-z][\w.]+) = ", theirs.quantize_static.__doc__, re.M))
    known = {*ours.REFUSED, *ours.HONOURED, *ours.WITHOUT_EFFECT}
    assert len(listed) > 15 and listed <= known
