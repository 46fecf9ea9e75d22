"""Times a result beside the float model, in the target's engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..ir import Graph
from ..ir.engines import installed, latencies, machine, version
from ..ir.samples import Feeds
from ..ir.target import Target

SECONDS = 2.0
"""How long it takes, once each model ran five times."""


@dataclass(frozen=True)
class Timing:
    """Microseconds of one inference on one thread.

    Attributes:
        us: of the `placed` model and of that `all in float`, like `Report.predicted_us`.
        where: engine and processor.
        missing: why nothing was timed, "" where it was or nobody asked.
    """

    us: dict[str, float] = field(default_factory=dict)
    where: str = ""
    missing: str = ""


def timing(source: Graph, graph: Graph, target: Target, feeds: Feeds | None) -> Timing:
    """Run `source` and `graph` in turn on one sample, if there is one."""
    if feeds is None:
        return Timing(missing="not timed: there are no samples")
    if not installed(target.engine):
        what = f"{target.engine} is not installed" if target.engine else "no engine runs its files"
        return Timing(missing=f"not timed: {what} here")
    both = {"placed": graph, "all in float": source}
    try:
        found = latencies(target.engine, both, feeds, threads=1, seconds=SECONDS)
    except Exception as error:  # of the engine: the result is good all the same
        return Timing(missing=f"not timed: {error}")
    where = f"{version(target.engine)}, one thread, {machine()}"
    return Timing({name: nanoseconds / 1e3 for name, nanoseconds in found.items()}, where)
