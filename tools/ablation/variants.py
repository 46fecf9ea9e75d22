"""The pipelines and targets that an ablation compares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...ir.target import Target, find_target
from ...passes import spec
from ...passes.registry import BUILTIN, DEFAULT

PLAIN = "canonicalize,fold-bn,calibrate{method=min-max},plan,zero-filter,saturate,quant,cleanup"
"""What any quantizer does: extremes of the samples, nearest rounding, nothing corrected."""

TECHNIQUES = (
    "smooth,split-outliers,equalize,align,calibrate,clip,tune{trials=40},variance,bias,round"
)
"""Passes with the options in question."""

PLACES = {"tune": ("plan", "zero-filter", "saturate"), "round": ("bias",)}
"""Technique -> the passes whose place it takes."""


def schemes() -> dict[str, Target]:
    """How weights are stored, for ONNX Runtime; activations have 8 bits.

    Sums are exact on every processor here: no weight gives anything up for pairs that saturate.
    """
    usual = find_target("ort-cpu-vnni")
    return {
        "W8A8": usual,
        "W4A8": usual.storing(weights="int4"),
        "W8A8 per tensor": usual.storing(weights="int8:per-tensor"),
        "W4A8 in blocks of 32": usual.storing(weights="int4:block=32"),
    }


@dataclass(frozen=True)
class Technique:
    """One technique, and the pipelines whose differences are its gain.

    Attributes:
        name: as in the tables.
        alone: (without it, with it), beside nothing else.
        beside: (without it, with it), in the default pipeline.
        default: True when the default pipeline has it.
    """

    name: str
    alone: tuple[str, str]
    beside: tuple[str, str]
    default: bool


def techniques() -> list[Technique]:
    """All of `TECHNIQUES`.

    Each takes the place of its own pass with other options, and of those that `PLACES` names.
    """
    plain, usual = by_name(PLAIN), by_name(DEFAULT)
    found = []
    for name, text in by_name(TECHNIQUES).items():
        there = usual.get(name) == text
        rest = {key: each for key, each in usual.items() if key != name}
        rest |= {name: plain[name]} if name in plain else {}
        beside = (rest, usual) if there else (usual, _with(usual, name, text))
        alone = (plain, _with(plain, name, text))
        found.append(Technique(text, _specs(alone), _specs(beside), there))
    return found


def by_name(text: str) -> dict[str, str]:
    """Name of each pass that `text` names -> its specification."""
    return {item.name: item.spec for item in spec.parse(text)}


def _with(passes: Mapping[str, str], name: str, text: str) -> dict[str, str]:
    """`passes` with one more, or in the place of others."""
    replaced = PLACES.get(name, ())
    return {key: each for key, each in passes.items() if key not in replaced} | {name: text}


def _specs(pair: Iterable[Mapping[str, str]]) -> tuple[str, str]:
    """Both as text, passes in the order of `BUILTIN`."""
    first, second = (",".join(each[n] for n in BUILTIN if n in each) for each in pair)
    return first, second
