"""Targets: found by name or path, and every mistake in a file named."""

from pathlib import Path

import pytest

from ptq_opt.ir import DType, UsageError
from ptq_opt.ir.target import Target, find_target, names

TARGETS = [
    "ort-cpu",
    "ort-cpu-avx2",
    "ort-cpu-vnni",
    "openvino-cpu",
    "tensorrt",
    "generic",
    "native",
]


@pytest.mark.parametrize("name", TARGETS)
def test_our_targets_can_be_read(name: str) -> None:
    assert name in names()
    target = find_target(name)
    assert target.name == name and target.summary
    assert {"Conv", "Gemm", "MatMul"} <= target.compute
    assert not target.light & target.agnostic
    assert target.fused.keys() <= target.compute | target.light


def test_a_target_passes_through() -> None:
    target = Target("mine")
    assert find_target(target) is target


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(UsageError, match="did you mean 'openvino-cpu'"):
        find_target("openvino")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "chip.toml"
    path.write_text(
        'name = "chip"\nopset = 19\n[activations]\ndtype = "int8"\nsymmetric = true\n'
        '[weights]\ndtype = "int4"\nper-channel = false\n[bias]\ndtype = "float"\n'
        '[operators]\ncompute = ["Conv"]\n[fused]\nConv = ["Relu"]\n'
        "[costs]\nlight = 1\ngops = { float = 2, integer = 8 }\n[costs.operators]\nAdd = [1, 2]\n"
    )
    target = find_target(path)
    assert (target.name, target.opset, target.bias) == ("chip", 19, None)
    assert (target.activations.dtype, target.activations.symmetric) == (DType.INT8, True)
    assert (target.weights.dtype, target.weights.per_channel) == (DType.INT4, False)
    assert target.kind("Conv") == "compute" and target.kind("Add") is None
    assert target.costs.gops == (2.0, 8.0)
    assert target.costs.volume_gops == (2.0, 8.0)
    assert target.costs.operators["Add"] == (1.0, 2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("opset = 'new'", "'opset' must be of type int"),
        ("speed = 3", "'speed' is not a key I know"),
        ("[operators]\ncomputes = []", "'operators.computes' is not a key I know"),
        ("[activations]\nper-channel = true", "'activations.per-channel' is not a key I know"),
        ("[weights]\ndtype = 'int9'", "'weights.dtype' 'int9' is no element type"),
        ("[weights]\ndtype = 'double'", "'double' is no integer type"),
        ("[arithmetic]\nrequantize = 'up'", "must be one of float, fixed, gemmlowp"),
        ("[costs.operators]\nAdd = [1]", "'costs.operators.Add' must be two numbers"),
        ("[fused]\nConv = 'Relu'", "'fused.Conv' must be of type list"),
        ("opset = ", "is not TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        find_target(path)


def test_a_file_may_say_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "ort-cpu"\n[arithmetic]\nsaturating-pairs = false\n')
    ours, base = find_target(path), find_target("ort-cpu")
    assert base.saturating_pairs and not ours.saturating_pairs
    assert (ours.compute, ours.costs, ours.fused) == (base.compute, base.costs, base.fused)


def test_a_base_that_is_none_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "ort-gpu"\n')
    with pytest.raises(UsageError, match="'base' must be a target of ours, not 'ort-gpu'"):
        find_target(path)


def test_a_missing_file() -> None:
    with pytest.raises(UsageError, match="cannot read target file"):
        find_target("nowhere/chip.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = " + "[" * 3000, "is nested too deeply"),
        ("x = " + "9" * 5000, "is not TOML"),
        ('base = "' + "a" * 5000 + '"', "'base' must be a target of ours"),
        ("base = [1]", "'base' must be a target of ours"),
    ],
)
def test_hostile_files(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=f"target file .*mine.toml.* {message}"):
        find_target(path)
