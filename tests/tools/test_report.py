"""The report: its numbers, its JSON, its table."""

import json
import math

import numpy as np
import onnx
import pytest
from small_model import Feeds

from ptq_opt import Report, quantize
from ptq_opt.ir import DType, Graph, Value
from ptq_opt.passes import Report as PassReport
from ptq_opt.tools.render import body, statistics, times
from ptq_opt.tools.report import (
    Conversions,
    Decision,
    Fidelity,
    LayerFidelity,
    OutputFidelity,
    conversions,
    weight_bytes,
)


def layer(name: str, noise: float) -> LayerFidelity:
    return LayerFidelity(f"Conv '{name}'", f"{name}_out", 20.0, 30.0, noise)


def test_json_holds_everything_and_is_standard(
    model: onnx.ModelProto, samples: list[Feeds]
) -> None:
    report = quantize(model, samples).report
    text = json.dumps(report.as_dict(), allow_nan=False)
    data = json.loads(text)
    assert data["pipeline"] == report.pipeline
    first = data["decisions"][0]
    told = ("node", "op", "precision", "weights", "reason", "why")
    assert [first[key] for key in told] == ["first", "Conv", "int8", "int8", "", ""]
    assert [p["spec"] for p in data["passes"]] == [p.spec for p in report.passes]
    assert data["weight_bytes"][0] > 3 * data["weight_bytes"][1]
    assert all(math.isfinite(entry["noise"]) for entry in data["fidelity"]["layers"])


def test_reasons_are_grouped_most_frequent_first() -> None:
    report = Report(
        decisions=[
            Decision("a", "Conv", "int8"),
            Decision("b", "Sin", "float", "moves constants"),
            Decision("c", "Conv", "float", "excluded"),
            Decision("d", "Conv", "float", "excluded"),
            Decision("e", "Conv", "float", "excluded"),
            Decision("f", "Abs", "float", "no kernel for Abs"),
            Decision("g", "Sin", "float", "no kernel for Sin"),
        ]
    )
    assert report.counts() == {"Conv": (1, 4), "Sin": (0, 2), "Abs": (0, 1)}
    assert {r: len(found) for r, found in report.not_quantized().items()} == {
        "excluded": 3,
        "no kernel": 2,
        "moves constants": 1,
    }
    assert list(report.not_quantized()) == ["excluded", "no kernel", "moves constants"]


def test_worst_layers_are_those_that_add_most_noise() -> None:
    found = Fidelity(layers=[layer("a", 0.01), layer("b", 0.5), layer("c", 0.2)])
    assert [entry.tensor for entry in found.worst(2)] == ["b_out", "c_out"]


def quantize_dequantize(graph: Graph, value: Value) -> Value:
    scale, zero = graph.constant(np.float32(0.1)), graph.constant(np.uint8(0))
    integers = graph.add("QuantizeLinear", [value, scale, zero]).output
    return graph.add("DequantizeLinear", [integers, scale, zero]).output


def unary(graph: Graph, op: str, value: Value, precision: str) -> Value:
    node = graph.add(op, [value])
    node.precision = precision
    return node.output


@pytest.mark.parametrize(
    ("precisions", "expected"),
    [
        (("int8", "int8"), Conversions(quantize=1, dequantize=1)),
        (("float", "int8"), Conversions(quantize=2, dequantize=2)),
        (("float", "float"), Conversions(quantize=3, dequantize=3)),
    ],
)
def test_conversions_are_counted_at_the_borders(
    precisions: tuple[str, str], expected: Conversions
) -> None:
    """Every value is on a grid here, so that only what surrounds a pair decides."""
    graph = Graph()
    value = quantize_dequantize(graph, graph.input("x", DType.FLOAT, (4,)))
    for op, precision in zip(("Relu", "Abs"), precisions, strict=True):
        value = quantize_dequantize(graph, unary(graph, op, value, precision))
    graph.set_outputs([value], ["y"])
    assert conversions(graph) == expected


