"""What was measured, as Markdown."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from .measure import Budget, Cell
from .variants import PLACES, Technique

LONGEST = 120
"""Characters that are shown of an error."""


@dataclass(frozen=True)
class Found:
    """One model under one scheme.

    Attributes:
        model: name.
        scheme: name.
        metric: name of the score.
        float_score: of the float model on the same samples.
        cells: pipeline -> what it did; those not measured are missing.
        budget: samples.
    """

    model: str
    scheme: str
    metric: str
    float_score: float
    cells: Mapping[str, Cell]
    budget: Budget


HEAD = """# Ablation

What each technique gains alone and in the default pipeline, on trained models. `make ablation`
writes this file.

| | |
|---|---|
| measured | {first} to {last} |
| command | `{command}` |
| machine | {machine}, ONNX Runtime {runtime}; sums of products are exact |
| samples | per model as its table says: to learn from + to score with; they share none |

Alone: beside nothing but

    {plain}

where a technique is added, or takes the place of the pass of its name.
{places}
In the default: the default pipeline,

    {default}

with it against the same without it. SQNR is the energy of an output over that of its error, in dB,
pooled over the samples. Techniques in **bold** are in the default pipeline, the others are off by
default: they gain on few models, or cost more than they gain. What has a `?` was not measured (one
cell of `tune`, `round` or `clip` can take as long as all others of its model), and the median is of
the others. What is there is not measured again unless asked for, so some cells are older than the
last change of their technique. Seconds are of the whole quantization on a machine that did other
work too, at times many times as long as alone. With so few samples some tenths of a dB are chance,
and so are single views of a metric.
"""


def document(found: Sequence[Found], techniques: Sequence[Technique], command: str) -> str:
    """The whole file."""
    dates = sorted(cell.date for each in found for cell in each.cells.values())
    parts = [
        HEAD.format(
            first=dates[0],
            last=dates[-1],
            command=command,
            machine=f"{platform.machine()}, {processor()}",
            runtime=ort.__version__,
            plain=techniques[0].alone[0],
            default=default_of(techniques),
            places="\n".join(
                f"`{name}` takes the place of {', '.join(f'`{each}`' for each in replaced)}."
                for name, replaced in PLACES.items()
            ),
        )
    ]
    for scheme in dict.fromkeys(each.scheme for each in found):
        rows = [each for each in found if each.scheme == scheme]
        title = "Gain in mean SQNR over the outputs, dB: alone / in the default."
        parts.append(f"## {scheme}\n\n{title}\n\n{gains(rows, techniques)}")
        parts += [details(each, techniques) for each in rows]
    return "\n".join(parts)


def gains(rows: Sequence[Found], techniques: Sequence[Technique]) -> str:
    """One row per technique, one column per model and one of their medians."""
    names = [each.model for each in rows]
    body = []
    for technique in techniques:
        name = f"**`{technique.name}`**" if technique.default else f"`{technique.name}`"
        both = [[gain(each, pair) for each in rows] for pair in (technique.alone, technique.beside)]
        for column in both:
            known = [each for each in column if each is not None and np.isfinite(each)]
            column.append(float(np.median(known)) if known else None)
        body.append([name, *(" / ".join(map(signed, cells)) for cells in zip(*both, strict=True))])
    return table(["technique", *names, "median"], body)


def gain(found: Found, pair: tuple[str, str]) -> float | None:
    """Difference of two pipelines in mean SQNR; no number where one fails, None if not measured."""
    without, with_it = (found.cells.get(each) for each in pair)
    return None if without is None or with_it is None else with_it.mean_db - without.mean_db


def signed(difference: float | None) -> str:
    """A gain as it is shown."""
    if difference is None:
        return "?"
    return "fails" if np.isnan(difference) else f"{difference:+.1f}"


def details(found: Found, techniques: Sequence[Technique]) -> str:
    """Every pipeline of one model."""
    first = techniques[0]
    default = default_of(techniques)
    named = {first.alone[0]: "nothing"}
    named |= {each.alone[1]: f"`{each.name}`" for each in techniques}
    named[default] = "default"
    for each in techniques:
        other = each.beside[0] if each.default else each.beside[1]
        named[other] = f"default {'without' if each.default else 'with'} `{each.name}`"
    body = [row(title, found.cells[key]) for key, title in named.items() if key in found.cells]
    head = [
        f"{found.model}, {found.budget.learn} + {found.budget.test} samples",
        "worst dB",
        "mean dB",
        f"{found.metric} (float {found.float_score:.3f})",
        "seconds",
    ]
    return table(head, body)


def default_of(techniques: Sequence[Technique]) -> str:
    """The default pipeline, which all of them are measured beside."""
    return techniques[0].beside[techniques[0].default]


def row(title: str, cell: Cell) -> list[str]:
    """One pipeline."""
    if cell.error or cell.score is None or cell.seconds is None:
        return [title, f"fails: {cell.error.replace('|', '/')[:LONGEST]}", "", "", ""]
    numbers = [f"{cell.worst_db:.1f}", f"{cell.mean_db:.1f}", f"{cell.score:.3f}"]
    return [title, *numbers, f"{cell.seconds:.0f}"]


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def processor() -> str:
    """Name of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [text.split(":")[1].strip() for text in file if text.startswith("model name")]
    except OSError:
        names = []
    return f"{len(names)} x {names[0]}" if names else platform.processor()
