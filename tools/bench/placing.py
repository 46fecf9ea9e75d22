"""``python -m ptq_opt.tools.bench.placing``: is what is placed for an engine the fastest in it?

For every model the file that ``islands`` places with measured costs is timed beside the float
model, the one in integers wherever there is a kernel, and those of other quantizers. ``--stage``
makes the files while the machine is busy, and times them when it is not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from ...ir import Graph, load, save
from ...ir.engines import Session, interleaved, opened
from ...ir.target import Target, find_target
from ...passes import Context
from ...passes.deployed import deployed, deployed_choice
from ...passes.islands import Islands
from ...passes.plan import candidates, clear
from ..report import conversions
from .cases import Case, find_cases
from .options import of_cases, of_peers, of_timing, write_rows
from .quantizers import DEFAULT_PEERS, run_peer
from .ranking import prepared
from .speed import conversions_left, first_line
from .verdict import NOISE

FLOAT, INTEGER, PLACED = "float", "all in integers", "placed"
STAGES = ("make", "time")


@dataclass
class Placed:
    """Files of one model.

    Attributes:
        model: its name.
        kept: which of the three `islands` kept.
        milliseconds: by file.
        conversions: QuantizeLinear and DequantizeLinear, by file: those that ONNX Runtime cannot
            fuse, for other engines those between float and integers in the file.
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


@dataclass(frozen=True)
class Placing:
    """The files of one model for one target.

    Attributes:
        case: the model, whose folder keeps the files.
        peers: other quantizers.
        python: has them.
        seconds: of each timing, once every file has run a few times.
    """

    case: Case
    target: Target
    peers: Sequence[str]
    python: Path
    seconds: float

    def file(self, name: str) -> Path:
        """Where a file of ours goes; in `.json`, what was kept."""
        return self.case.folder / f"{self.target.name}-{name.replace(' ', '-')}"

    def make(self) -> None:
        """Write all files: ours anew, those of other quantizers once."""
        graph, context = prepared(self.case, self.target)
        save(self._all_in_integers(graph, context), self.file(INTEGER).with_suffix(".onnx"))
        clear(graph)
        Islands(seconds=self.seconds).run(graph, context)
        placed = deployed(graph, self.target, just_planned=True)
        save(placed, self.file(PLACED).with_suffix(".onnx"))
        self.file(PLACED).with_suffix(".json").write_text(json.dumps(context.results["islands"]))
        for peer in self.peers:
            run_peer(peer, self.case, self.python)

    def _all_in_integers(self, graph: Graph, context: Context) -> Graph:
        units, spans = candidates(graph, context)
        possible = [not unit.reason for unit in units]
        return deployed_choice(graph, units, possible, spans, self.target)

    def time(self) -> Placed:
        """Run the files in turn."""
        told = json.loads(self.file(PLACED).with_suffix(".json").read_text())
        found = Placed(self.case.name, told["kept"])
        ours = {name: self.file(name).with_suffix(".onnx") for name in (INTEGER, PLACED)}
        files = {FLOAT: self.case.model, **ours}
        for peer in self.peers:
            outcome = run_peer(peer, self.case, self.python)
            if outcome.file is None:
                found.errors[peer] = outcome.error
            else:
                files[peer] = outcome.file
        feeds, sessions = self.case.sample(), {}
        for name, file in files.items():
            try:
                session: Session = opened(self.target.engine, file, threads=1)
                session(feeds)
                sessions[name] = session
            except Exception as error:  # the engine's own classes have no common base but this
                found.errors[name] = first_line(error)
        taken = interleaved(sessions, feeds, self.seconds, alone=True)
        found.milliseconds = {name: time / 1e6 for name, time in taken.items()}
        found.conversions = {name: self._conversions(file) for name, file in ours.items()}
        return found

    def _conversions(self, file: Path) -> tuple[int, int]:
        if self.target.engine == "onnxruntime":
            return conversions_left(file)
        left = conversions(load(file))
        return left.quantize + left.requantize, left.dequantize + left.requantize


@click.command()
@of_cases("topology/")
@of_peers(DEFAULT_PEERS)
@of_timing(10.0)
@click.option(
    "--stage",
    "stages",
    type=click.Choice(STAGES),
    multiple=True,
    default=STAGES,
    help="Only make the files, or only time what an earlier run made.",
)
def main(
    zoo: Path | None,
    models: str,
    cache: Path,
    json_file: Path | None,
    peers: str,
    peer_python: Path,
    target: str,
    seconds: float,
    stages: Sequence[str],
) -> None:
    """Time placed files beside the others, model by model."""
    rows: list[Placed] = []
    chosen = [peer for peer in peers.split(",") if peer]
    for case in find_cases(zoo, cache, models):
        placing = Placing(case, find_target(target), chosen, peer_python, seconds)
        if "make" in stages:
            placing.make()
        if "time" in stages:
            rows.append(placing.time())
            show(rows[-1])
            write_rows(json_file, rows)


def measure(
    case: Case, target: Target, peers: Sequence[str], python: Path, seconds: float
) -> Placed:
    """Make the files of one model and time them."""
    placing = Placing(case, target, peers, python, seconds)
    placing.make()
    return placing.time()


def show(row: Placed) -> None:
    """Print what was measured."""
    click.echo(str(row))
    for name, error in row.errors.items():
        click.echo(f"  {name}: {error}")


if __name__ == "__main__":
    main()
