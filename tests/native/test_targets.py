"""A target's arithmetic in the executor: rounding and sums, with hand-made vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from ptq_opt import native
from ptq_opt.ir import UsageError
from ptq_opt.ir.target import Target

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
SUMS = """
main (uint8[M,K] x) => (int32[M,N] y) {
  y = MatMulInteger(x, w, zx, zw)
}"""
REQUANTIZED = """
main (uint8[M,K] x) => (int8[M,N] y) {
  d = DequantizeLinear(x, sx, zx)
  e = DequantizeLinear(w, sw, zw)
  f = DequantizeLinear(b, sb, zero)
  c = Gemm(d, e, f)
  y = QuantizeLinear(c, sy, zy)
}"""
CHIP = """
base = "generic"
[arithmetic]
requantize = "{}"
saturating-pairs = {}
"""


def run(text: str, x: Any, target: Any, **constants: Any) -> list[Any]:
    """Output y for input x, with initializers as given, as one list."""
    model = parser.parse_model(HEADER + text)
    for name, array in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    program = native.compile(model, target=target)
    assert not program.reasons
    found: list[Any] = program.run({"x": np.array(x, np.uint8)})["y"].ravel().tolist()
    return found


def sums(x: list[int], w: list[int], zx: int = 0, zw: int = 0, target: Any = None) -> int:
    column = np.array(w, np.int8)[:, None]
    zeros = {"zx": np.uint8(zx), "zw": np.int8(zw)}
    return int(run(SUMS, [x], target, w=column, **zeros)[0])


def rounded(accs: list[int], multiplier: float, mode: str, tmp_path: Path, zy: int = 0) -> Any:
    """Sums times a multiplier on an int8 grid: the inputs are 0, the biases are the sums."""
    chip = tmp_path / "chip.toml"
    chip.write_text(CHIP.format(mode, "false"))
    count = len(accs)
    one = np.float32(1)
    return run(
        REQUANTIZED, [[0]], chip, w=np.zeros((1, count), np.int8), b=np.array(accs, np.int32),
        sx=one, sw=np.float32(multiplier), sb=np.float32(multiplier), sy=one, zx=np.uint8(0),
        zw=np.int8(0), zero=np.int32(0), zy=np.int8(zy),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("x", "w", "exact", "pairs"),
    [
        ([200, 180, 3, 255], [90, 100, -7, 64], 52299, 49066),
        ([255] * 4, [-128, -128, 127, 127], -510, -1),
        ([255, 255], [65, 64], 32895, 32767),
        ([255, 255], [64, 64], 32640, 32640),
    ],
)
def test_pairs_saturate_where_the_target_says_so(
    x: list[int], w: list[int], exact: int, pairs: int
) -> None:
    assert sums(x, w) == exact
    assert sums(x, w, target="ort-cpu-vnni") == exact
    assert sums(x, w, target="ort-cpu") == pairs
    assert sums(x, w, target=Target("chip", saturating_pairs=True)) == pairs


def test_zero_points_come_off_the_sum() -> None:
    x, w = [10, 200, 128, 7], [-3, 90, -128, 5]
    assert sums(x, w, zx=128, zw=-2) == 5895
    assert sums(x, w, zx=128, zw=-2, target="ort-cpu") == 5895  # no pair is large enough


@pytest.mark.parametrize(
    ("mode", "want"),
    [
        ("float", [-2, -2, 0, 0, 2, 2]),
        ("fixed", [-2, -1, 0, 1, 2, 3]),
        ("gemmlowp", [-2, -1, 0, 1, 2, 3]),
    ],
)
def test_ties(mode: str, want: list[int], tmp_path: Path) -> None:
    assert rounded([-5, -3, -1, 1, 3, 5], 0.5, mode, tmp_path) == want


@pytest.mark.parametrize(("mode", "want"), [("float", 0), ("fixed", 0), ("gemmlowp", 1)])
def test_rounding_twice_moves_a_result(mode: str, want: int, tmp_path: Path) -> None:
    """0.3: the doubling high multiply gives 0.6 rounded to 1, the shift 0.5 rounded to 1."""
    assert rounded([1], 0.3, mode, tmp_path) == [want]


@pytest.mark.parametrize(
    ("mode", "want"), [("float", -1299), ("fixed", -1299), ("gemmlowp", -1300)]
)
def test_rounding_twice_moves_a_large_result(mode: str, want: int, tmp_path: Path) -> None:
    """-145751 times 0.008915863; a thousand steps of bias bring it into int8."""
    text = REQUANTIZED.replace("int8[M,N] y", "int16[M,N] y").replace("17]", "21]")
    chip = tmp_path / "chip.toml"
    chip.write_text(CHIP.format(mode, "false"))
    scale, one = np.float32(0.008915863), np.float32(1)
    found = run(
        text, [[0]], chip, w=np.zeros((1, 1), np.int8), b=np.array([-145751], np.int32), sx=one,
        sw=scale, sb=scale, sy=one, zx=np.uint8(0), zw=np.int8(0), zero=np.int32(0),
        zy=np.int16(0),
    )  # fmt: skip
    assert found == [want]


@pytest.mark.parametrize("mode", ["fixed", "gemmlowp"])
def test_a_multiplier_just_below_a_power_of_two_is_that_power(mode: str, tmp_path: Path) -> None:
    """0.25 (1 - 2^-40): the mantissa rounds up to 2^31 and is halved, the exponent raised."""
    accs = [-400, -6, -2, 2, 6, 400]
    same = rounded(accs, 0.25, mode, tmp_path)
    assert rounded(accs, 0.25 * (1 - 2**-40), mode, tmp_path) == same
    assert [same[0], same[-1]] == [-100, 100]


@pytest.mark.parametrize("mode", ["float", "fixed", "gemmlowp"])
def test_a_filter_of_zeros_gives_its_bias(mode: str, tmp_path: Path) -> None:
    """Bias -1.2157 on the grid 0.05 * 0.004 is -6078, on the grid (0.04, 128) it is 98."""
    chip = tmp_path / "chip.toml"
    chip.write_text(CHIP.format(mode, "false"))
    text = REQUANTIZED.replace("int8[M,N] y", "uint8[M,N] y")
    sx, sw = np.float32(0.05), np.float32(0.004)
    bias = np.array([np.rint(-1.2157 / 0.05 / 0.004)], np.int32)
    assert bias[0] == -6078
    found = run(
        text, [[0], [255]], chip, w=np.zeros((1, 1), np.int8), b=bias, sx=sx, sw=sw, sb=sx * sw,
        sy=np.float32(0.04), zx=np.uint8(100), zw=np.int8(0), zero=np.int32(0), zy=np.uint8(128),
    )  # fmt: skip
    assert found == [98, 98]


def test_an_option_outranks_the_target(tmp_path: Path) -> None:
    x, w = [255, 255], [65, 64]
    model = parser.parse_model(HEADER + SUMS)
    for name, array in (
        ("w", np.array(w, np.int8)[:, None]), ("zx", np.uint8(0)), ("zw", np.int8(0)),
    ):  # fmt: skip
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    onnx.save(model, tmp_path / "m.onnx")
    program = native.compile(tmp_path / "m.onnx", target="ort-cpu", accumulate="s32")
    assert program.run({"x": np.array([x], np.uint8)})["y"].tolist() == [[32895]]
    with pytest.raises(UsageError, match="there is no target 'none'"):
        native.compile(tmp_path / "m.onnx", target="none")
