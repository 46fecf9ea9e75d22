"""`ptq-opt`: the command line."""

from __future__ import annotations

import dataclasses
import json
import logging
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from rich.console import Console
from rich.text import Text

from ..ir import Graph, UsageError, grid_rule
from ..ir.memory import limited, parse_size
from ..ir.spelling import nearest
from ..ir.target import DEFAULT as DEFAULT_TARGET
from ..passes import Instruments, Pass, Pipeline
from ..passes.base import no_progress
from ..passes.registry import DATA_FREE, DEFAULT, without_data
from . import completion, pages
from .commands import COMMANDS, Command
from .config import read_config
from .files import Existing, check_writable, write_text
from .report import Report
from .terminal import leaving, screen

HELP = """Quantize MODEL, a float32 ONNX file, with calibration data.

\b
  ptq-opt model.onnx --data calib/                    writes model.int8.onnx
  ptq-opt model.onnx --data calib/ -o small.onnx --target=tensorrt
  ptq-opt model.onnx --data loader:samples --passes='align,bias{samples=64},quant'
  ptq-opt model.onnx --data-free
  ptq-opt model.onnx --data calib/ --exclude='^head/' --exclude-op=Softmax
  ptq-opt model.onnx -o clean.onnx --passes=canonicalize,fold-bn --print-after=all
  ptq-opt model.onnx --config=ptq.toml --json=report.json

DATA is a folder with one .npz per sample (keys are the names of the model's inputs), one .npz or
.npy of stacked samples, a folder of test_data_set_*, or module:function, which returns any iterable
of {input name: array}.

\b
Other commands; each has --help:
  ptq-opt diff A.onnx B.onnx                          where two models part, layer by layer
  ptq-opt cost MODEL.onnx                             times operators here, for --costs
  ptq-run MODEL.int8.onnx                             runs the result with our own kernels

Exit codes: 0 fine, 1 the model or the data is at fault, 2 the command is.
"""


@dataclass(frozen=True)
class Options:
    """The command line, by the names of its options; see `--help`."""

    model: Path | None
    output: Path | None
    data: str | None
    data_free: bool
    passes: str | None
    target: str
    weights: str | None
    activations: str | None
    layer_weights: tuple[str, ...]
    costs: Path | None
    samples: int
    metric: str | None
    max_drop: float | None
    lower_is_better: bool
    min_sqnr: float | None
    bisect: bool
    explain: tuple[str, ...]
    suggest: bool
    seed: int
    threads: int
    memory: str | None
    workers: int
    cluster: str | None
    work: Path | None
    exclude: tuple[str, ...]
    exclude_op: tuple[str, ...]
    json: Path | None
    report: tuple[Path, ...]
    verify: Literal["none", "structure", "numerics"]
    print_before: tuple[str, ...]
    print_after: tuple[str, ...]
    print_pipeline: bool
    time_passes: bool
    stats: bool
    quiet: bool
    verbose: bool
    debug: bool

    @property
    def patterns(self) -> tuple[str, ...]:
        """What to keep in float."""
        return (*self.exclude, *(f"op:{op}" for op in self.exclude_op))

    def command(self, passes: str) -> str:
        """The command line that does the same with `passes`."""
        words = ["ptq-opt", str(self.model), "-o", str(self.output)]
        words += ["--data", self.data] if self.data else []
        words += ["--data-free"] * self.data_free
        words += [f"--passes={passes}", f"--target={self.target}", f"--samples={self.samples}"]
        words += [f"--weights={self.weights}"] if self.weights else []
        words += [f"--activations={self.activations}"] if self.activations else []
        words += [f"--layer-weights={text}" for text in self.layer_weights]
        words += [f"--costs={self.costs}"] if self.costs else []
        words += [f"--metric={self.metric}"] if self.metric else []
        words += [f"--max-drop={self.max_drop:g}"] if self.max_drop is not None else []
        words += ["--lower-is-better"] if self.lower_is_better else []
        words += [f"--min-sqnr={self.min_sqnr:g}"] if self.min_sqnr is not None else []
        words += ["--bisect"] * self.bisect
        words += [f"--seed={self.seed}"] if self.seed else []
        words += [f"--threads={self.threads}"] if self.threads else []
        words += [f"--exclude={pattern}" for pattern in self.patterns]
        return shlex.join(words)


