"""Random edits: of bytes, of words of a text, of fields of protobuf messages."""

import random
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from google.protobuf.message import Message

Chance = random.Random
NUMBERS = (0, 1, -1, 2, 3, 7, 127, 255, 4096, 2**31 - 1, -(2**31), 10**13, 2**63 - 1, -(2**63))
TEXTS = ("", "x", "y", "w", "../w.bin", "/etc/passwd", "a\0b", "é" * 300, "ai.onnx", "Conv", "Loop")
BYTES = (
    b"",
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff\x0f",
    b"\x7f" * 8,
    b"PK\x03\x04",
    b"\x80\x04K\x01.",
)
WORDS = (
    *(
        "0",
        "-1",
        "1e999",
        "nan",
        "inf",
        "9" * 30,
        "9" * 5000,
        "true",
        "none",
        '""',
        '"a',
        "'",
        "\\",
    ),
    *(
        "[",
        "]",
        "{",
        "}",
        "(",
        ")",
        ",",
        "=",
        ":",
        "~",
        "@",
        ".",
        "...",
        "=>",
        "#",
        "\0",
        "\n",
        "é",
    ),
    *("[" * 3000, "(" * 3000, "{" * 3000, "seq(" * 3000, "a={" * 3000, "a.b.c.d", "float", "int4"),
)
WORD = re.compile(r"\w+|\s+|.", re.S)


def edit_bytes(data: bytes, chance: Chance) -> bytes:
    """One edit of a byte string."""
    at = chance.randrange(len(data) + 1)
    end = min(len(data), at + chance.choice((1, 1, 2, 4, 8, 100)))
    piece = data[at:end]
    other = chance.randrange(len(data) + 1)
    return chance.choice(
        [
            data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :],
            data[:at] + bytes(b ^ (1 << chance.randrange(8)) for b in piece[:1]) + data[at + 1 :],
            data[:at] + data[end:],
            data[:at] + chance.choice(BYTES) + data[end:],
            data[:at] + chance.choice(BYTES) + data[at:],
            data[:other] + piece + data[other:],
            data[:at],
        ]
    )


def edit_words(text: str, chance: Chance) -> str:
    """One edit of a text, word by word."""
    words = WORD.findall(text) or [""]
    at, other = chance.randrange(len(words)), chance.randrange(len(words))
    match chance.randrange(6):
        case 0:
            words[at] = chance.choice(WORDS)
        case 1:
            words.insert(at, chance.choice(WORDS))
        case 2:
            del words[at : at + chance.choice((1, 1, 3, 20))]
        case 3:
            words[at] = words[other]
        case 4:
            words[at:at] = words[other : other + chance.choice((1, 5, 50))]
        case 5:
            words[at] = str(chance.choice(NUMBERS))
    return "".join(words)


def messages(message: Message) -> Iterator[Message]:
    """A message and all those in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if is_repeated(field) else [value]:
                yield from messages(inner)


def is_repeated(field: Any) -> bool:
    """True for lists."""
    known = getattr(field, "is_repeated", None)  # protobuf before 6.31 has `label` instead
    return bool(field.label == field.LABEL_REPEATED if known is None else known)


def edit_message(message: Message, chance: Chance) -> None:
    """One edit of a field of `message` or of one in it; mostly of fields that are there."""
    inside = chance.choice(list(messages(message)))
    there = [field for field, _ in inside.ListFields()]
    field = chance.choice(there if there and chance.random() < 0.8 else inside.DESCRIPTOR.fields)
    if is_repeated(field):
        _edit_list(inside, field, chance)
    elif field.message_type is not None:
        if chance.random() < 0.5:
            inside.ClearField(field.name)
        else:
            getattr(inside, field.name).SetInParent()
    else:
        _try(lambda: setattr(inside, field.name, _scalar(message, field, chance)))


def _edit_list(inside: Message, field: Any, chance: Chance) -> None:
    items = getattr(inside, field.name)
    is_message = field.message_type is not None
    if not items or chance.random() < 0.2:
        if is_message:
            items.add()
        else:
            _try(lambda: items.append(_scalar(inside, field, chance)))
        return
    at, other = chance.randrange(len(items)), chance.randrange(len(items))
    match chance.randrange(4):
        case 0:
            del items[at]
        case 1:
            items.append(items[at])
        case 2 if is_message:
            items[at].CopyFrom(items[other])
        case 2:
            _try(lambda: items.__setitem__(at, _scalar(inside, field, chance)))
        case 3:
            del items[:]


def _scalar(message: Message, field: Any, chance: Chance) -> Any:
    if field.cpp_type == field.CPPTYPE_STRING:
        names = [value for inside in messages(message) for _, value in inside.ListFields()]
        known = [name for name in names if isinstance(name, str)]
        text = chance.choice([*TEXTS, *known])
        return text.encode() if field.type == field.TYPE_BYTES else text
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return float(chance.choice((*NUMBERS, float("nan"), float("inf"))))
    return chance.choice((*NUMBERS, *range(25)))


def _try(edit: Any) -> None:
    """Edit, unless the field cannot hold it."""
    with suppress(TypeError, ValueError):
        edit()
