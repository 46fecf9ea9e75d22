"""Configuration files: the keys of the command line in TOML or JSON."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..ir import UsageError
from ..ir.spelling import nearest
from ..ir.toml_file import read_toml


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
    data = _read_json(path) if path.suffix == ".json" else read_toml(path, "configuration")
    if not isinstance(data, dict):
        raise UsageError(f"configuration '{path}' must be a table of options")
    for key in data:
        if key not in known:
            raise UsageError(f"configuration '{path}' has no option '{key}'{nearest(key, known)}")
    return {key.replace("-", "_"): value for key, value in data.items()}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read configuration '{path}': {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"configuration '{path}' is not JSON: {error}") from None
    except RecursionError:
        raise UsageError(f"configuration '{path}' is nested too deeply") from None
