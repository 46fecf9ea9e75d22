"""The bytes a C program loads; that such a program gives the same is in docs/engines/native.md."""

import pytest

from ptq_opt import ModelError
from ptq_opt.ir.text import parse
from ptq_opt.native import serialize

GRID = "float s = {0.5}, uint8 z = {128}"


def quantized(shape: str, middle: str) -> str:
    return f"""
g (float[{shape}] x) => (float[{shape}] y) <{GRID}> {{
  q = QuantizeLinear(x, s, z)
  d = DequantizeLinear(q, s, z)
  m = {middle}(d)
  r = QuantizeLinear(m, s, z)
  y = DequantizeLinear(r, s, z)
}}"""


def test_the_same_graph_gives_the_same_bytes() -> None:
    first, second = (serialize(parse(quantized("1,4", "Relu"))) for _ in range(2))
    assert first == second and first.startswith(b"ptqmdl01")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (quantized("N,4", "Relu"), "the shape of input 'x' is open"),
        ("g (float[1,4] x) => (float[1,4] y) { y = Sin(x) }", "'?y'? has no integer form"),
        (
            f"g (float[1] x) => (float[1] y, float[2] c) <{GRID}, float[2] c = {{1, 2}}> "
            "{ q = QuantizeLinear(x, s, z)\n y = DequantizeLinear(q, s, z) }",
            "an output is constant",
        ),
    ],
)
def test_what_no_c_program_can_run_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        serialize(parse(text))
