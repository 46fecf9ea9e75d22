"""Quantize a model from Python: everything the command line does, on objects."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir import DataError, Graph, PtqError, UsageError, load, save
from ..ir.blas import one_thread
from ..ir.clone import clone
from ..ir.evaluate import THREADS
from ..ir.external import spilling
from ..ir.memory import limited, parse_size
from ..ir.onnx_io import is_external
from ..ir.samples import Samples, open_samples, random_samples
from ..ir.shapes import type_outputs
from ..ir.target import DEFAULT as DEFAULT_TARGET
from ..ir.target import Target, find_target
from ..ir.timings import read_timings
from ..passes import Context, Instruments, Pass, Pipeline
from ..passes.base import Progress, examples, no_progress
from ..passes.hold import Attempt
from ..passes.metric import Run
from ..passes.pipeline import Hook
from ..passes.quantized import ALREADY
from ..passes.reconstruct import FEW_BITS
from ..passes.registry import DATA_FREE, DEFAULT, without_data
from ..passes.select import selects
from .asked import Asked
from .bisect import Stages
from .bisect import bisect as find_culprit
from .checks import check_patterns, check_source
from .cluster import working
from .fidelity import Reference
from .graph_view import GraphView
from .report import Decision, Fidelity, OutputFidelity, Report, conversions, weight_bytes
from .timing import timing

if TYPE_CHECKING:
    import onnx
    from rich.console import RenderableType

log = logging.getLogger("ptq_opt")

HELD_BACK = 8
"""Samples kept from calibration to judge the result by."""
ENOUGH = 20
"""With fewer samples than this calibration gets all of them."""
NO_DATA = (
    "there is no calibration data: ranges come from made-up noise, so the result is good for "
    "trying speed and not for use; give --data (or data=...)"
)
WITHOUT_DATA = (
    "quantized without data: ranges come from the statistics of BatchNormalization, which know "
    "nothing of outliers, of how channels depend on each other, nor of the model's inputs (what "
    "reads these stays in float); biases are corrected by predicted means, unjudged; the result "
    "was not compared with the float model. A hundred samples (--data) do better on each count"
)
STORED = (
    "no data: weights are stored as the integers nearest to them, and the result was not compared "
    "with the float model; some samples (--data) show what it costs"
)
ENDS = "is:end=int8"
"""Added to weights of few bits, see docs/command-line.md."""
FAR_FROM_FLOAT = "far from the float model's"
MADE_UP = 16
"""Random samples when there is no data: more would not make their ranges any truer."""


@dataclass(repr=False)
class Result:
    """A quantized model; shows its report, in a notebook too.

    Attributes:
        graph: the model as a graph.
        report: what was done and what it cost; prints as a table.
    """

    graph: Graph
    report: Report

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The model as ONNX."""
        return save(self.graph)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a file."""
        save(self.graph, path)

    def __rich__(self) -> RenderableType:
        """The report's end table."""
        return self.report.__rich__()

    def __str__(self) -> str:
        """The report's end table as plain text."""
        return str(self.report)

    def __repr__(self) -> str:
        """One line."""
        return repr(self.report).replace("<Report of", "<Result:")

    def _repr_html_(self) -> str:
        """The report in a notebook."""
        return self.report._repr_html_()


