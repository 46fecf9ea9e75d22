"""Values without a range: those behind custom operators, and masks."""

import onnx
import pytest

from ptq_opt.ir import load, shapes
from ptq_opt.ir.evaluate import Runner
from ptq_opt.ir.reach import infinite, out_of_reach

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


MASKED = """
<ir_version: 8, opset_import: ["": 17]>
attention (float[2, 4] scores, bool[2, 4] keep, float[4] x) => (float[2, 4] p, float[2, 4] f)
<float low = {-inf}, float one = {1.0}>
{
    shape = Shape (scores)
    rows = ConstantOfShape <value: tensor = float[1] {-inf}> (shape)
    mask = Where (keep, one, low)
    cut = Add (scores, mask)
    more = Add (cut, rows)
    p = Softmax (more)
    top = Max (x, low)
    f = Add (p, top)
    n = Equal (mask, cut)
}
"""


def test_masks_are_infinite_up_to_the_softmax() -> None:
    graph = load(onnx.parser.parse_model(MASKED))
    shapes.infer(graph)
    assert {value.name for value in infinite(graph)} == {"rows", "mask", "cut", "more"}
