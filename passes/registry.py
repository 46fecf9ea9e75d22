"""Finds passes by name: our own, and third parties' through the entry points `ptq_opt.passes`."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

from ..ir import UsageError
from .base import Pass

GROUP = "ptq_opt.passes"
BUILTIN = {
    "canonicalize": ".canonicalize:Canonicalize",
    "fold-bn": ".fold_bn:FoldBatchNorm",
    "align": ".align:Align",
    "calibrate": ".calibrate:Calibrate",
    "plan": ".plan:Plan",
    "zero-filter": ".zero_filter:ZeroFilter",
    "bias": ".bias:Bias",
    "quant": ".quant:Quantize",
    "cleanup": ".cleanup:Cleanup",
}
"""Name -> module and class, in the order of the default pipeline."""

DEFAULT = "canonicalize,fold-bn,align,calibrate,plan,zero-filter,bias,quant,cleanup"


def third_party() -> dict[str, EntryPoint]:
    """Passes other packages register; `UsageError` names both owners when two clash."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        if entry.name in BUILTIN or entry.name in found:
            other = owner(found[entry.name]) if entry.name in found else "ptq-opt"
            raise UsageError(
                f"two packages register a pass '{entry.name}': {other} and {owner(entry)}; "
                "uninstall one of them"
            )
        found[entry.name] = entry
    return found


def owner(entry: EntryPoint) -> str:
    """The package an entry point comes from."""
    return entry.dist.name if entry.dist else entry.value


def names() -> list[str]:
    """Every pass that can be named, our own first."""
    return [*BUILTIN, *sorted(third_party())]


def find(name: str) -> type[Pass]:
    """The class of pass `name`; `UsageError` with the nearest name when there is none."""
    if name in BUILTIN:
        module, _, attribute = BUILTIN[name].partition(":")
        found = getattr(importlib.import_module(module, __package__), attribute)
    else:
        entry = third_party().get(name)
        if entry is None:
            raise UsageError(f"there is no pass '{name}'{nearest(name, names())}")
        found = entry.load()
    if not (isinstance(found, type) and issubclass(found, Pass)):
        raise UsageError(f"'{name}' is registered as a pass but {found!r} is not a Pass class")
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """What to add to "there is no ..." so that the cure is in sight."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"


def provider(fact: str) -> type[Pass]:
    """The pass of ours that establishes `fact`."""
    for name in BUILTIN:
        candidate = find(name)
        if fact in candidate.establishes:
            return candidate
    raise UsageError(f"no pass establishes '{fact}'")
