"""Configuration files: the keys of the command line in TOML or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..ir import UsageError
from ..passes.registry import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_config(path: Path, known: Collection[str]) -> dict[str, Any]:
    """Read a configuration file.

    Args:
        path: TOML, or JSON when its name ends in ".json".
        known: keys that may occur, spelled as options without their dashes in front.

    Returns:
        Option name (with underscores, as click has it) -> value.

    Raises:
        UsageError: the file cannot be read, or a key is unknown.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"cannot read configuration '{path}': {error.strerror}") from None
    except ValueError as error:  # both parsers' errors, and text that is not UTF-8
        raise UsageError(f"configuration '{path}' is malformed: {error}") from None
    if not isinstance(data, dict):
        raise UsageError(f"configuration '{path}' must be a table of options")
    for key in data:
        if key not in known:
            raise UsageError(f"configuration '{path}' has no option '{key}'{nearest(key, known)}")
    return {key.replace("-", "_"): value for key, value in data.items()}
