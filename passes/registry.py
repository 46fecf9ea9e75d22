"""Finds passes by name: our own, and third parties' through the entry points `ptq_opt.passes`."""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ..ir import UsageError
from ..ir.spelling import nearest
from .base import Pass

GROUP = "ptq_opt.passes"
BUILTIN = {
    "canonicalize": ".canonicalize:Canonicalize",
    "fold-bn": ".fold_bn:FoldBatchNorm",
    "equalize": ".equalize:Equalize",
    "absorb-bias": ".absorb_bias:AbsorbBias",
    "split-outliers": ".split_outliers:SplitOutliers",
    "align": ".align:Align",
    "smooth": ".smooth:Smooth",
    "calibrate": ".calibrate:Calibrate",
    "statistics": ".statistics:Statistics",
    "clip": ".clip:Clip",
    "plan": ".plan:Plan",
    "measure": ".measure:Measure",
    "islands": ".islands:Islands",
    "bits": ".bits:Bits",
    "zero-filter": ".zero_filter:ZeroFilter",
    "saturate": ".saturate:Saturate",
    "tune": ".tune:Tune",
    "sensitivity": ".sensitivity:Sensitivity",
    "variance": ".variance:Variance",
    "round": ".round:Round",
    "bias": ".bias:Bias",
    "quant": ".quant:Quantize",
    "half": ".half:Half",
    "cleanup": ".cleanup:Cleanup",
}
"""Name -> module and class, in the order of the default pipeline."""

DATA_FREE = (
    "canonicalize,fold-bn,statistics,plan,zero-filter,saturate,bias{mode=analytic},quant,cleanup"
)
"""What --data-free runs instead of the default pipeline."""

DEFAULT = "canonicalize,fold-bn,align,smooth,calibrate,plan,zero-filter,saturate,bias,quant,cleanup"


def without_data(data: Any, activations: str | None, data_free: bool) -> bool:
    """True when no sample is run: asked for, or nothing is given and only weights are stored."""
    return data_free or (data is None and activations == "none")


def third_party() -> dict[str, list[EntryPoint]]:
    """Passes that other packages register, by name; several with one name clash when named."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        found.setdefault(entry.name, []).append(entry)
    return found


def owner(entry: EntryPoint) -> str:
    """The package an entry point comes from."""
    return entry.dist.name if entry.dist else entry.value


def names() -> list[str]:
    """Every pass that can be named, our own first."""
    return [*BUILTIN, *sorted(third_party().keys() - BUILTIN.keys())]


def find(name: str) -> type[Pass]:
    """The class of pass `name`.

    Raises:
        UsageError: there is none, with the nearest name; two packages register one, with both.
    """
    entries = third_party().get(name, [])
    owners = ["ptq-opt"] * (name in BUILTIN) + [owner(entry) for entry in entries]
    if len(owners) > 1:
        raise UsageError(
            f"two packages register a pass '{name}': {' and '.join(owners)}; uninstall one of them"
        )
    if not owners:
        raise UsageError(f"there is no pass '{name}'{nearest(name, names())}")
    found = _load(entries[0]) if entries else _builtin(name)
    if not (isinstance(found, type) and issubclass(found, Pass)):
        raise UsageError(f"'{name}' is registered as a pass but {found!r} is not a Pass class")
    if found.name != name:
        raise UsageError(f"pass '{found.name}' is registered as '{name}'")
    return found


def _builtin(name: str) -> type[Pass]:
    module, _, attribute = BUILTIN[name].partition(":")
    found: type[Pass] = getattr(importlib.import_module(module, __package__), attribute)
    return found


def _load(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:
        raise UsageError(
            f"pass '{entry.name}' of {owner(entry)} cannot be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error


def provider(fact: str) -> type[Pass]:
    """The pass of ours that establishes `fact`."""
    for name in BUILTIN:
        candidate = _builtin(name)
        if fact in candidate.establishes:
            return candidate
    raise UsageError(f"no pass establishes '{fact}'")
