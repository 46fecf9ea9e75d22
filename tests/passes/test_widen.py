"""Weights of eight bits for the layers that lose most by fewer."""

from dataclasses import replace

from rewriting import net, noise

from ptq_opt.ir.target import find_target
from ptq_opt.passes.select import rule_of
from ptq_opt.passes.units import find_units
from ptq_opt.passes.widen import narrow, widened

BODY = """
a = Conv(x, small)
b = Relu(a)
c = Conv(b, large)
d = Conv(c, other)
y = Conv(d, small2)
"""
GRAPH = net(
    BODY,
    "float[1,4,8,8] x",
    small=noise(4, 4, 1, 1),
    large=noise(4, 4, 3, 3),
    other=noise(4, 4, 1, 1),
    small2=noise(4, 4, 1, 1),
)


def test_what_loses_most_for_its_size_comes_first() -> None:
    target = find_target("native").storing("int4", layers=["^d$=int8"])
    units = find_units(GRAPH, target)
    names = [unit.node.outputs[0].name for unit in units]
    losses = [{"a": 1.0, "c": 5.0, "d": 9.0, "y": 2.0}.get(name, 0.0) for name in names]
    found = narrow(units, [name != "y" for name in names], losses, target)
    assert [layer.node.split()[0] for layer in found] == ["Conv", "Conv"]
    assert [(layer.loss, layer.size) for layer in found] == [(1.0, 8.0), (5.0, 72.0)], (
        "a loses 1 for 8 bytes, c 5 for 72; d has eight bits, y is in float"
    )
    more = widened(target, found[1:])
    bits = {unit.node.outputs[0].name: rule_of(unit.node, more) for unit in units}
    assert {name: bits[name].dtype.bits for name in "acdy"} == {"a": 4, "c": 8, "d": 8, "y": 4}
    assert bits["c"].per_channel


def test_nothing_is_narrow_where_weights_have_eight_bits() -> None:
    for target in (find_target("native"), replace(find_target("native"), weights=None)):
        units = find_units(GRAPH, target)
        assert narrow(units, [True] * len(units), [0.0] * len(units), target) == []
