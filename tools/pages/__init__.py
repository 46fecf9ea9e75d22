"""Writes a report as a page, as Markdown or as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from ...ir import UsageError
from ..files import check_writable, write_text
from ..report import Report

SUFFIXES = (".html", ".md", ".json")


def check(path: Path) -> None:
    """`UsageError` unless `save` can write a report to `path`."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"cannot write a report to '{path}': end its name in .html, .md or .json")
    check_writable(path)


def save(report: Report, path: Path) -> None:
    """Write the report in the form that the suffix of `path` asks for; `UsageError` as `check`."""
    check(path)
    write_text(path, text(report, path.suffix.lower()))


def text(report: Report, suffix: str) -> str:
    """The report in one of the forms of `SUFFIXES`."""
    if suffix == ".html":
        from .html import html

        return html(report)
    if suffix == ".md":
        from .markdown import markdown

        return markdown(report)
    return json.dumps(report.as_dict(), indent=1) + "\n"
