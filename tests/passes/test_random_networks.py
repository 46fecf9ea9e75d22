"""Random small networks compute the same after the passes that promise it."""

import pytest
from random_network import Network
from rewriting import ops, run

from ptq_opt.ir.target import find_target
from ptq_opt.ir.text import print_graph
from ptq_opt.ir.verify import verify
from ptq_opt.passes import Context, Instruments, Pipeline
from ptq_opt.passes.invariants import difference

TARGET = find_target("ort-cpu")


@pytest.mark.parametrize("seed", range(40))
def test_the_function_is_kept(seed: int) -> None:
    graph = Network(seed).build(4 + seed % 12)
    before, names = run(graph, 1), list(graph.output_names)
    Pipeline("canonicalize,fold-bn").run(graph, Context(TARGET), Instruments())
    verify(graph)
    assert graph.output_names == names
    for a, b in zip(before[0], run(graph, 1)[0], strict=True):
        assert difference(a, b) <= 1e-4
    assert not {"BatchNormalization", "Sum", "Identity"} & set(ops(graph))


@pytest.mark.parametrize("seed", range(40, 60))
def test_a_second_run_changes_nothing(seed: int) -> None:
    graph = Network(seed).build(4 + seed % 12)
    Pipeline("canonicalize,fold-bn").run(graph, Context(TARGET), Instruments())
    first = print_graph(graph)
    reports = Pipeline("canonicalize,fold-bn").run(graph, Context(TARGET), Instruments())
    assert [report.rewritten for report in reports] == [0, 0]
    assert print_graph(graph) == first
