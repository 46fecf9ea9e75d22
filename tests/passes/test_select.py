"""Patterns that select operators, and weights of layers stored otherwise than the others."""

import pytest
from rewriting import net, noise

from ptq_opt.ir import Graph, Node
from ptq_opt.ir.samples import random_samples
from ptq_opt.ir.target import Target, find_target
from ptq_opt.passes import Context, Pipeline
from ptq_opt.passes.plan import stored_weights
from ptq_opt.passes.select import rule_of, selects

ORT = find_target("ort-cpu")


def selected(pattern: str, graph: Graph) -> str:
    """The results of the operators that a pattern selects."""
    return " ".join(node.output.name for node in graph.order() if selects(pattern, node))


def layers(body: str, inputs: str = "float[1,4,6,6] x", outputs: str = "float[] y") -> Graph:
    constants = {"w": noise(4, 4, 1, 1), "d": noise(4, 1, 1, 1), "t": noise(9, 4), "m": noise(4, 4)}
    return net(body, inputs, outputs, **constants)


def test_names_types_and_roles() -> None:
    graph = layers("[stem] a = Conv(x, w)\n[body] b = Conv <group = 4> (a, d)\n[body] y = Relu(b)")
    assert selected("^st", graph) == "a"
    assert selected("body", graph) == "b y"
    assert selected("op:Conv|Gemm", graph) == "a b"
    assert selected("is:depthwise", graph) == "b"
    assert selected("is:end", graph) == "a b"


@pytest.mark.parametrize(
    ("body", "ends"),
    [
        ("a = Conv(x, w)\n b = Conv(a, w)\n y = Conv(b, w)", "ay"),
        ("y = Conv(x, w)", "y"),
        # what only arithmetic separates from an input or from an output is an end, too
        ("s = Sqrt(x)\n a = Conv(s, w)\n b = Conv(a, w)\n c = Conv(b, w)\n y = Relu(c)", "ac"),
        # an input that comes in beside, or a result that leaves early, makes no end
        ("a = Conv(x, w)\n s = Add(a, x)\n b = Conv(s, w)\n c = Conv(b, w)\n y = Add(c, a)", "ac"),
        # as many ends as there are heads
        ("a = Conv(x, w)\n b = Conv(a, w)\n c = Conv(b,w)\n e = Conv(b,w)\n y = Add(c,e)", "ace"),
    ],
)  # fmt: skip
def test_ends(body: str, ends: str) -> None:
    assert selected("is:end", layers(body)).split() == list(ends)


def test_what_reads_an_embedding_is_no_first_layer() -> None:
    graph = layers(
        "e = Gather(t, i)\n a = MatMul(e, m)\n b = MatMul(a, m)\n y = Relu(b)", "int64[3] i"
    )
    assert selected("is:end", graph) == "b"


def test_products_of_activations_are_no_layers() -> None:
    graph = layers("a = MatMul(x, m)\n p = MatMul(a, a)\n y = Relu(p)", "float[4,4] x")
    assert selected("is:end", graph) == "a"


# -- weights ---------------------------------------------------------------------------------------

CHAIN = "[one] a = Conv(x, w)\n[two] b = Conv(a, v)\n[three] c = Conv(b, u)\n[four] y = Conv(c, s)"


def chain() -> Graph:
    names = {name: noise(16, 16, 3, 3, seed=k) for k, name in enumerate("wvus")}
    return net(CHAIN, "float[1,16,24,24] x", **names)


def types(target: Target, passes: str = "plan,quant") -> list[str]:
    """How the weights of the chain are stored, as `plan` says."""
    graph = chain()
    context = Context(target, samples=random_samples(graph.inputs, 4))
    Pipeline(passes).run(graph, context)
    return [row["weights"] for row in context.results["plan"]]


def test_layers_store_their_weights_as_told() -> None:
    assert types(ORT.storing("int4", layers=["is:end=int8"])) == ["int8", "int4", "int4", "int8"]
    assert types(ORT.storing(layers=["two|three=uint4"])) == ["int8", "uint4", "uint4", "int8"]
    assert types(ORT.storing("int4", "none", ["^two$=int8"])) == ["int4", "int8", "int4", "int4"]


def test_the_first_that_selects_counts() -> None:
    target = ORT.storing("int4", layers=["^one$=uint4", "is:end=int8"])
    assert types(target) == ["uint4", "int4", "int4", "int8"]


def test_what_is_not_said_is_as_for_other_weights() -> None:
    def rule(weights: str, text: str) -> tuple[bool, bool, int]:
        found = rule_of(middle(chain()), ORT.storing(weights, layers=[text]))
        assert found is not None
        return found.symmetric, found.per_channel, found.block

    assert rule("int4", "two=int8") == (True, True, 0)
    assert rule("int4:per-tensor", "two=int8") == (True, False, 0)
    assert rule("int4:block=16,asymmetric", "two=int8") == (True, True, 0)
    assert rule("int4", "two=int4:block=16,asymmetric") == (False, True, 16)


def middle(graph: Graph) -> Node:
    return next(node for node in graph.order() if node.name == "two")


def test_shared_weights_are_stored_one_way() -> None:
    graph = net(
        "[one] a = Conv(x, w)\n[two] b = Conv(a, w)\n[three] y = Conv(b, v)",
        "float[1,16,24,24] x", w=noise(16, 16, 3, 3), v=noise(16, 16, 3, 3, seed=1),
    )  # fmt: skip
    target = ORT.storing("int4", layers=["one=int8"])
    context = Context(target, samples=random_samples(graph.inputs, 4))
    Pipeline("plan").run(graph, context)
    assert [stored_weights(node) for node in graph.order()] == ["int8", "int8", "int4"]