def test_two_grids_in_a_row_are_a_conversion() -> None:
    graph = Graph()
    value = quantize_dequantize(graph, graph.input("x", DType.FLOAT, (4,)))
    graph.set_outputs([quantize_dequantize(graph, value)], ["y"])
    assert conversions(graph) == Conversions(quantize=1, dequantize=1, requantize=1)


def test_shared_constants_count_once() -> None:
    graph = Graph()
    shared = graph.constant(np.ones(10, np.float32))
    own = graph.constant(np.ones(10, np.int8))
    total = graph.add("Add", [shared, shared]).output
    cast = graph.add("Cast", [own], {"to": 1}).output
    graph.set_outputs([graph.add("Mul", [total, cast]).output], ["y"])
    assert weight_bytes(graph) == 50


def test_table_says_what_was_not_measured_and_warns() -> None:
    report = Report(warnings=["mind this"], fidelity=Fidelity(missing="no way to run it"))
    assert "warning: mind this" in str(report)
    assert "no way to run it" in str(report)


def test_table_shows_names_as_they_are() -> None:
    """Brackets are markup to the table's library."""
    report = Report(
        decisions=[Decision("[red]x[/red]", "Conv", "float", "for [bold]reason")],
        passes=[PassReport("pass{list=[a,b]}", notes=["[dim]note"])],
        fidelity=Fidelity(outputs=[OutputFidelity("[0]", 30.0, 0.1)]),
        command="ptq-opt --passes='p{list=[a]}'",
    )
    text = str(report)
    for part in ("[red]x[/red]", "for [bold]reason", "pass{list=[a,b]}", "[dim]note", "[0]"):
        assert part in text
    assert "'p{list=[a]}'" in text


def test_poor_outputs_come_with_a_cure() -> None:
    layers = [layer("a.b", 0.5), layer("c", 0.2), layer("d", 0.1)]
    poor = Fidelity(outputs=[OutputFidelity("y", 5.0, 0.0)], layers=layers)
    good = Fidelity(outputs=[OutputFidelity("y", 35.0, 0.0)], layers=layers)
    assert r"--exclude='^a\.b$|^c$'" in str(Report(fidelity=poor))
    assert "--exclude" not in str(Report(fidelity=good))


def test_integer_outputs_are_shown_by_agreement() -> None:
    report = Report(fidelity=Fidelity(outputs=[OutputFidelity("class", None, 0.975)]))
    assert "97.5 % equal" in str(report)


def test_a_reason_is_told_once() -> None:
    report = Report(
        decisions=[Decision("s", "Sin", "float", "no kernel")],
        passes=[PassReport("plan", skipped={"no kernel": ["Sin 's'"], "other": ["Cos 'c'"]})],
    )
    assert str(report).count("no kernel") == 1
    assert "other: Cos 'c'" in str(report)


def text_of(report: Report, part: object) -> str:
    from rich.console import Console

    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(part)
    return capture.get()


def test_times_and_statistics() -> None:
    slow = PassReport("slow", matched=7, rewritten=3, edits=9, nodes=(5, 4), seconds=3.0)
    fast = PassReport("fast", skipped={"why": [f"n{k}" for k in range(9)]}, seconds=1.0)
    report = Report(passes=[fast, slow], seconds=5.0)
    rows = text_of(report, times(report)).split()
    assert rows.index("slow") < rows.index("fast")
    assert "60.0" in rows and "20.0" in rows
    counts = text_of(report, statistics(report))
    assert "5 -> 4" in counts
    assert "fast: why: n0, n1, n2, n3, n4, n5, n6, n7, n8" in counts


def test_verbose_shows_every_layer() -> None:
    report = Report(fidelity=Fidelity(layers=[layer(f"l{k}", 0.1) for k in range(9)]))
    assert text_of(report, body(report)).count("Conv") == 5
    assert text_of(report, body(report, 9)).count("Conv") == 9
