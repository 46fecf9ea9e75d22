"""The short spelling of grids, and what a target makes of it."""

from pathlib import Path

import pytest

from ptq_opt.ir import DType, UsageError
from ptq_opt.ir.grid_rule import GridRule, activation_rule, weight_rule
from ptq_opt.ir.target import Target, find_target

USUAL = GridRule(DType.INT8, symmetric=True, per_channel=True)
I4 = DType.INT4


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("int8", USUAL),
        ("int4", GridRule(I4, symmetric=True, per_channel=True)),
        ("int4:block=32", GridRule(I4, symmetric=True, per_channel=True, block=32)),
        ("int4:block=16,asymmetric", GridRule(I4, per_channel=True, block=16)),
        ("int4:block=16,per-channel", GridRule(I4, symmetric=True, per_channel=True)),
        ("int4:per-tensor", GridRule(I4, symmetric=True)),
        ("uint4", GridRule(DType.UINT4, per_channel=True)),
        ("uint4:symmetric", GridRule(DType.UINT4, symmetric=True, per_channel=True)),
        ("int2", GridRule(DType.INT2, symmetric=True, per_channel=True)),
        ("none", None),
    ],
)
def test_weights(text: str, rule: GridRule | None) -> None:
    assert weight_rule(text, USUAL) == rule


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("int16", GridRule(DType.INT16)),
        ("int8:symmetric", GridRule(DType.INT8, symmetric=True)),
        ("uint16", GridRule(DType.UINT16)),
        ("none", None),
    ],
)
def test_activations(text: str, rule: GridRule | None) -> None:
    assert activation_rule(text, GridRule(DType.UINT8)) == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int9", "weights can be uint8, .* uint2 or none, not 'int9'"),
        ("int32", "weights can be"),
        ("none:symmetric", "weights can be"),
        ("int4:block=0", "'block=0' is no option of weights: symmetric, asymmetric, per-tensor"),
        ("int4:narrow", "'narrow' is no option of weights"),
    ],
)
def test_mistakes_in_weights_are_named(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        weight_rule(text, USUAL)


@pytest.mark.parametrize("text", ["int4", "uint8:block=8", "uint8:per-channel"])
def test_mistakes_in_activations_are_named(text: str) -> None:
    with pytest.raises(UsageError, match="activations"):
        activation_rule(text, None)


def test_a_target_stores_otherwise() -> None:
    target = find_target("ort-cpu").storing("int4:block=8", "int16")
    assert target.weights == GridRule(I4, symmetric=True, per_channel=True, block=8)
    assert target.activations == GridRule(DType.INT16)
    assert target.storing() == target


@pytest.mark.parametrize("weights", ["int2", "uint2", "int8:block=32"])
def test_what_onnx_runtime_does_not_load_is_refused(weights: str) -> None:
    target = find_target("ort-cpu")
    with pytest.raises(UsageError, match="give activations 16 bits, or none"):
        target.storing(weights)
    assert target.storing(weights, "int16").weights
    assert target.storing(weights, "none").weights


def test_a_file_says_it_too(tmp_path: Path) -> None:
    path = tmp_path / "chip.toml"
    path.write_text(
        'base = "ort-cpu"\n[activations]\ndtype = "float"\n'
        '[weights]\ndtype = "int4"\nblock = 16\nsymmetric = false\n'
    )
    target = find_target(path)
    assert target.activations is None
    assert target.weights == GridRule(I4, per_channel=True, block=16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[weights]\nblock = -1", "'weights.block' must not be negative"),
        ("[weights]\ndtype = 'int32'", "'weights.dtype' must be float or one of uint8"),
        ("[activations]\ndtype = 'int4'", "'activations.dtype' must be float or one of uint8"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        find_target(path)


def test_weights_in_float_have_no_scale_to_share() -> None:
    assert Target("t", weights=None).scales_per_channel
    assert Target("t").storing("int4:per-tensor,block=8").scales_per_channel
    assert not Target("t").storing("int4:per-tensor").scales_per_channel
