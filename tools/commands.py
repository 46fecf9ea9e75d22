"""The commands behind `ptq-opt`."""

from __future__ import annotations

import importlib
from typing import Any

import click

COMMANDS = ("cost", "diff")
"""First words that are commands of their own, each a module of its name; else it is a MODEL."""


class Command(click.Command):
    """`ptq-opt`, and the commands behind it."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Parse, as the command that is meant does."""
        if args and args[0] in COMMANDS:
            command: click.Command = importlib.import_module(f".{args[0]}", __package__).main
            return command.make_context(f"ptq-opt {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that is meant."""
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)
