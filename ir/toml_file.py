"""Settings in TOML."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from .errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The tables of a file; `UsageError`, calling it `what`, when it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {what} '{path}': {error.strerror}") from None
    except ValueError as error:  # no TOML, not UTF-8, or an integer of too many digits
        raise UsageError(f"{what} '{path}' is not TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"{what} '{path}' is nested too deeply") from None
