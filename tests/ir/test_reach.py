"""What depends on custom operators is told from what does not."""

import onnx
import pytest

from ptq_opt.ir import load
from ptq_opt.ir.evaluate import Runner
from ptq_opt.ir.reach import out_of_reach

TEXT = """
<ir_version: 8, opset_import: ["" : 17, "com.microsoft": 1, "mine": 1, "own": 1]>
main (float[4] x, bool c) => (float[4] far, float[4] near)
{
    a = Relu (x)
    b = %s (a)
    far = Add (b, x)
    near = Abs (a)
}
<domain: "own", opset_import: ["": 17]> Twice (v) => (w) { w = Add (v, v) }
"""
BRANCHES = """If (c) <
    then_branch = yes () => (float[4] p) { p = mine.Strange (a) },
    else_branch = no () => (float[4] q) { q = Abs (a) }>"""


@pytest.mark.parametrize("op", ["mine.Strange", "EfficientNMS_TRT"])
def test_custom_operators_hide_what_follows(op: str) -> None:
    graph = load(onnx.parser.parse_model(TEXT % op))
    hidden = out_of_reach(graph)
    assert [value.name for value in hidden] == ["b", "far"]
    assert {node.op for node in hidden.values()} == {op.split(".")[-1]}


@pytest.mark.parametrize("op", ["Neg", "own.Twice", "com.microsoft.Gelu"])
def test_known_operators_and_functions_do_not(op: str) -> None:
    assert not out_of_reach(load(onnx.parser.parse_model(TEXT % op)))


def test_a_body_can_hold_one() -> None:
    text = TEXT.replace("b = %s (a)", f"b = {BRANCHES}")
    hidden = out_of_reach(load(onnx.parser.parse_model(text)))
    assert [value.name for value in hidden] == ["b", "far"]


def test_nothing_to_fetch_is_nothing_to_run() -> None:
    assert Runner(load(onnx.parser.parse_model(TEXT % "mine.Strange")), []).run({}) == []
