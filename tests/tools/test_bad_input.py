"""Bad input gets one clear sentence, exit code 1, and no file is touched."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from small_model import make_samples, small_model

from ptq_opt import ModelError, quantize
from ptq_opt.tools.cli import main


def write_sample(folder: Path, **arrays: object) -> None:
    np.savez(folder / "calib" / "007.npz", **arrays)


def edit_sample(change: Callable[[np.ndarray], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        x = make_samples(1)[0]["x"]
        change(x)
        write_sample(folder, x=x)

    return spoil


def truncate(folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:1000])


def spoil_weight(name: str, value: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        weights = numpy_helper.to_array(
            next(t for t in small_model().graph.initializer if t.name == name)
        ).copy()
        weights.flat[3] = value
        onnx.save(small_model(**{name: weights}), folder / "model.onnx")

    return spoil


def quantize_already(folder: Path) -> None:
    onnx.save(quantize(small_model(), make_samples(4)).model, folder / "model.onnx")


def halve(folder: Path) -> None:
    model = small_model()
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, folder / "model.onnx")


def empty(folder: Path) -> None:
    for file in (folder / "calib").iterdir():
        file.unlink()


CASES: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "truncated file": (truncate, ["model.onnx", "only a part"]),
    "not a model": (lambda f: (f / "model.onnx").write_text("hello"), ["not an ONNX model"]),
    "missing key": (lambda f: write_sample(f, y=np.zeros(3)), ["007.npz", "no input 'x'", "'y'"]),
    "wrong shape": (
        lambda f: write_sample(f, x=np.zeros((1, 3, 9, 9), np.float32)),
        ["007.npz", "'x'", "[1, 3, 9, 9]", "[1, 3, 32, 32]"],
    ),
    "wrong type": (
        lambda f: write_sample(f, x=np.zeros((1, 3, 32, 32), np.uint8)),
        ["007.npz", "'x'", "uint8", "float"],
    ),
    "NaN in a sample": (edit_sample(lambda x: x.fill(np.nan)), ["007.npz", "'x'", "NaN"]),
    "infinity in a sample": (edit_sample(lambda x: x.fill(np.inf)), ["007.npz", "infinity"]),
    "damaged sample": (lambda f: (f / "calib/007.npz").write_bytes(b"PK"), ["007.npz"]),
    "empty folder": (empty, ["calib"]),
    "NaN in weights": (spoil_weight("w2", np.nan), ["'w2'", "Conv 'second'", "NaN"]),
    "infinite weights": (spoil_weight("w3", np.inf), ["'w3'", "Gemm 'classifier'", "infinite"]),
    "quantized already": (quantize_already, ["quantized already", "start from the float32"]),
    "float16": (halve, ["half precision", "'w1' of Conv 'first'", "export it in float32"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil, parts = CASES[case]
    spoil(folder)
    monkeypatch.chdir(folder)
    (folder / "out.onnx").write_text("of an earlier run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = CliRunner().invoke(main, ["model.onnx", "--data=calib", "--output=out.onnx"])
    assert done.exit_code == 1, done.stderr
    for part in parts:
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_masks_may_be_infinite() -> None:
    """Infinity is an error as a factor, not as a bound or a mask that is added."""
    nodes = [
        helper.make_node("Add", ["x", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "masked",
        [value("x", TensorProto.FLOAT, [2, 4])],
        [value("y", TensorProto.FLOAT, [2, 4])],
        [numpy_helper.from_array(np.array([0, 0, 0, -np.inf], np.float32), "mask")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    quantize(model, [{"x": np.ones((2, 4), np.float32)}])
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.full(4, np.nan, np.float32), "mask")
    )
    with pytest.raises(ModelError, match="'mask' of Add 'masked' holds 4 NaN"):
        quantize(model, [{"x": np.ones((2, 4), np.float32)}])


@pytest.mark.parametrize("dtype", ["float", "double", "float16", "bfloat16"])
def test_constants_of_every_width_are_looked_at(dtype: str) -> None:
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17]>
        wide ({dtype}[2] x) => ({dtype}[2] y) <{dtype}[2] c = {{1, 2}}> {{ y = Add(x, c) }}""")
    kind = onnx.helper.tensor_dtype_to_np_dtype(model.graph.initializer[0].data_type)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full(2, np.nan, kind), "c"))
    with pytest.raises(ModelError, match="'c' of Add 'y' holds 2 NaN"):
        quantize(model)


def test_nothing_to_quantize_is_said() -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Sin", ["x"], ["y"], "sine")],
        "sine",
        [value("x", TensorProto.FLOAT, [4])],
        [value("y", TensorProto.FLOAT, [4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result = quantize(model, [{"x": np.ones(4, np.float32)}])
    assert [node.op_type for node in result.model.graph.node] == ["Sin"]
    assert "nothing was quantized" in result.report.warnings[0]
    assert "no integer kernel" in str(result.report) and "Sin 'sine'" in str(result.report)
