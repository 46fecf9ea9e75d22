"""The runner adds what is missing, checks every pass, and says what it ran."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from rewriting import installed, net, only, operand, ops

from ptq_opt.ir import DType, Graph, GraphError, UsageError
from ptq_opt.ir.samples import open_samples
from ptq_opt.ir.target import find_target
from ptq_opt.passes import Context, Instruments, Pass, PassError, Pipeline

CONTEXT = {"target": find_target("ort-cpu")}


@dataclass(frozen=True)
class Step(Pass):
    """A pass that does nothing."""

    def run(self, graph: Graph, context: Context) -> None:
        context.report.note(f"ran {self.name}")


class Cook(Step):
    name: ClassVar[str] = "cook"
    establishes: ClassVar[tuple[str, ...]] = ("soup",)
    requires: ClassVar[tuple[str, ...]] = ("water",)


class Fetch(Step):
    name: ClassVar[str] = "fetch"
    establishes: ClassVar[tuple[str, ...]] = ("water",)


class Spill(Step):
    name: ClassVar[str] = "spill"
    invalidates: ClassVar[tuple[str, ...]] = ("soup",)


class Eat(Step):
    name: ClassVar[str] = "eat"
    requires: ClassVar[tuple[str, ...]] = ("soup",)


class Hen(Step):
    name: ClassVar[str] = "hen"
    requires: ClassVar[tuple[str, ...]] = ("egg",)
    establishes: ClassVar[tuple[str, ...]] = ("chicken",)


class Egg(Step):
    name: ClassVar[str] = "egg"
    requires: ClassVar[tuple[str, ...]] = ("chicken",)
    establishes: ClassVar[tuple[str, ...]] = ("egg",)


class Vegan(Step):
    name: ClassVar[str] = "vegan"
    requires: ClassVar[tuple[str, ...]] = ("tofu",)


@dataclass(frozen=True)
class Double(Pass):
    """Doubles what every Relu reads, against its promise."""

    name: ClassVar[str] = "double"
    preserves_function: ClassVar[bool] = True

    by: float = 2.0

    def run(self, graph: Graph, context: Context) -> None:
        for node in graph.order():
            if node.op == "Relu":
                factor = graph.constant(np.float32(self.by))
                product = graph.add("Mul", [node.inputs[0], factor])
                graph.set_input(node, 0, product.output)


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    with installed([Cook, Fetch, Spill, Eat, Hen, Egg, Vegan]):
        yield


def test_missing_providers_are_added_before_the_pass_that_needs_them() -> None:
    pipeline = Pipeline("eat")
    assert pipeline.spec == "fetch,cook,eat"
    assert [step.provided for step in pipeline.resolve()] == [True, True, False]


def test_what_is_there_is_not_added_again() -> None:
    assert Pipeline("fetch,cook,eat,eat").spec == "fetch,cook,eat,eat"


def test_what_was_invalidated_is_made_again() -> None:
    assert Pipeline("eat,spill,eat").spec == "fetch,cook,eat,spill,cook,eat"


def test_the_resolved_pipeline_is_stable() -> None:
    spec = Pipeline("eat,spill,eat").spec
    assert Pipeline(spec).spec == spec


def test_pass_objects_and_strings_mix() -> None:
    pipeline = Pipeline([Fetch(), "spill,cook", Double(by=3.0)])
    assert pipeline.spec == "fetch,spill,cook,double{by=3.0}"


def test_passes_that_need_each_other_are_an_error() -> None:
    with pytest.raises(PassError, match="passes need each other's result: egg -> chicken"):
        Pipeline("hen").resolve()


def test_a_fact_nobody_establishes_is_an_error() -> None:
    with pytest.raises(UsageError, match="no pass establishes 'tofu'"):
        Pipeline("vegan").resolve()


def test_the_users_example_gets_its_providers() -> None:
    spec = Pipeline("align,bias,quant").spec
    order = [name.split("{")[0] for name in spec.split(",")]
    wanted = ["canonicalize", "fold-bn", "align", "calibrate", "plan", "bias", "quant", "cleanup"]
    assert [name for name in order if name in wanted] == wanted


def test_every_pass_leaves_a_report() -> None:
    graph = net("a = Relu(x)\n y = Relu(a)")
    reports = Pipeline(["eat", Double(by=1.0)]).run(graph, Context(**CONTEXT))
    assert [(r.spec, r.provided) for r in reports] == [
        ("fetch", True),
        ("cook", True),
        ("eat", False),
        ("double{by=1.0}", False),
    ]
    assert [r.nodes for r in reports] == [(2, 2), (2, 2), (2, 2), (2, 4)]
    assert [r.edits > 0 for r in reports] == [False, False, False, True]
    assert reports[2].notes == ["ran eat"]


def test_hooks_see_the_graph_before_and_after_each_pass() -> None:
    seen: list[tuple[str, str, int]] = []
    tools = Instruments(
        before=[lambda item, graph: seen.append(("before", item.name, len(graph)))],
        after=[lambda item, graph: seen.append(("after", item.name, len(graph)))],
    )
    Pipeline(["fetch", Double()]).run(net("y = Relu(x)"), Context(**CONTEXT), tools)
    assert seen == [
        ("before", "fetch", 1),
        ("after", "fetch", 1),
        ("before", "double", 1),
        ("after", "double", 2),
    ]


def test_a_broken_promise_is_found() -> None:
    with pytest.raises(PassError, match=r"'double' promises .* output 'y' differs by 1 of"):
        Pipeline([Double()]).run(
            net("y = Relu(x)"), Context(**CONTEXT), Instruments(verify="numerics")
        )


def test_a_broken_promise_inside_a_body_is_found() -> None:
    class DoubleInside(Double):
        def run(self, graph: Graph, context: Context) -> None:
            for inner in graph.graphs():
                Double.run(self, inner, context)

    graph = net(
        """y = If (c) <
            then_branch = t () => (float[] a) { a = Relu(x) },
            else_branch = e () => (float[] b) { b = Relu(x) }
        >""",
        inputs="bool c, float[2] x",
    )
    feeds = [{"c": np.array(True), "x": np.array([1, 2], np.float32)}]
    context = Context(**CONTEXT, samples=open_samples(feeds, graph.inputs))
    with pytest.raises(PassError, match="output 'y' differs by 1 of"):
        Pipeline([DoubleInside()]).run(graph, context, Instruments(verify="numerics"))


def test_a_kept_promise_is_accepted() -> None:
    graph = net("y = Relu(x)")
    Pipeline([Double(by=1.0)]).run(graph, Context(**CONTEXT), Instruments(verify="numerics"))
    assert ops(graph) == ["Mul", "Relu"]


def test_a_broken_graph_is_found_after_the_pass_that_broke_it() -> None:
    class Break(Step):
        name: ClassVar[str] = "break"

        def run(self, graph: Graph, context: Context) -> None:
            operand(only(graph, "Relu"), 0).uses.clear()

    with pytest.raises(PassError, match="pass 'break' left a broken graph"):
        Pipeline([Break(), "eat"]).run(net("y = Relu(x)"), Context(**CONTEXT))


def test_a_graph_that_is_broken_already_is_refused() -> None:
    graph = net("y = Relu(x)")
    operand(only(graph, "Relu"), 0).uses.clear()
    with pytest.raises(GraphError):
        Pipeline("eat").run(graph, Context(**CONTEXT))


class Crash(Step):
    name: ClassVar[str] = "crash"

    def run(self, graph: Graph, context: Context) -> None:
        raise KeyError("scale")


def test_an_unexpected_error_names_the_pass() -> None:
    with pytest.raises(PassError, match="pass 'crash' failed: KeyError: 'scale'"):
        Pipeline([Crash()]).run(net("y = Relu(x)"), Context(**CONTEXT))


def test_a_failure_comes_with_the_pipeline_up_to_it() -> None:
    tools = Instruments(reproducer=lambda spec: f"reproduce with {spec}")
    with pytest.raises(PassError, match=r"reproduce with fetch,cook,crash$"):
        Pipeline(["cook", Crash(), "eat"]).run(net("y = Relu(x)"), Context(**CONTEXT), tools)


def test_calibration_data_that_is_missing_is_named_with_the_cure() -> None:
    class Hungry(Step):
        name: ClassVar[str] = "hungry"

        def run(self, graph: Graph, context: Context) -> None:
            context.need_samples(self.name)

    with pytest.raises(PassError, match="pass 'hungry' needs calibration data: give --data"):
        Pipeline([Hungry()]).run(net("y = Relu(x)"), Context(**CONTEXT))


def test_outputs_that_rounding_noise_decides_are_not_held_against_a_pass() -> None:
    """A step function at 0 of values that are 0 up to rounding."""

    class Reorder(Step):
        name: ClassVar[str] = "reorder"
        preserves_function: ClassVar[bool] = True

        def run(self, graph: Graph, context: Context) -> None:
            node = only(graph, "ReduceSum")
            x = operand(node, 0)
            product = graph.add("Mul", [x, graph.constant(np.float32(1 / 3))]).output
            product.dtype = DType.FLOAT
            total = graph.add("ReduceSum", [product, node.inputs[1]], dict(node.attrs)).output
            graph.replace(
                node.output, graph.add("Mul", [total, graph.constant(np.float32(3))]).output
            )
            graph.sweep()

    graph = net(
        "n = Neg(x)\n a = Concat <axis = 1> (x, n)\n b = ReduceSum <keepdims = 0> (a, axis)\n"
        "y = Sign(b)",
        inputs="float[8,1000] x",
        axis=np.array([1]),
    )
    report = Pipeline([Reorder()]).run(graph, Context(**CONTEXT), Instruments(verify="numerics"))
    assert "rounding" in report[0].notes[-1]
