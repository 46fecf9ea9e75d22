"""What was perhaps meant by a name that is not there, for the end of a message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

LISTED = 24
"""How many names a message lists."""


def closest(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or nothing when no name is near.

    Also finds names by one of their parts between slashes, however it is capitalized.
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    if not close:
        parts = {part.lower(): full for full in reversed(known) for part in full.split("/")}
        close = [parts[part] for part in difflib.get_close_matches(name.lower(), parts, 1)]
    return _hint(*close)


def nearest(name: str, known: Iterable[str]) -> str:
    """The same, or else which names there are."""
    known = list(known)
    more = ", ..." if len(known) > LISTED else ""
    return closest(name, known) or f"; known: {', '.join(known[:LISTED])}{more}"


def near(path: Path) -> str:
    """The same of a path, among those beside it; nothing when none is near."""
    try:
        beside = {each.name: str(each) for each in path.parent.iterdir()}
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, sorted(beside), 1)
    return _hint(*(beside[name] for name in close))


def _hint(meant: str = "") -> str:
    return f"; did you mean '{meant}'?" if meant else ""
