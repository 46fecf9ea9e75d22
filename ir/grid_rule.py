"""How a class of tensors is to be stored, and its short spelling: `int4:block=32,asymmetric`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .dtypes import DType
from .errors import UsageError

FLOAT = "none"
"""Spells that tensors stay in float."""
ACTIVATIONS = (DType.UINT8, DType.INT8, DType.INT16, DType.UINT16)
"""Types that activations can be stored as."""
WEIGHTS = (*ACTIVATIONS, DType.INT4, DType.UINT4, DType.INT2, DType.UINT2)
"""Types that weights can be stored as."""


@dataclass(frozen=True)
class GridRule:
    """How a class of tensors is stored.

    Attributes:
        dtype: integer type.
        symmetric: zero point 0, see `quant.grid`.
        per_channel: one scale per output channel, of weights only.
        block: of weights, so many input channels share a scale, and every output channel and place
            of the kernel has its own; 0 for none. Where there are fewer input channels, one scale
            per output channel.
    """

    dtype: DType = DType.INT8
    symmetric: bool = False
    per_channel: bool = False
    block: int = 0

    def widened(self, dtype: DType) -> GridRule:
        """The rule with a wider type: symmetric, and scales of blocks become scales of channels."""
        scales = self.per_channel or self.block > 0
        return replace(self, dtype=dtype, symmetric=True, per_channel=scales, block=0)


def weight_rule(text: str, usual: GridRule | None) -> GridRule | None:
    """The rule that `text` spells; what it does not say is as in `usual`.

    `none`, or an integer type, then `:` and any of these, separated by commas: `symmetric`,
    `asymmetric`, `per-tensor`, `per-channel`, `block=N`. Unsigned weights are asymmetric unless
    `text` says otherwise.

    Raises:
        UsageError: `text` spells no rule.
    """
    return _parse("weights", text, usual, WEIGHTS)


def activation_rule(text: str, usual: GridRule | None) -> GridRule | None:
    """The same for activations, which have one scale per tensor and no blocks.

    Raises:
        UsageError: `text` spells no rule.
    """
    return _parse("activations", text, usual, ACTIVATIONS)


def layer_rule(text: str, usual: GridRule | None, others: GridRule | None) -> tuple[str, GridRule]:
    """A pattern of layers and how they store their weights, from `PATTERN=TYPE:OPTIONS`.

    What `text` does not say is as for the `others`, but that scales of blocks become scales of
    channels, and the symmetry is the `usual` one.

    Raises:
        UsageError: `text` spells no rule.
    """
    match = re.fullmatch(r"(.+)=(u?int\d+(?::.*)?)", text)
    if match is None:
        raise UsageError(f"'{text}' does not say PATTERN=TYPE, such as 'head=int8'")
    rule = usual or GridRule(symmetric=True)
    if others is not None:
        rule = replace(rule, per_channel=others.per_channel or others.block > 0)
    found = weight_rule(match[2], replace(rule, block=0))
    assert found is not None
    return match[1], found


def _parse(
    what: str, text: str, usual: GridRule | None, allowed: tuple[DType, ...]
) -> GridRule | None:
    name, _, options = text.partition(":")
    if name == FLOAT and not options:
        return None
    names = [dtype.name.lower() for dtype in allowed]
    if name not in names:
        raise UsageError(f"{what} can be {', '.join(names)} or {FLOAT}, not '{text}'")
    rule = replace(usual or GridRule(symmetric=True), dtype=DType[name.upper()])
    if name.startswith("u"):
        rule = replace(rule, symmetric=False)
    for option in filter(None, options.split(",")):
        rule = _with_option(rule, option, what)
    return rule


def _with_option(rule: GridRule, option: str, what: str) -> GridRule:
    if option in ("symmetric", "asymmetric"):
        return replace(rule, symmetric=option == "symmetric")
    if what == "weights" and option in ("per-tensor", "per-channel"):
        return replace(rule, per_channel=option == "per-channel", block=0)
    if what == "weights" and (found := re.fullmatch(r"block=([1-9]\d*)", option)):
        return replace(rule, block=int(found[1]))
    known = "symmetric, asymmetric"
    known += ", per-tensor, per-channel, block=N" if what == "weights" else ""
    raise UsageError(f"'{option}' is no option of {what}: {known}")
