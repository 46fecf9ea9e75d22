"""Specification strings: what they mean, that they round-trip, and how errors point into them."""

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewriting import installed

from ptq_opt.ir import Graph, UsageError
from ptq_opt.passes import Context, Pass
from ptq_opt.passes.registry import BUILTIN, find
from ptq_opt.passes.spec import describe, parse


@dataclass(frozen=True)
class Options(Pass):
    """One option of each kind."""

    name: ClassVar[str] = "options"

    flag: bool = False
    count: int = 3
    share: float = 0.5
    mode: Literal["slow", "fast"] = "slow"
    limit: float | None = 1.0
    path: str = ""
    max_bits: tuple[int, ...] = (8,)
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count must not be negative")

    def run(self, graph: Graph, context: Context) -> None:
        pass


@pytest.fixture(autouse=True)
def known() -> object:
    with installed([Options]):
        yield


def one(text: str) -> Pass:
    (item,) = parse(text)
    return item


def test_names_are_separated_by_commas() -> None:
    assert [item.name for item in parse("canonicalize, fold-bn ,cleanup")] == [
        "canonicalize",
        "fold-bn",
        "cleanup",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("options", Options()),
        ("options{}", Options()),
        ("options{flag}", Options(flag=True)),
        ("options{flag=false}", Options(flag=False)),
        ("options{count=7, share=1e-3}", Options(count=7, share=1e-3)),
        ("options{mode=fast}", Options(mode="fast")),
        ("options{limit=none}", Options(limit=None)),
        ("options{limit=2}", Options(limit=2.0)),
        ("options{max-bits=[4,8]}", Options(max_bits=(4, 8))),
        ("options{max-bits=[]}", Options(max_bits=())),
        ("options{only=[conv, fc]}", Options(only=("conv", "fc"))),
        ("options{path=a=b}", Options(path="a=b")),
        ('options{path="a, {b}"}', Options(path="a, {b}")),
        (r'options{path="say \"hi\" \\"}', Options(path='say "hi" \\')),
        ('options{only=["a,b",c]}', Options(only=("a,b", "c"))),
    ],
)
def test_options_go_in_braces(text: str, expected: Options) -> None:
    assert one(text) == expected


@given(
    st.builds(
        Options,
        flag=st.booleans(),
        count=st.integers(0, 10**9),
        share=st.floats(allow_nan=False),
        mode=st.sampled_from(["slow", "fast"]),
        limit=st.none() | st.floats(allow_nan=False),
        path=st.text(),
        max_bits=st.lists(st.integers()).map(tuple),
        only=st.lists(st.text()).map(tuple),
    )
)
def test_every_pass_survives_being_written_and_read(item: Options) -> None:
    assert one(item.spec) == item


@pytest.mark.parametrize("name", BUILTIN)
def test_our_passes_survive_being_written_and_read(name: str) -> None:
    default = find(name)()
    assert default.spec == name
    assert one(name) == default
    assert [row[0] for row in describe(find(name))] == [
        field.name.replace("_", "-") for field in fields(find(name))
    ]


@pytest.mark.parametrize(
    ("text", "pointed_at", "message"),
    [
        ("", "", "a name is missing here"),
        ("options,,options", ",options", "a name is missing here"),
        ("options,optoins", "optoins", "there is no pass 'optoins'; did you mean 'options'?"),
        ("options{cuont=1}", "cuont=1}", "has no option 'cuont'; did you mean 'count'?"),
        ("options{zzzzz=1}", "zzzzz=1}", "has no option 'zzzzz'; known: flag, count,"),
        ("fold-bn,options{count=x}", "count=x}", "option 'count': 'x' is not a whole number"),
        ("options{flag,share=x}", "share=x}", "option 'share': 'x' is not a number"),
        ("options{flag=1}", "flag=1}", "option 'flag': '1' is neither true nor false"),
        ("options{mode=warp}", "mode=warp}", "option 'mode': 'warp' is not one of slow, fast"),
        ("options{count}", "}", "option 'count' needs a value: count=..."),
        ("options{count=1,count=2}", "count=2}", "option 'count' is there twice"),
        ("options{count=-1}", "options{count=-1}", "pass 'options': count must not be negative"),
        ("options{flag", "", "'}' is missing"),
        ("options{max-bits=[1}", "}", "'}' closes nothing"),
        ('options{path="a}', "", "'\"' is missing"),
        ("options}", "}", "'}' closes nothing"),
        ("options{flag}s", "", "text after the closing '}'"),
    ],
)
def test_errors_point_into_the_string(text: str, pointed_at: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    said, shown, arrow = str(caught.value).split("\n")
    assert message in said
    assert shown == f"  {text}"
    assert text[arrow.index("^") - 2 :] == pointed_at


def test_help_shows_type_and_default_of_options() -> None:
    rows = {name: (kind, default) for name, kind, default in describe(Options)}
    assert rows["count"] == ("int", "3")
    assert rows["mode"] == ("slow|fast", "slow")
    assert rows["flag"] == ("bool", "false")
    assert rows["limit"] == ("float | None", "1.0")
