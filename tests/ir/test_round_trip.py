"""Loading and saving loses nothing: every model of the onnx package comes back the same."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from onnx.checker import ValidationError, check_model
from onnx.shape_inference import InferenceError
from same_model import canonical

from ptq_opt.ir import Graph, load, save
from ptq_opt.ir.verify import verify
from ptq_opt.tools.corpus.cases import all_models, node_cases, stored_models

TINY = """
<ir_version: 10, opset_import: ["": 21]>
g (float[2] x, float[2] z) => (float[2] y) <float[2] w = {1, 2}> {
    t = Mul (x, w)
    y = LeakyRelu <alpha = 0.5> (t)
}
"""


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    return {name: load(model) for name, model in all_models().items()}


@pytest.fixture(scope="module")
def saved(graphs: dict[str, Graph]) -> dict[str, ModelProto]:
    return {name: save(graph) for name, graph in graphs.items()}


def is_valid(model: ModelProto, full: bool) -> bool:
    try:
        check_model(model, full_check=full)
    except (ValidationError, InferenceError):
        return False
    return True


def test_the_onnx_package_has_the_models_that_this_is_about() -> None:
    assert len(node_cases()) > 1000
    assert len(stored_models()) > 100


def test_every_loaded_graph_is_well_formed(graphs: dict[str, Graph]) -> None:
    for graph in graphs.values():
        verify(graph)


def test_every_model_comes_back_with_the_same_operators_data_and_annotations(
    saved: dict[str, ModelProto],
) -> None:
    changed = [n for n, model in all_models().items() if canonical(saved[n]) != canonical(model)]
    assert changed == []


def test_every_valid_model_comes_back_valid(saved: dict[str, ModelProto]) -> None:
    broken = [
        name
        for name, model in all_models().items()
        for full in (True, False)
        if is_valid(model, full) and not is_valid(saved[name], full)
    ]
    assert broken == []


def test_saving_again_gives_the_same_bytes(saved: dict[str, ModelProto]) -> None:
    changed = [
        name
        for name, model in saved.items()
        if save(load(model)).SerializeToString() != model.SerializeToString()
    ]
    assert changed == []


def test_a_trained_model_computes_the_same_to_the_last_bit() -> None:
    import onnxruntime as ort

    folder = Path(__file__).parent.parent / "data" / "crepe_tiny"
    sample = dict(np.load(sorted((folder / "calib").iterdir())[0]))
    path = folder / "model.onnx"
    before, after = (
        ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, sample)
        for model in (path.read_bytes(), save(load(path)).SerializeToString())
    )
    assert all(np.array_equal(b, a) for b, a in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        ("Mul (x, w)", "Add (x, w)"),
        ("Mul (x, w)", "Mul (w, x)"),
        ("Mul (x, w)", "Mul (z, w)"),
        ("alpha = 0.5", "alpha = 0.25"),
        ("{1, 2}", "{1, 3}"),
        ("(t)", "(x)"),
        ("float[2] y", "float[N] y"),
        ("y", "result"),
        ('"": 21', '"": 20'),
    ],
)
def test_the_comparison_sees_every_change(change: tuple[str, str]) -> None:
    after = onnx.parser.parse_model(TINY.replace(*change))
    assert canonical(after) != canonical(onnx.parser.parse_model(TINY))


def test_the_comparison_ignores_inner_names() -> None:
    renamed = TINY.replace("t =", "inner =").replace("(t)", "(inner)").replace("w", "weight")
    assert canonical(onnx.parser.parse_model(renamed)) == canonical(onnx.parser.parse_model(TINY))
