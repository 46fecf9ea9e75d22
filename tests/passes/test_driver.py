"""Rules are applied until nothing changes, and each decision is counted."""

import pytest
from rewriting import net, ops

from ptq_opt.ir import Node
from ptq_opt.ir.verify import verify
from ptq_opt.passes import PassError, Report, Rewriter, Rule, Skip, apply


def replace_by(old: str, new: str) -> Rule:
    def rewrite(node: Node, rw: Rewriter) -> None:
        rw.replace(node.output, rw.add(new, *node.inputs, like=node.output))

    return Rule(f"{old}-to-{new}", (old,), rewrite)


def fuse(first: str, second: str, new: str) -> Rule:
    def rewrite(node: Node, rw: Rewriter) -> bool:
        x = node.inputs[0]
        if x is None or x.producer is None or not x.producer.is_op(first):
            return False
        rw.replace(node.output, rw.add(new, *x.producer.inputs))
        return True

    return Rule(f"{first}-{second}", (second,), rewrite)


def test_a_rule_sees_every_node_of_its_type() -> None:
    graph, report = net("a = Neg(x)\n b = Abs(a)\n y = Neg(b)"), Report("")
    apply(graph, [replace_by("Neg", "Relu")], report)
    assert ops(graph) == ["Relu", "Abs", "Relu"]
    assert (report.matched, report.rewritten) == (2, 2)
    verify(graph)


def test_what_a_rewrite_makes_is_visited_again() -> None:
    graph = net("y = Neg(x)")
    apply(graph, [replace_by("Relu", "Sigmoid"), replace_by("Neg", "Relu")], Report(""))
    assert ops(graph) == ["Sigmoid"]


def test_readers_of_a_change_are_visited_again() -> None:
    graph = net("a = Neg(x)\n b = Exp(a)\n y = Abs(b)")
    rules = [fuse("Relu", "Abs", "Elu"), replace_by("Neg", "Tanh"), fuse("Tanh", "Exp", "Relu")]
    apply(graph, rules, Report(""))
    assert ops(graph) == ["Elu"]


def test_a_change_far_before_a_root_is_seen_by_the_next_sweep() -> None:
    def far(node: Node, rw: Rewriter) -> bool:
        found, value = [], node.inputs[0]
        while value is not None and value.producer is not None:
            found.append(value.producer.op)
            value = value.producer.inputs[0]
        if found != ["Exp", "Exp", "Relu"]:
            return False
        rw.replace(node.output, rw.add("Elu", value))
        return True

    graph = net("a = Neg(x)\n b = Exp(a)\n c = Exp(b)\n d = Sqrt(c)\n y = Add(d, x)")

    def late(node: Node, rw: Rewriter) -> bool:
        """Changes the first operator only after all others were visited."""
        first = next(iter(rw.graph))
        if first.op != "Neg":
            return False
        rw.replace(first.output, rw.add("Relu", *first.inputs))
        return True

    apply(graph, [Rule("far", ("Sqrt",), far), Rule("late", ("Add",), late)], Report(""))
    assert ops(graph) == ["Elu", "Add"]


def test_reasons_are_counted_once_for_each_node_that_is_left() -> None:
    def decline(node: Node, rw: Rewriter) -> None:
        raise Skip("not today")

    graph, report = net("a = Neg(x)\n b = Abs(a)\n [last] y = Neg(b)"), Report("")
    apply(graph, [Rule("never", ("Neg",), decline), replace_by("Abs", "Relu")], report)
    assert report.skipped == {"not today": ["Neg 'a'", "Neg 'last'"]}


def test_a_reason_is_dropped_with_its_node() -> None:
    def decline(node: Node, rw: Rewriter) -> None:
        raise Skip("not today")

    graph, report = net("y = Neg(x)"), Report("")
    apply(graph, [Rule("never", ("Neg",), decline), replace_by("Neg", "Relu")], report)
    assert report.skipped == {}


def test_a_rule_that_goes_on_for_ever_is_named() -> None:
    rules = [replace_by("Neg", "Relu"), replace_by("Relu", "Neg")]
    with pytest.raises(PassError, match=r"rule '.*' does not converge at .* 'y'"):
        apply(net("y = Neg(x)"), rules, Report(""))


def test_a_rule_may_not_change_and_decline() -> None:
    def both(node: Node, rw: Rewriter) -> bool:
        rw.add("Abs", *node.inputs)
        return False

    with pytest.raises(PassError, match="'both' changed Neg 'y' and then declined"):
        apply(net("y = Neg(x)"), [Rule("both", ("Neg",), both)], Report(""))


def test_an_error_in_a_rule_says_where() -> None:
    def broken(node: Node, rw: Rewriter) -> bool:
        return bool(node.inputs[7])

    with pytest.raises(PassError, match="rule 'broken' failed at Neg 'y': IndexError"):
        apply(net("y = Neg(x)"), [Rule("broken", ("Neg",), broken)], Report(""))


def test_bodies_are_rewritten_too() -> None:
    graph = net(
        """y = If (c) <
            then_branch = t () => (float[] a) { a = Neg(x) },
            else_branch = e () => (float[] b) { b = Abs(x) }
        >""",
        inputs="bool c, float[2] x",
    )
    apply(graph, [replace_by("Neg", "Relu")], Report(""))
    assert [ops(body) for body in graph.graphs()] == [["If"], ["Relu"], ["Abs"]]
    verify(graph)


def test_operators_of_other_domains_are_left_alone() -> None:
    graph = net("y = other.Neg(x)")
    apply(graph, [replace_by("Neg", "Relu")], Report(""))
    assert ops(graph) == ["Neg"]
    apply(graph, [Rule("theirs", ("other::Neg",), replace_by("Neg", "Relu").rewrite)], Report(""))
    assert ops(graph) == ["Relu"]


def test_the_replacement_keeps_name_and_origin() -> None:
    graph = net("a = Neg(x)\n y = Abs(a)")
    apply(graph, [replace_by("Neg", "Relu")], Report(""))
    value = next(iter(graph)).output
    assert (value.name, value.origin, value.shape) == ("a", "a", (1, 4, 6, 6))


def test_what_only_the_replaced_operator_needed_goes_too() -> None:
    graph = net("a = Exp(x)\n b = Sqrt(x)\n c = Add(a, b)\n d = Neg(a)\n y = Add(c, d)")

    def drop(node: Node, rw: Rewriter) -> bool:
        a, b = node.inputs
        if b is None or b.producer is None or b.producer.op != "Sqrt":
            return False
        rw.replace(node.output, a)
        return True

    apply(graph, [Rule("drop", ("Add",), drop)], Report(""))
    assert ops(graph) == ["Exp", "Neg", "Add"]
