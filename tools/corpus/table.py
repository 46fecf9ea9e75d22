"""The outcomes as a table, and as a text that is compared from day to day."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Mapping

import onnx
import onnxruntime as ort
from rich.table import Table

from .outcome import FLOAT, KINDS, NO_KERNEL, Outcome

USUAL = Outcome(FLOAT, NO_KERNEL).group
"""What becomes of a case that the text does not name."""


def versions() -> str:
    """Of what brings the cases and of what runs them: others have other outcomes."""
    return f"onnx {onnx.__version__}, onnxruntime {ort.__version__}"


def groups(found: Mapping[str, Outcome]) -> dict[str, list[str]]:
    """Names of the cases by `Outcome.group`; kinds in their order, the largest group first."""
    names = defaultdict(list)
    for name, outcome in sorted(found.items()):
        names[outcome.kind, outcome.group].append(name)
    order = sorted(names, key=lambda key: (KINDS.index(key[0]), -len(names[key]), key[1]))
    return {group: names[kind, group] for kind, group in order}


def table(found: Mapping[str, Outcome]) -> Table:
    """For people."""
    made = Table("outcome", "cases", "worst dB", "worst dB native", "for example", box=None)
    for group, names in groups(found).items():
        dbs = [found[name].db for name in names]
        by_kernels = [found[name].native for name in names]
        made.add_row(group, str(len(names)), _worst(dbs), _worst(by_kernels), names[0])
    return made


def _worst(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):.1f}" if known else ""


def write(found: Mapping[str, Outcome]) -> str:
    """The text: every group with the names of its cases, but for the usual one."""
    lines = [versions()]
    for group, names in groups(found).items():
        lines += ["", f"{group} ({len(names)})"]
        if group != USUAL:
            lines += textwrap.wrap(
                " ".join(names), 98, initial_indent="  ", subsequent_indent="  ",
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
    return "\n".join(lines) + "\n"


def read(text: str) -> tuple[str, dict[str, str]]:
    """The versions, and the group of every case that is named."""
    first, *lines = text.splitlines()
    group, named = "", {}
    for line in lines:
        if line.startswith("  "):
            named.update(dict.fromkeys(line.split(), group))
        elif line:
            group = line.rpartition(" (")[0]
    return first, named


def changes(before: str, found: Mapping[str, Outcome]) -> list[str]:
    """A line for every case whose outcome is not the one in the text `write` made."""
    taken, named = read(before)
    lines = [] if taken == versions() else [f"made with {taken}, here is {versions()}"]
    for name, outcome in found.items():
        was = named.get(name, USUAL)
        if outcome.group != was:
            lines.append(f"{name}: {was} -> {outcome.group}")
    return lines