@dataclass(frozen=True)
class Data:
    """The samples of a run.

    Attributes:
        learn: what calibration and corrections see.
        judge: what the result is compared with float on.
        unseen: True when the two share no sample.
        source: what they are, for the report.
    """

    learn: Samples
    judge: Samples
    unseen: bool
    source: str

    @staticmethod
    def open(data: Any, graph: Graph, count: int, seed: int) -> Data:
        """Take `count` samples of `data` to learn from, and some more (or of these) to judge by."""
        if data is None:
            log.warning(NO_DATA)
            learn = random_samples(graph.inputs, min(count, MADE_UP), seed)
            judge = random_samples(graph.inputs, min(count, HELD_BACK), seed + 1)
            return Data(learn, judge, True, "made-up noise")
        every = open_samples(data, graph.inputs, count + HELD_BACK)
        n = len(every)
        held = min(HELD_BACK, max(n - count, n // 10 if n >= ENOUGH else 0))
        learn, judge = every.split(max(n // held, 2)) if held else (every, every.head(HELD_BACK))
        return Data(learn.head(count), judge, held > 0, _describe(data, "data in memory"))


def quantize(
    model: str | os.PathLike[str] | onnx.ModelProto | Any,
    data: Any = None,
    *,
    passes: str | Sequence[Pass | str] | None = None,
    target: str | os.PathLike[str] | Target = DEFAULT_TARGET,
    weights: str | None = None,
    activations: str | None = None,
    layer_weights: Sequence[str] = (),
    costs: str | os.PathLike[str] | None = None,
    samples: int = 300,
    data_free: bool = False,
    exclude: Sequence[str] = (),
    metric: str | Callable[[Run], float] | None = None,
    max_drop: float | None = None,
    lower_is_better: bool = False,
    min_sqnr: float | None = None,
    seed: int = 0,
    threads: int = 0,
    time_result: bool = False,
    bisect: bool = False,
    workers: int = 1,
    cluster: str | None = None,
    work: str | os.PathLike[str] | None = None,
    memory: str | int | None = None,
    instruments: Instruments | None = None,
    progress: Progress = no_progress,
    calibration_data_reader: Any = None,
    nodes_to_exclude: Sequence[str] = (),
) -> Result:
    """Quantize a float model.

    Args:
        model: path of an ONNX file, a ModelProto, or an onnx-graphsurgeon Graph; none is changed.
        data: calibration samples: a folder of .npz files (one sample each, keys are the names of
            the model's inputs), any iterable of `{input name: array}`, and more, see
            `ptq_opt.ir.samples.open_samples`. None: made-up samples, for trials only.
        passes: the pipeline, "align,bias{samples=64},quant" or a list of passes; what they need
            is added. None: the default pipeline, or the one for data_free.
        target: name of a target, or path of a TOML file that describes one.
        weights: how to store them instead of the target's way: "int8", "int4:block=32",
            "uint4", "none" (float) ..., see `ptq_opt.ir.grid_rule`.
        activations: the same: "uint8", "int16", "none" (only weights are stored as integers) ...
        layer_weights: how some layers store their weights instead, "PATTERN=TYPE": a pattern as for
            `exclude`, a type as for `weights`; the first that fits counts. With `weights` of 4 bits
            or fewer "is:end=int8" is added: the first and the last layers have 8.
        costs: file of times made by `ptq-opt cost`; without it the target's rough ones hold.
        samples: use at most this many, spread over the data; up to 8 more are used to judge the
            result, or some of these are held back for it.
        data_free: use no samples, not even made-up ones: ranges and means follow from the
            model's BatchNormalization. So it is without data when activations stay in float.
        exclude: nodes to keep in float: regular expressions searched in node names, "op:TYPE", or
            "is:end" and "is:depthwise", see `passes/select.py`.
        metric: `function(run) -> float`, or "module:function", where `run(feeds)` gives the outputs
            of a model: operators go back to float until its value is at most `max_drop` worse.
        max_drop: in the metric's own unit; 0.01 when left out.
        lower_is_better: the metric is an error.
        min_sqnr: without a metric, the signal to noise ratio in dB that every output must have on
            samples held back; 0 for none. Left out: 10 for the default pipeline, none for others.
        seed: of every random choice.
        threads: of one operator when samples are run; 0 for one per core.
        time_result: time the result and the float model for the report, where the target's engine
            is installed.
        bisect: tell which pass, then which layer, takes the metric beyond what is allowed.
        workers: processes on this machine that share samples, operators and trials.
        cluster: the same by Dask: "tcp://host:port" of a scheduler, or "local:N".
        work: folder that keeps finished results, so that a run that was stopped goes on.
        memory: most that this process may allocate: bytes, or "4GB", "512MiB"; Linux only.
        instruments: what to check and call around every pass.
        progress: shows the advance of long steps.
        calibration_data_reader: onnxruntime's name of `data`.
        nodes_to_exclude: onnxruntime's way to exclude: names of nodes.

    Raises:
        UsageError: an argument is wrong.
        ModelError: the model is damaged, quantized already, or cannot be run.
        DataError: a sample does not fit the model; the metric fails or cannot be held.
        PassError: a pass failed.
        OutOfMemory: what is needed is beyond `memory`, or beyond the machine.
    """
    start = time.perf_counter()
    if data is not None and calibration_data_reader is not None:
        raise UsageError("data and calibration_data_reader are two names of one thing: give one")
    data = calibration_data_reader if data is None else data
    data_free = without_data(data, activations, data_free)
    if samples < 1:
        raise UsageError(f"samples must be at least 1, not {samples}")
    if data_free and data is not None:
        raise UsageError("a data-free run takes no data: give one of the two")
    pipeline = Pipeline(passes if passes is not None else DATA_FREE if data_free else DEFAULT)
    goal = storing(find_target(target), weights, activations, layer_weights)
    if costs is not None:
        goal = replace(goal, timings=read_timings(Path(costs)))
    asked = Asked.of(metric, max_drop, lower_is_better, min_sqnr, pipeline)
    if bisect and asked.metric is None:
        raise UsageError("--bisect needs a --metric")
    facts = {fact for step in pipeline.resolve() for fact in step.run.establishes}
    context = Context(goal, metric=asked.metric, seed=seed, progress=progress)
    context.exclude = (*exclude, *(f"^{re.escape(name)}$" for name in nodes_to_exclude))
    with ExitStack() as stack:
        if memory is not None:
            stack.enter_context(limited(parse_size(memory)))
        with progress("load", None):
            graph = load(model)
            type_outputs(graph)
            check_patterns(graph, context.exclude, "--exclude")
            check_patterns(graph, [pattern for pattern, _ in goal.layers], "--layer-weights")
            if "quantized" in facts:
                check_source(graph)
        report = Report(_describe(model, "model in memory"), goal.name, pipeline.spec, seed=seed)
        size, nodes = weight_bytes(graph), len(graph)
        stack.callback(THREADS.reset, THREADS.set(threads))
        stack.enter_context(one_thread())
        stack.enter_context(working(workers, cluster, work, threads or 1))
        reference = None
        if data is not None or ("ranges" in facts and not data_free):
            found = Data.open(data, graph, samples, seed)
            stack.callback(found.learn.close)
            context.samples = found.learn
            report.data, report.samples = found.source, len(found.learn)
            with progress("run in float", None):
                reference = _run_in_float(graph, found, made_up=data is None)
        elif data_free:
            report.data = "none, data-free"
        if is_external(graph):
            stack.enter_context(spilling())
        drop, source = asked.goal(graph), clone(graph)[0]

        def attempt(pipeline: Pipeline, graph: Graph, *after: Hook) -> Attempt:
            tools = _remembering(instruments, reference)
            tools = replace(tools, after=(*tools.after, *after))
            return Attempt.run(pipeline, graph, replace(context, results={}), tools)

        stages = Stages()
        made = attempt(pipeline, graph, *[stages.add] * bisect)
        if bisect:
            assert drop is not None
            with progress("find what costs the metric", None):
                report.culprit = find_culprit(stages, made.unplanned, drop)
        with progress("hold the accuracy", None):
            judge = None if data is None else reference
            made, report.accuracy = asked.hold(
                made, drop, judge, lambda other: attempt(other, clone(source)[0])
            )
        graph, context, report.passes = made.graph, made.context, made.reports
        with progress("compare with float", None):
            none = Fidelity(missing="there are no samples")
            report.fidelity = reference.compare(graph) if reference else none
        if time_result:
            with progress("time the result", None):
                feeds = next(iter(reference.judge)) if reference else None
                report.timing = timing(source, graph, goal, feeds)
    report.decisions = [Decision(**entry) for entry in context.results.get("plan", ())]
    for topic in ("sensitivity", "islands", "bits", "predicted_us"):
        setattr(report, topic, context.results.get(topic, {}))
    report.graph, report.conversions = GraphView.of(graph), conversions(graph)
    report.weight_bytes, report.nodes = (size, weight_bytes(graph)), (nodes, len(graph))
    report.warnings = _warnings(report, graph, context.exclude, made_up=data is None)
    report.warnings += context.results.get("calibrate", {}).get("not_finite", [])
    if data_free and "ranges" in facts:
        report.warnings.append(STORED if goal.activations is None else WITHOUT_DATA)
    report.seconds = time.perf_counter() - start
    return Result(graph, report)


def storing(
    target: Target, weights: str | None, activations: str | None, layers: Sequence[str]
) -> Target:
    """The target with the grids asked for; where few bits are, the ends get 8."""
    asked = target.storing(weights, activations, layers)
    few = asked.weights is not None and asked.weights.dtype.bits <= FEW_BITS
    return target.storing(weights, activations, (*layers, ENDS)) if weights and few else asked


def _run_in_float(graph: Graph, data: Data, *, made_up: bool) -> Reference:
    """Run the source model; what fails on made-up samples may be their fault."""
    try:
        return Reference(graph, data.judge, data.unseen)
    except PtqError as error:
        if not made_up:
            raise
        raise DataError(
            f"made-up samples do not suit the model: {error}; give --data (or data=...)"
        ) from error


def _remembering(instruments: Instruments | None, reference: Reference | None) -> Instruments:
    """Let the reference keep the float graph whose ranges were just learned."""
    given = instruments or Instruments()
    if reference is None:
        return given

    def remember(done: Pass, graph: Graph) -> None:
        if "ranges" in done.establishes:
            reference.remember(graph)

    return replace(given, after=(*given.after, remember))


def _warnings(report: Report, graph: Graph, exclude: Sequence[str], *, made_up: bool) -> list[str]:
    found = []
    left = [node for node in graph if node.precision == "float"]
    for pattern in exclude if report.decisions else ():
        if not any(selects(pattern, node) for node in left):
            found.append(
                f"--exclude '{pattern}' keeps nothing in float: the operators it selects have "
                "become part of others, exclude these"
            )
    kept = [f"{d.op} '{d.node}'" for d in report.decisions if d.reason == ALREADY]
    if kept:
        found.append(
            f"{len(kept)} operators are quantized already ({examples(kept)}): they stay as they "
            "are, and what the result loses is told against the model with them"
        )
    if made_up and report.samples:
        found.append(NO_DATA)
    if report.decisions and not any(d.quantized for d in report.decisions):
        found.append("nothing was quantized: every operator has to stay in float, see the reasons")
    if report.samples and not report.fidelity.outputs:
        found.append(f"the result was not compared with float: {report.fidelity.missing}")
    return found + [_far(output) for output in report.fidelity.outputs if not output.is_close]


def _far(output: OutputFidelity) -> str:
    how = f"{100 * output.equal:.0f} % of its elements are equal"
    if output.sqnr_db is not None:
        how = f"{output.sqnr_db:.1f} dB"
    return (
        f"output '{output.name}' is {FAR_FROM_FLOAT} ({how}): judge by a metric of your own, keep "
        "more in float (--exclude, --min-sqnr), or give more bits (--activations=int16)"
    )


def _describe(source: Any, otherwise: str) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else otherwise
