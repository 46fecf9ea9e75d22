"""In which order the dimensions of a tensor are stored."""

from __future__ import annotations

from collections.abc import Sequence


def plain(rank: int) -> tuple[int, ...]:
    """The order of ONNX."""
    return tuple(range(rank))


def channels_last(rank: int) -> tuple[int, ...]:
    """The order of convolutions: batch, spatial dimensions, channels."""
    return (0, *range(2, rank), 1) if rank > 2 else plain(rank)


def reshaped_order(
    shape: Sequence[int], order: Sequence[int], wanted: Sequence[int]
) -> tuple[int, ...] | None:
    """The order in which a tensor of `shape`, stored in `order`, holds its `wanted` shape.

    None if elements must move: dimensions that join are then not stored one after the other.
    """
    stored = [d for d in order if shape[d] != 1]
    rest = [d for d, n in enumerate(shape) if n != 1]
    coming = [d for d, n in enumerate(wanted) if n != 1]
    parts: dict[int, list[int]] = {}
    while rest:  # the fewest dimensions on both sides that have the same product
        joined, fresh = [rest.pop(0)], []
        size, filled = shape[joined[0]], 1
        while filled != size:
            if filled < size:
                fresh.append(coming.pop(0))
                filled *= wanted[fresh[-1]]
            else:
                joined.append(rest.pop(0))
                size *= shape[joined[-1]]
        first = stored.index(joined[0])
        if stored[first : first + len(joined)] != joined:
            return None
        parts[first] = fresh
    found = [d for first in sorted(parts) for d in parts[first]]
    if found == sorted(found):
        return plain(len(wanted))
    return (*(d for d, n in enumerate(wanted) if n == 1), *found)
