"""`ptq-opt diff`: where two models part."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

import ptq_opt
from ptq_opt.tools import cli

from ..small_model import make_samples, small_model


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.main, ["diff", *(str(word) for word in words)])


def saved(path: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, path)
    return path


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return saved(tmp_path / "first.onnx", small_model())


def differences(tmp_path: Path, first: Path, second: Path, *words: object) -> Any:
    told = tmp_path / "diff.json"
    done = run(first, second, "--json", told, *words)
    assert done.exit_code == 0, done.output
    return json.loads(told.read_text()), done.output


def test_a_model_and_itself(first: Path, tmp_path: Path) -> None:
    found, output = differences(tmp_path, first, first)
    assert "The graphs are the same." in output
    assert "first difference: none" in output
    assert found["outputs"] == [{"output": "y", "sqnr_db": 120.0, "equal": 1.0}]
    assert [t["tensor"] for t in found["tensors"]] == ["c1", "r1", "c2", "sum", "pool", "flat", "y"]
    assert {t["sqnr_db"] for t in found["tensors"]} == {120.0}


def test_a_weight_that_changed_is_named_and_located(first: Path, tmp_path: Path) -> None:
    model = small_model()
    (weight,) = (t for t in model.graph.initializer if t.name == "w2")
    changed = numpy_helper.to_array(weight) * np.where(np.arange(32) % 2, 1.5, 1)[:, None, None]
    weight.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), "w2"))
    found, output = differences(tmp_path, first, saved(tmp_path / "b.onnx", model))
    assert list(found["constants"]) == ["w2"]
    assert found["constants"]["w2"] == pytest.approx(np.abs(changed[:, 1::2]).max() / 3)
    assert "first difference: 'c2' of Conv 'second'" in output
    assert "first below 20 dB: 'c2' of Conv 'second'" in output
    assert {t["tensor"]: t["sqnr_db"] for t in found["tensors"]}["r1"] == 120.0


def test_operators_that_were_replaced(first: Path, tmp_path: Path) -> None:
    model = small_model()
    relu = model.graph.node[1]
    relu.op_type, relu.name = "LeakyRelu", "leaky"
    model.graph.node[0].attribute[0].ints[:] = [1, 1, 1, 1]
    del model.graph.node[2].attribute[:]
    model.graph.node[2].attribute.append(onnx.helper.make_attribute("auto_pad", "SAME_UPPER"))
    found, output = differences(tmp_path, first, saved(tmp_path / "b.onnx", model))
    assert found["operators"] == {"LeakyRelu": [0, 1], "Relu": [1, 0]}
    assert found["removed"] == ["Relu 'relu'"] and found["added"] == ["LeakyRelu 'leaky'"]
    assert found["changed"] == ["second"]
    assert "first difference: 'r1' of Relu 'relu'" in output


def test_a_quantized_model_tensor_by_tensor(first: Path, tmp_path: Path) -> None:
    result = ptq_opt.quantize(first, make_samples(8))
    second = tmp_path / "b.onnx"
    result.save(second)
    np.savez(tmp_path / "data.npz", **{"x": np.concatenate([s["x"] for s in make_samples(3)])})
    found, _ = differences(tmp_path, first, second, "--data", tmp_path / "data.npz")
    by_name = {t["tensor"]: t for t in found["tensors"]}
    assert {"r1", "sum", "y"} <= by_name.keys()
    assert all(25 < by_name[name]["sqnr_db"] < 90 for name in ("r1", "sum", "y")), by_name
    assert found["operators"]["QuantizeLinear"][0] == 0


def test_a_rescaled_tensor_is_no_error(first: Path, tmp_path: Path) -> None:
    model = small_model()
    scale = np.linspace(0.25, 4, 32, dtype=np.float32)
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    shaped = scale[:, None, None, None]
    second = small_model(
        w1=arrays["w1"] * shaped,
        b1=arrays["b1"] * scale,
        w2=arrays["w2"] / scale[None, :, None, None],
    )
    found, output = differences(tmp_path, first, saved(tmp_path / "b.onnx", second))
    by_name = {t["tensor"]: t for t in found["tensors"]}
    assert by_name["r1"]["rescaled"] and by_name["r1"]["sqnr_db"] > 100
    assert not by_name["c2"]["rescaled"] and by_name["c2"]["sqnr_db"] > 100
    assert "rescaled" in output


def test_models_of_different_inputs_are_compared_as_graphs(first: Path, tmp_path: Path) -> None:
    model = small_model()
    model.graph.input[0].name = model.graph.node[0].input[0] = "image"
    found, output = differences(tmp_path, first, saved(tmp_path / "b.onnx", model))
    assert found["missing"] == "only one of the models has the input 'image'"
    assert "Numbers are not compared" in output
    assert "input 'x' only in the first model" in found["interface"]


def test_shapes_that_differ(first: Path, tmp_path: Path) -> None:
    model = small_model(w3=np.ones((32, 7), np.float32), b3=np.ones(7, np.float32))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7
    found, _ = differences(tmp_path, first, saved(tmp_path / "b.onnx", model))
    assert found["interface"] == ["output 'y': float[1,5] and float[1,7]"]
    assert found["constants"] == {"w3": None, "b3": None}
    assert found["outputs"] == [{"output": "y", "sqnr_db": None, "equal": 0.0}]


def test_a_file_that_is_no_model(first: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    done = run(first, broken)
    assert done.exit_code == 1
    assert "ptq-opt diff: error: " in done.output and "broken.onnx" in done.output
