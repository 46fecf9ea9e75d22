"""One quantized file in three engines: our kernels, ONNX Runtime, OpenVINO, in turn.

``python -m ptq_opt.tools.bench.engines SAMPLE.npz MODEL.onnx...`` measures files alone. With one
thread the clock is processor time, which other work on the machine disturbs little; with more it
is wall time.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import click
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

from ...native.profile import OperatorTime
from ...native.program import Program, compile
from ..profile import profile_native, profile_table
from .cases import Feeds, load
from .quantizers import NOT_INSTALLED
from .speed import MAX_ROUNDS, MIN_ROUNDS, first_line, session_options

NATIVE = "native"
THREADS = (1, 2)
IN_A_ROW = 3
"""Runs of an engine before the next one's: the first finds the caches full of the other's data."""
GOAL = 1.3
"""How many times as fast as the better of the others, as a geometric mean over models."""
SHOWN = 8
"""Operators of a profile that are shown."""

Step = Callable[[], list[float]]


@dataclass
class Race:
    """Median milliseconds of each engine, and why one has none."""

    model: str
    threads: int
    ms: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    profile: list[OperatorTime] = field(default_factory=list)

    @property
    def ratio(self) -> float | None:
        """Time of the better of the others over ours."""
        others = [ms for name, ms in self.ms.items() if name != NATIVE]
        return min(others) / self.ms[NATIVE] if others and NATIVE in self.ms else None


def race(name: str, file: Path, sample: Path, threads: int, seconds: float, python: Path) -> Race:
    """Run one file in all engines, in turn; profile ours where it misses the goal.

    Args:
        name: of the model.
        file: a quantized model.
        sample: ``.npz`` with its inputs.
        threads: of each engine.
        seconds: of all rounds together, once there were a few.
        python: which has OpenVINO, if any does.
    """
    result, feeds = Race(name, threads), load(sample)
    with ExitStack() as stack:
        steps: dict[str, Step] = {}
        program: Program | None = None
        try:
            program = compile(file, threads=threads)
            steps[NATIVE] = _timed(lambda: program.run(feeds), threads)
        except Exception as error:  # a failure is a result
            result.errors[NATIVE] = first_line(error)
        starts: dict[str, Callable[[], Step]] = {
            "onnxruntime": lambda: _onnxruntime(file, feeds, threads),
            "openvino": lambda: _openvino(stack, file, sample, threads, python),
        }
        for engine, start in starts.items():
            try:
                steps[engine] = start()
            except Exception as error:  # engines' own classes have no common base but this
                result.errors[engine] = first_line(error)
        result.ms = _in_turn(steps, seconds)
        if program is not None and (result.ratio or GOAL) < GOAL:
            result.profile = profile_native(program, feeds, MIN_ROUNDS)
    return result


def _timed(run: Callable[[], object], threads: int) -> Step:
    """Several runs, in milliseconds; the first one now, to see whether it works."""
    clock = time.process_time if threads == 1 else time.perf_counter
    run()

    def step() -> list[float]:
        taken = []
        for _ in range(IN_A_ROW):
            start = clock()
            run()
            taken.append(1e3 * (clock() - start))
        return taken

    return step


def _onnxruntime(file: Path, feeds: Feeds, threads: int) -> Step:
    session = ort.InferenceSession(
        file, session_options(threads), providers=["CPUExecutionProvider"]
    )
    return _timed(lambda: session.run(None, feeds), threads)


def _openvino(stack: ExitStack, file: Path, sample: Path, threads: int, python: Path) -> Step:
    """A process that runs the file a few times for each line it is sent."""
    worker = Path(__file__).with_name("openvino_worker.py")
    command = [str(python), str(worker), str(sample), str(threads), "serve", str(file)]
    pipe = subprocess.PIPE
    process = stack.enter_context(
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
    )
    stack.callback(process.terminate)
    assert process.stdin is not None and process.stdout is not None
    source, sink = process.stdin, process.stdout
    error = _answer(process, sink)
    if error is not None:
        raise RuntimeError(error)

    def step() -> list[float]:
        source.write(f"{IN_A_ROW}\n")
        source.flush()
        taken: list[float] = _answer(process, sink)
        return taken

    return step


def _answer(process: subprocess.Popen[str], sink: IO[str]) -> Any:
    line = sink.readline()
    if not line:
        code = process.wait()
        raise RuntimeError("not installed" if code == NOT_INSTALLED else f"ended with {code}")
    return json.loads(line)


def _in_turn(steps: dict[str, Step], seconds: float) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in steps}
    begin = time.perf_counter()
    for count in range(MAX_ROUNDS):
        if count >= MIN_ROUNDS and time.perf_counter() - begin > seconds:
            break
        for name, step in steps.items():
            times[name] += step()
    return {name: statistics.median(taken) for name, taken in times.items()}


def geometric_means(races: Sequence[Race]) -> dict[int, float]:
    """The mean ratio by number of threads."""
    found: dict[int, list[float]] = {}
    for one in races:
        if one.ratio is not None:
            found.setdefault(one.threads, []).append(math.log(one.ratio))
    return {threads: math.exp(statistics.fmean(logs)) for threads, logs in found.items()}


def race_table(races: Sequence[Race]) -> Table:
    """One line per file and number of threads."""
    table = Table(
        "model", "threads", "native, ms", "ONNX Runtime, ms", "OpenVINO, ms", "the better / ours",
        box=None, header_style="bold",
    )  # fmt: skip
    for one in races:
        cells = [
            f"{one.ms[name]:.3f}" if name in one.ms else one.errors.get(name, "")[:40]
            for name in (NATIVE, "onnxruntime", "openvino")
        ]
        table.add_row(one.model, str(one.threads), *cells, f"{one.ratio:.2f}" if one.ratio else "")
    return table


def show(console: Console, races: Sequence[Race]) -> None:
    """The times, and the slowest operators where the goal is missed with one thread."""
    console.print(race_table(races))
    for one in races:
        if one.profile and one.threads == 1:
            console.print(profile_table(one.profile, SHOWN))


@click.command()
@click.argument("sample", type=click.Path(exists=True, path_type=Path))
@click.argument("files", type=click.Path(exists=True, path_type=Path), nargs=-1, required=True)
@click.option("--seconds", default=5.0, show_default=True, help="Timing of one file.")
@click.option("--threads", type=int, multiple=True, default=THREADS, show_default=True)
@click.option("--peer-python", type=click.Path(path_type=Path), default=Path(sys.executable))
def main(
    sample: Path, files: tuple[Path, ...], seconds: float, threads: tuple[int, ...],
    peer_python: Path,
) -> None:  # fmt: skip
    """Time quantized FILES in three engines."""
    console, races = Console(width=140), []
    for file in files:
        found = [race(file.stem, file, sample, n, seconds, peer_python) for n in threads]
        show(console, found)
        races += found
    for count, mean in geometric_means(races).items():
        console.print(f"geometric mean with {count} thread(s): {mean:.2f}")


if __name__ == "__main__":
    main()
