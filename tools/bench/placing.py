"""``python -m ptq_opt.tools.bench.placing``: is what is placed for an engine the fastest in it?

For every model the file that ``islands`` places with measured costs is timed beside the float
model, the one in integers wherever there is a kernel, and those of other quantizers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from ...ir import Graph, load, save
from ...ir.engines import latencies
from ...ir.target import Target, find_target
from ...passes.deployed import deployed
from ...passes.islands import Islands
from ...passes.plan import annotate, candidates, clear
from .cases import Case, find_cases
from .options import of_cases, of_peers, of_timing, write_rows
from .quantizers import DEFAULT_PEERS, run_peer
from .ranking import prepared
from .speed import conversions_left
from .verdict import NOISE

FLOAT, INTEGER, PLACED = "float", "all in integers", "placed"


@dataclass
class Placed:
    """Files of one model.

    Attributes:
        model: its name.
        kept: which of the three `islands` kept.
        milliseconds: by file.
        conversions: QuantizeLinear and DequantizeLinear that ONNX Runtime cannot fuse, by file.
        errors: of other quantizers.
    """

    model: str
    kept: str = ""
    milliseconds: dict[str, float] = field(default_factory=dict)
    conversions: dict[str, tuple[int, int]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def misses(self) -> list[str]:
        """Files that are faster than the placed one, but for noise."""
        ours = self.milliseconds[PLACED]
        return [name for name, time in self.milliseconds.items() if ours > NOISE * time]

    def __str__(self) -> str:
        """One line."""
        times = ", ".join(
            f"{name} {time:.2f} ms"
            + (" ({} Q, {} DQ)".format(*self.conversions[name]) if name in self.conversions else "")
            for name, time in self.milliseconds.items()
        )
        behind = f"  slower than {', '.join(self.misses)}" if self.misses else ""
        return f"{self.model}: {times}; kept {self.kept}{behind}"


def measure(
    case: Case, target: Target, peers: Sequence[str], python: Path, seconds: float
) -> Placed:
    """Place one model and time all its files in turn."""
    found = Placed(case.name)
    graph, context = prepared(case, target)
    units, spans = candidates(graph, context)
    for unit in units:
        unit.integer = not unit.reason
    annotate(units, spans, context.target)
    graphs: dict[str, Graph] = {FLOAT: load(case.model), INTEGER: deployed(graph, target)}
    clear(graph)
    Islands(seconds=seconds).run(graph, context)
    found.kept = context.results["islands"]["kept"]
    graphs[PLACED] = deployed(graph, target)
    for peer in peers:
        outcome = run_peer(peer, case, python)
        if outcome.file is None:
            found.errors[peer] = outcome.error
        else:
            graphs[peer] = load(outcome.file)
    assert context.samples is not None
    feeds = next(iter(context.samples))
    taken = latencies(target.engine, graphs, feeds, threads=1, seconds=2 * seconds)
    found.milliseconds = {name: time / 1e6 for name, time in taken.items()}
    with tempfile.TemporaryDirectory() as folder:
        for name in (INTEGER, PLACED):
            path = Path(folder) / "model.onnx"
            save(graphs[name], path)
            found.conversions[name] = conversions_left(path)
    return found


@click.command()
@of_cases("topology/")
@of_peers(DEFAULT_PEERS)
@of_timing(10.0)
def main(
    zoo: Path | None,
    models: str,
    cache: Path,
    json_file: Path | None,
    peers: str,
    peer_python: Path,
    target: str,
    seconds: float,
) -> None:
    """Time placed files beside the others, model by model."""
    rows: list[Placed] = []
    chosen = [peer for peer in peers.split(",") if peer]
    for case in find_cases(zoo, cache, models):
        rows.append(measure(case, find_target(target), chosen, peer_python, seconds))
        show(rows[-1])
        write_rows(json_file, rows)


def show(row: Placed) -> None:
    """Print what was measured."""
    click.echo(str(row))
    for peer, error in row.errors.items():
        click.echo(f"  {peer}: {error}")


if __name__ == "__main__":
    main()
