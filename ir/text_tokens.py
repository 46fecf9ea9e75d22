"""The words, numbers and marks of graphs as text."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from .errors import ModelError

T = TypeVar("T")
_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
      | (?P<bytes>b"(?:[^"\\]|\\.)*")
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<number>[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|inf\b|nan\b))
      | (?P<word>[A-Za-z_]\w*)
      | (?P<mark>=>|\.\.\.|[][(){}<>,:=@~?.])
      | (?P<wrong>.)""",
    re.VERBOSE,
)


class Token(NamedTuple):
    """A piece of text, its kind and where it starts."""

    kind: str
    text: str
    position: int


class Tokens:
    """A text as tokens; every method reads some and leaves the position behind them."""

    def __init__(self, text: str) -> None:
        """Split `text` into tokens."""
        self.text = text
        self.tokens = [
            Token(m.lastgroup or "", m.group(), m.start())
            for m in _TOKEN.finditer(text)
            if m.lastgroup != "space"
        ]
        self.tokens.append(Token("end", "end of text", len(text)))
        self.at = 0

    @property
    def next(self) -> Token:
        """The token to be read."""
        return self.tokens[self.at]

    @property
    def following(self) -> Token:
        """The token after that; at the end of the text the last one."""
        return self.tokens[min(self.at + 1, len(self.tokens) - 1)]

    def fail(self, wanted: str) -> ModelError:
        """The error for finding something else than `wanted` here."""
        before = self.text[: self.next.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return ModelError(f"line {line}, column {column}: expected {wanted}, got {self.next.text}")

    def found(self, *marks: str) -> bool:
        """Read one of `marks` if it is next."""
        if self.next.kind in ("mark", "word") and self.next.text in marks:
            self.at += 1
            return True
        return False

    def expect(self, mark: str) -> None:
        """Read `mark`."""
        if not self.found(mark):
            raise self.fail(f"'{mark}'")

    def take(self, kind: str, wanted: str) -> str:
        """Read a token of `kind`."""
        if self.next.kind != kind:
            raise self.fail(wanted)
        self.at += 1
        return self.tokens[self.at - 1].text

    def sequence(self, item: Callable[[], T], opening: str, closing: str) -> list[T]:
        """Read items between marks, separated by commas."""
        self.expect(opening)
        items: list[T] = []
        while not self.found(closing):
            if items:
                self.expect(",")
            items.append(item())
        return items

    def name(self) -> str:
        """Read an identifier, or any name in quotes."""
        if self.next.kind == "string":
            return self.string()
        return self.take("word", "a name")

    def string(self) -> str:
        """Read a string."""
        token = self.next
        try:
            return str(json.loads(self.take("string", "a string"), strict=False))
        except ValueError:
            raise ModelError(f"the string {token.text} has an unknown escape") from None

    def raw(self) -> bytes:
        """Read bytes, written as in Python."""
        return bytes(ast.literal_eval(self.take("bytes", "bytes")))

    def number(self) -> int | float:
        """Read an integer or a real."""
        text = self.take("number", "a number")
        try:
            return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
        except ValueError:  # thousands of digits
            self.at -= 1
            raise self.fail("a number of fewer digits") from None

    def integer(self) -> int:
        """Read an integer of 64 bits."""
        number = self.number()
        if not isinstance(number, int) or not -(2**63) <= number < 2**63:
            self.at -= 1
            raise self.fail("an integer of at most 64 bits")
        return number
