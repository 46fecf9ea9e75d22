"""The commands behind `ptq-opt`."""

from __future__ import annotations

import importlib
from typing import Any

import click

COMMANDS = ("cost", "diff")
"""First words that are commands of their own, each a module of its name; else it is a MODEL."""


SECTIONS = {
    "output": "Model and data",
    "passes": "What to do",
    "metric": "Accuracy to hold",
    "report": "Answers",
    "seed": "Resources",
    "list_passes": "Passes at work",
}
"""First option -> heading of what follows it in the help."""


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

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in sections."""
        sections: dict[str, list[tuple[str, str]]] = {}
        heading = ""
        for param in self.get_params(ctx):
            heading = SECTIONS.get(param.name or "", heading)
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)
