"""Specification strings: `align,bias{samples=64},quant{format=qdq}` and back."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..ir import UsageError
from ..ir.spelling import nearest
from .base import Pass, format_option
from .registry import find

OPEN, CLOSE = "{[", "}]"


def parse(text: str) -> list[Pass]:
    """The passes a specification names; `UsageError` points into the string."""
    passes = []
    for start, part in split(text, text, 0):
        name, brace, inside = part.partition("{")
        if brace and not inside.endswith("}"):
            raise _error(text, start + len(part), "text after the closing '}'")
        try:
            found = find(name.strip())
        except UsageError as error:
            raise _error(text, start, str(error)) from None
        options = _options(found, text, start + len(name) + 1, inside[:-1]) if brace else {}
        try:
            passes.append(found(**options))
        except (TypeError, ValueError) as error:
            raise _error(text, start, f"pass '{found.name}': {error}") from None
    return passes


def split(text: str, part: str, offset: int) -> Iterator[tuple[int, str]]:
    """Cut `part` (at `offset` of `text`) at commas outside brackets and quotes: (place, piece)."""
    stack: list[str] = []
    start = 0
    quoted = escaped = False
    for k, char in enumerate(part):
        if quoted:
            quoted, escaped = escaped or char != '"', char == "\\" and not escaped
        elif char == '"':
            quoted = True
        elif char in OPEN:
            stack.append(CLOSE[OPEN.index(char)])
        elif char in CLOSE and (not stack or stack.pop() != char):
            raise _error(text, offset + k, f"'{char}' closes nothing")
        elif char == "," and not stack:
            yield _piece(text, part[start:k], offset + start)
            start = k + 1
    if quoted or stack:
        missing = '"' if quoted else stack[-1]
        raise _error(text, offset + len(part), f"'{missing}' is missing")
    yield _piece(text, part[start:], offset + start)


def _piece(text: str, piece: str, offset: int) -> tuple[int, str]:
    if not piece.strip():
        raise _error(text, offset, "a name is missing here")
    return offset + len(piece) - len(piece.lstrip()), piece.strip()


def _options(found: type[Pass], text: str, offset: int, inside: str) -> dict[str, Any]:
    fields = {f.name.replace("_", "-"): f.name for f in dataclasses.fields(found)}
    hints = get_type_hints(found)
    options: dict[str, Any] = {}
    for position, piece in split(text, inside, offset) if inside.strip() else ():
        key, equals, value = (s.strip() for s in piece.partition("="))
        if key not in fields:
            close = nearest(key, fields) if fields else "; it has no options"
            raise _error(text, position, f"pass '{found.name}' has no option '{key}'{close}")
        kind = hints[fields[key]]
        if fields[key] in options:
            raise _error(text, position, f"option '{key}' is there twice")
        if not equals and kind is not bool:
            raise _error(text, position + len(key), f"option '{key}' needs a value: {key}=...")
        try:
            options[fields[key]] = convert(value if equals else "true", kind)
        except ValueError as error:
            raise _error(text, position, f"option '{key}': {error}") from None
    return options


def convert(value: str, kind: Any) -> Any:
    """`value` as an option of type `kind`; `ValueError` says what was expected."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"'{value}' is not one of {', '.join(args)}")
        return value
    if origin in (Union, types.UnionType):
        if value == "none" and type(None) in args:
            return None
        return convert(value, next(a for a in args if a is not type(None)))
    if origin is tuple:
        inside = value[1:-1] if value.startswith("[") else value
        items = split(value, inside, 0) if inside.strip() else ()
        return tuple(convert(item, args[0]) for _, item in items)
    if kind is bool:
        if value not in ("true", "false"):
            raise ValueError(f"'{value}' is neither true nor false")
        return value == "true"
    if kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            article = "a whole number" if kind is int else "a number"
            raise ValueError(f"'{value}' is not {article}") from None
    if value.startswith('"'):
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value


def describe(found: type[Pass]) -> list[tuple[str, str, str]]:
    """(option, type, default) of a pass, for help texts."""
    hints = get_type_hints(found)
    rows = []
    for field in dataclasses.fields(found):
        kind = hints[field.name]
        shown = "|".join(get_args(kind)) if get_origin(kind) is Literal else _type_name(kind)
        default = "" if field.default is None else format_option(field.default)
        rows.append((field.name.replace("_", "-"), shown, default))
    return rows


def _type_name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind)) if not get_args(kind) else str(kind)


def _error(text: str, position: int, message: str) -> UsageError:
    return UsageError(f"{message}\n  {text}\n  {' ' * position}^")
