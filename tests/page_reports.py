"""Reports for the tests of pages: one of a real run, one with hostile names, one that is large."""

from functools import cache

from small_model import make_samples, small_model

from ptq_opt import Report, quantize
from ptq_opt.passes import Report as PassReport
from ptq_opt.tools.distribution import Distribution
from ptq_opt.tools.graph_view import Edge, GraphView, Operator
from ptq_opt.tools.report import Decision, Fidelity, LayerFidelity, OutputFidelity

HOSTILE = (
    "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>'\"&`|{{7*7}}"
)


@cache
def real() -> Report:
    """Of the small model; its second convolution is kept in float."""
    passes = "bits{size=0.3},sensitivity,quant"
    return quantize(small_model(), make_samples(30), passes=passes, exclude=["second"]).report


def values(clipped: float = 0.0) -> Distribution:
    counts = tuple(1000 // (1 + abs(k - 32)) for k in range(64))
    return Distribution("uint8", 0.05, 10, -0.5, 12.25, -0.7, 14.0, counts, clipped, 0.0, 1e-4, 30)


def hostile() -> Report:
    """Every text that a model or a user gives is an attack."""
    name = HOSTILE
    operators = [
        Operator(name, "input", "", name),
        Operator(name, name, "float", name, (name,), 0),
        Operator(name + "2", "Conv", "integer", "1x2", (name + "t",)),
        Operator(name, "output", ""),
    ]
    edges = [Edge(k, k + 1, name, "uint8, scale 1, zero 0", ("quantize",)) for k in range(3)]
    layer = LayerFidelity(f"Conv '{name}2'", name + "t", 10.0, 30.0, 0.2, values(0.01))
    return Report(
        model=name,
        target=name,
        command=f"ptq-opt {name}",
        data=name,
        samples=3,
        warnings=[name],
        decisions=[Decision(name, name, "float", name), Decision(name + "2", "Conv", "int8")],
        fidelity=Fidelity(3, True, [OutputFidelity(name, 12.0, 0.1)], [layer], name),
        graph=GraphView(operators, edges, 1),
        passes=[PassReport(name, notes=[name], skipped={name: [name]})],
    )


def large(count: int = 1000) -> Report:
    """A chain of residual blocks whose every fourth operator is in float."""
    operators = [Operator("x", "input", "", "1x64x56x56")]
    edges, layers, decisions = [], [], []
    for k in range(1, count + 1):
        name, op = (
            f"/backbone/stage{k // 40}/block{k // 4}/operator_{k}",
            "Conv" if k % 4 else "Add",
        )
        precision = "integer" if k % 16 else "float"
        operators.append(Operator(name, op, precision, "1x64x56x56", (f"{name}_out",)))
        grid = "uint8, scale 0.0123, zero 128" if precision == "integer" else ""
        edges.append(Edge(k - 1, k, f"tensor_{k - 1}", grid, () if k % 16 else ("dequantize",)))
        if k % 4 == 0:
            edges.append(Edge(max(k - 4, 0), k, f"tensor_{k - 4}", grid))
        decisions.append(Decision(name, op, "int8" if k % 16 else "float", "" if k % 16 else "why"))
        layers.append(
            LayerFidelity(f"{op} '{name}'", f"{name}_out", 20.0, 30.0, 1e-5 * (k % 97), values())
        )
    found = Fidelity(8, True, [OutputFidelity("y", 20.0, 0.0)], layers)
    return Report(
        "large", "ort-cpu", decisions=decisions, fidelity=found, graph=GraphView(operators, edges)
    )