def list_passes(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    """Print every pass and leave."""
    if wanted:
        from .listing import passes

        screen().print(passes())
        context.exit()


def list_targets(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    """Print every target and leave."""
    if wanted:
        from .listing import targets

        screen().print(targets())
        context.exit()


def configure(context: click.Context, _option: click.Parameter, path: Path | None) -> None:
    """Let a configuration file give what the command line does not."""
    if path is not None:
        known = [field.name.replace("_", "-") for field in dataclasses.fields(Options)]
        try:
            context.default_map = read_config(path, known)
        except UsageError as error:
            raise click.UsageError(str(error)) from None


Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def _listing(
    name: str, callback: Callable[..., None], text: str
) -> Callable[[Decorated], Decorated]:
    return click.option(
        name, is_flag=True, is_eager=True, expose_value=False, callback=callback, help=text
    )


def _printing(name: str) -> Callable[[Decorated], Decorated]:
    return click.option(
        name,
        metavar="PASS|all",
        multiple=True,
        shell_complete=completion.one_pass,
        help="Print the graph (stderr).",
    )


FILE = click.Path(path_type=Path)
EXISTING = Existing()


@click.command(
    cls=Command,
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument(
    "model", type=Existing(COMMANDS), required=False, shell_complete=completion.model_or(COMMANDS)
)
@click.option("-o", "--output", type=FILE, help="Write here; default MODEL.int8.onnx.")
@click.option(
    "--data",
    metavar="DATA",
    shell_complete=completion.files,
    help="Calibration data; without it ranges are made up.",
)
@click.option("--data-free", is_flag=True, help="Use no samples: ranges from BatchNormalization.")
@click.option("--samples", default=300, show_default=True, help="Use at most N samples.")
@click.option(
    "--config",
    type=EXISTING,
    is_eager=True,
    expose_value=False,
    callback=configure,
    help="TOML or JSON file with options by these names; the command line has precedence.",
)
@click.option(
    "--passes",
    shell_complete=completion.pipeline,
    help="Pipeline; what passes need is added to it.",
)
@click.option(
    "--target",
    default=DEFAULT_TARGET,
    show_default=True,
    shell_complete=completion.targets,
    help="Name or TOML file.",
)
@click.option(
    "--weights",
    metavar="TYPE[:OPTIONS]",
    shell_complete=completion.dtypes(grid_rule.WEIGHTS),
    help="int8, int4:block=32, uint4, none ...",
)
@click.option(
    "--activations",
    metavar="TYPE",
    shell_complete=completion.dtypes(grid_rule.ACTIVATIONS),
    help="uint8, int8, int16, uint16, none.",
)
@click.option(
    "--layer-weights",
    metavar="REGEX=TYPE",
    multiple=True,
    help="--weights of nodes whose name matches.",
)
@click.option(
    "--exclude", metavar="REGEX", multiple=True, help="Keep nodes in float whose name matches."
)
@click.option(
    "--exclude-op", metavar="TYPE", multiple=True, help="Keep all operators of this type in float."
)
@click.option("--costs", type=EXISTING, help="Times made by ptq-opt cost.")
@click.option("--metric", metavar="MODULE:FUNCTION", help="function(run) -> float, to be kept.")
@click.option("--max-drop", type=float, help="By how much the metric may drop; default 0.01.")
@click.option("--lower-is-better", is_flag=True, help="The metric is an error.")
@click.option("--min-sqnr", type=float, help="dB every output must have; 0: any. Default 10.")
@click.option(
    "--report", type=FILE, multiple=True, help="Write it as a page (.html), or for reviews (.md)."
)
@click.option("--json", type=FILE, help="Write the report here.")
@click.option("--explain", metavar="NODE", multiple=True, help="Print all that is known of NODE.")
@click.option("--suggest", is_flag=True, help="Print commands that may do better.")
@click.option("--bisect", is_flag=True, help="Tell which pass, then which layer costs the metric.")
@click.option("-v", "--verbose", is_flag=True, help="Print every layer.")
@click.option("-q", "--quiet", is_flag=True, help="Print answers and errors only.")
@click.option("--seed", default=0, help="Where random choices begin.")
@click.option("--threads", default=0, help="Of one operator; 0 for one per core.")
@click.option("--memory", metavar="SIZE", help="Stay within 4GB, 512MiB ... of memory, or end.")
@click.option("--workers", default=1, help="Processes on this machine that share the work.")
@click.option("--cluster", metavar="ADDRESS", help="Dask's workers instead: tcp://..., local:N.")
@click.option("--work", metavar="DIR", type=FILE, help="Keep results here; a killed run goes on.")
@_listing("--list-passes", list_passes, "Print all passes with their options and exit.")
@_listing("--list-targets", list_targets, "Print all targets and exit.")
@click.option("--print-pipeline", is_flag=True, help="Print the full pipeline and exit.")
@_printing("--print-before")
@_printing("--print-after")
@click.option(
    "--verify",
    type=click.Choice(["none", "structure", "numerics"]),
    default="structure",
    show_default=True,
    help="Check the graph after each pass; also that outputs stay where a pass promises that.",
)
@click.option("--stats", is_flag=True, help="Print what each pass matched, rewrote and declined.")
@click.option("--time-passes", is_flag=True, help="Print where the time went.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="ptq-opt")
def main(**values: Any) -> None:
    """Parse, run, and turn errors into one message and an exit code."""
    options = Options(**values)
    with leaving("ptq-opt", debug=options.debug):
        run(options)


def run(options: Options) -> None:
    """Do what the command line says."""
    no_data = without_data(options.data, options.activations, options.data_free)
    pipeline = Pipeline(options.passes or (DATA_FREE if no_data else DEFAULT))
    if options.print_pipeline:
        click.echo(pipeline.spec)
        return
    if options.model is None:
        raise UsageError("which model? Usage: ptq-opt MODEL.onnx --data DATA; see --help")
    kind = (options.weights or "int8").partition(":")[0]
    output = options.output or options.model.with_suffix(f".{kind}.onnx")
    if output.exists() and output.samefile(options.model):
        raise UsageError(f"the output '{output}' is the model itself: name another file")
    for path in (output, options.json):
        if path is not None:
            check_writable(path)
    for path in options.report:
        pages.check(path)
    with limited(None if options.memory is None else parse_size(options.memory)):
        _quantize(dataclasses.replace(options, output=output), pipeline, output)


def _quantize(options: Options, pipeline: Pipeline, output: Path) -> None:
    from .api import quantize
    from .progress import Bars

    errors = Console(stderr=True)
    progress = no_progress if options.quiet else Bars(errors)
    with _warnings(errors, options.quiet):
        result = quantize(
            options.model,
            options.data,
            passes=pipeline.items,
            target=options.target,
            weights=options.weights,
            activations=options.activations,
            layer_weights=options.layer_weights,
            costs=options.costs,
            samples=options.samples,
            data_free=options.data_free,
            exclude=options.patterns,
            seed=options.seed,
            threads=options.threads,
            workers=options.workers,
            cluster=options.cluster,
            work=options.work,
            metric=options.metric,
            max_drop=options.max_drop,
            lower_is_better=options.lower_is_better,
            min_sqnr=options.min_sqnr,
            time_result=bool(options.report),
            bisect=options.bisect,
            instruments=_instruments(options, pipeline, errors),
            progress=progress,
        )
    result.report.command = options.command(result.report.pipeline)
    with progress("save", None):
        result.save(output)
    if options.json is not None:
        write_text(options.json, json.dumps(result.report.as_dict(), indent=1) + "\n")
    for path in options.report:
        result.report.save(path)
    _print(options, result.report, output)


@contextmanager
def _warnings(console: Console, quiet: bool) -> Iterator[None]:
    """Print what the package warns of to `console`, unless `quiet`."""

    class Printer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = Text(f"ptq-opt: warning: {record.getMessage()}", style="bold yellow")
            console.print(text, soft_wrap=True)

    log = logging.getLogger("ptq_opt")
    propagate = log.propagate
    log.propagate = False
    handler = logging.NullHandler() if quiet else Printer()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagate


def _print(options: Options, report: Report, output: Path) -> None:
    from . import printing

    if not options.quiet:
        printing.show(
            report, verbose=options.verbose, times=options.time_passes, statistics=options.stats
        )
    printing.answer(report, explain=options.explain, suggest=options.suggest)
    if not options.quiet:
        printing.close(report, filter(None, (output, options.json, *options.report)))


def _instruments(options: Options, pipeline: Pipeline, errors: Console) -> Instruments:
    known = [step.run.name for step in pipeline.resolve()]
    for name in (*options.print_before, *options.print_after):
        if name not in (*known, "all"):
            raise UsageError(f"the pipeline has no pass '{name}'{nearest(name, known)}")

    def printer(when: str, wanted: Sequence[str]) -> list[Callable[[Pass, Graph], None]]:
        def show(item: Pass, graph: Graph) -> None:
            if item.name in wanted or "all" in wanted:
                from ..ir.text import print_graph

                errors.out(f"; {when} {item.spec}\n{print_graph(graph)}", highlight=False)

        return [show] if wanted else []

    return Instruments(
        verify=options.verify,
        before=printer("before", options.print_before),
        after=printer("after", options.print_after),
        reproducer=lambda spec: f"it fails the same way with:\n  {options.command(spec)}",
    )


if __name__ == "__main__":
    main()
