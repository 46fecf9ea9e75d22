"""One name for equal things: digests of graphs, samples, options and functions.

Unlike a pickle's bytes, a digest does not depend on which objects happen to be the same one.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import importlib.metadata
import platform
import sys
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
from google.protobuf.message import Message

from .graph import Graph
from .samples import Samples, stored
from .tensor import Tensor
from .travel import tables

LIBRARIES = ("numpy", "onnx", "onnxruntime", "scipy")
"""Their versions decide the last bits of results."""


class Unnamed(Exception):
    """Something that has no digest, such as a function that was made on the fly."""


def digest(*things: Any) -> str:
    """Hexadecimal SHA-256 of plain data, dataclasses, arrays, graphs and samples.

    Raises:
        Unnamed: one of them, or a part of one, is anything else.
    """
    found = hashlib.sha256()
    _add(found, things)
    return found.hexdigest()


def _add(found: Any, thing: Any) -> None:
    """Feed `thing` to the hash: its kind, its size and its parts."""
    if thing is None or isinstance(thing, bool | int | float | str | bytes | enum.Enum):
        _write(found, type(thing).__name__, repr(thing).encode())
    elif isinstance(thing, np.generic | np.ndarray):
        _array(found, np.asarray(thing))
    elif isinstance(thing, Tensor):
        _add(found, thing.dtype)
        _array(found, np.asarray(thing.numpy()))
    elif isinstance(thing, Graph):
        _add(found, tables(thing))
    elif isinstance(thing, Samples):
        _add(found, thing.identity())
    elif isinstance(thing, Message):
        _write(found, type(thing).__name__, thing.SerializeToString(deterministic=True))
    elif isinstance(thing, Path):
        _add(found, str(thing))
    elif isinstance(thing, FunctionType):
        _add(found, _function(thing))
    elif dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        fields = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
        _add(found, (type(thing).__qualname__, fields))
    elif isinstance(thing, Mapping):
        _parts(found, "mapping", [part for pair in thing.items() for part in pair])
    elif isinstance(thing, Set):
        _parts(found, "set", sorted(thing, key=repr))
    elif isinstance(thing, Sequence):
        _parts(found, "sequence", thing)
    else:
        raise Unnamed(type(thing).__name__)


def _parts(found: Any, kind: str, parts: Sequence[Any]) -> None:
    _write(found, kind, str(len(parts)).encode())
    for part in parts:
        _add(found, part)


def _array(found: Any, array: Any) -> None:
    _write(found, f"{array.dtype.name}{array.shape}", stored(array))


def _write(found: Any, kind: str, data: bytes | memoryview) -> None:
    found.update(f"{kind}:{len(data)}:".encode())
    found.update(data)


def _function(function: FunctionType) -> tuple[str, str, bytes]:
    """Where a module's function is written, and all that is written there."""
    module = sys.modules.get(function.__module__)
    file = getattr(module, "__file__", None)
    if file is None or getattr(module, function.__qualname__, None) is not function:
        raise Unnamed(f"function {function.__qualname__}")
    return function.__module__, function.__qualname__, Path(file).read_bytes()


@functools.cache
def software() -> str:
    """Digest of all that computes: the code of this package, of what it uses, the processor."""
    found = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent
    for folder in ("ir", "passes"):
        for file in sorted((root / folder).rglob("*.py")):
            found.update(str(file.relative_to(root)).encode() + file.read_bytes())
    for library in LIBRARIES:
        found.update(f"{library} {importlib.metadata.version(library)} ".encode())
    found.update(platform.machine().encode())
    return found.hexdigest()
