"""Completion in bash, zsh and fish, by Click's means.

``eval "$(_PTQ_OPT_COMPLETE=bash_source ptq-opt)"`` switches it on. Click does not complete what
follows ``--option=``, and cuts values at commas in fish; with the classes here it does better.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ZshComplete,
    add_completion_class,
)

from ..ir import target
from ..ir.dtypes import DType
from ..ir.grid_rule import FLOAT
from ..passes import registry

Items = list[CompletionItem]
Complete = Callable[[click.Context, click.Parameter, str], Items]

FISH = """\
function %(complete_func)s
    set -l token (commandline -t)
    set -l option (string match -r -- '^--[\\w-]+=' $token)
    for completion in (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp) \
COMP_CWORD=$token %(prog_name)s)
        set -l found (string split -m 1 -- "," $completion)
        switch $found[1]
            case dir
                __fish_complete_directories $found[2] | string replace -r -- '^' "$option"
            case file
                __fish_complete_path $found[2] | string replace -r -- '^' "$option"
            case plain
                echo -- "$option$found[2]"
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


@add_completion_class
class Bash(BashComplete):
    """Completes what follows ``--option=``, which bash hands over as three words."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before, and the one to complete."""
        words, incomplete = super().get_completion_args()
        *before, last = re.sub(r"\n=(\n|$)", "=", "\n".join(["", *words])).split("\n")
        if last.endswith("="):
            return before[1:], last + incomplete
        return words and [*before[1:], last], incomplete


@add_completion_class
class Fish(FishComplete):
    """Completes what follows ``--option=``, and values with commas."""

    source_template = FISH


@add_completion_class
class Zsh(ZshComplete):
    """Completes what follows ``--option=``, in place of the whole word."""

    source_template = ZshComplete.source_template.replace(
        "_path_files", "compset -P '--*='; _path_files"
    )

    def get_completions(self, args: list[str], incomplete: str) -> Items:
        """What can stand for the incomplete word."""
        found = super().get_completions(args, incomplete)
        option = re.match("--[^=]+=|", incomplete)
        for item in found:
            if option and item.type == "plain":
                item.value = f"{option[0]}{item.value}"
        return found


def _starting(words: Iterable[str], start: str) -> Items:
    return [CompletionItem(word) for word in words if word.startswith(start)]


def files(_context: click.Context, _option: click.Parameter, start: str) -> Items:
    """Names of files and folders."""
    return [CompletionItem(start, type="file")]


def pipeline(_context: click.Context, _option: click.Parameter, start: str) -> Items:
    """Names of passes, separated by commas."""
    before, comma, _ = start.rpartition(",")
    return _starting([f"{before}{comma}{name}" for name in registry.names()], start)


def one_pass(_context: click.Context, _option: click.Parameter, start: str) -> Items:
    """The name of a pass, or all."""
    return _starting([*registry.names(), "all"], start)


def targets(context: click.Context, option: click.Parameter, start: str) -> Items:
    """Names of targets, else files."""
    return _starting(target.names(), start) or files(context, option, start)


def dtypes(allowed: Iterable[DType]) -> Complete:
    """The types among which one is chosen."""
    names = [*(dtype.name.lower() for dtype in allowed), FLOAT]
    return lambda _context, _option, start: _starting(names, start)


def model_or(words: Iterable[str]) -> Complete:
    """A file; or one of `words`, once something of it is typed."""

    def complete(context: click.Context, option: click.Parameter, start: str) -> Items:
        return (_starting(words, start) if start else []) or files(context, option, start)

    return complete
