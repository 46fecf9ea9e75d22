"""Options that the programs of the benchmark share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

Command = Callable[..., None]


def of_cases(models: str = "") -> Callable[[Command], Command]:
    """Which models to take and where to write: `zoo`, `models`, `cache` and `json_file`.

    Args:
        models: taken by default, see `cases.find_cases`.
    """
    return _all(
        click.option(
            "--zoo",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="Folder with zoo.py, trained/ and topologies/; without it only the light models "
            "of onnx.",
        ),
        click.option(
            "--models",
            default=models,
            show_default=bool(models),
            metavar="REGEX",
            help="Only trained/..., topology/..., architecture/... or light/... so.",
        ),
        click.option(
            "--cache",
            type=click.Path(file_okay=False, path_type=Path),
            default=Path("build/bench"),
            show_default=True,
            help="Folder that keeps samples and the files of the peers between runs.",
        ),
        click.option(
            "--json",
            "json_file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="File for all numbers.",
        ),
    )


def of_peers(peers: str) -> Callable[[Command], Command]:
    """Other quantizers: `peers` and `peer_python`."""
    return _all(
        click.option(
            "--peers",
            default=peers,
            show_default=True,
            help="Quantizers to compare with, separated by commas.",
        ),
        click.option(
            "--peer-python",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            default=Path(sys.executable),
            help="Python that has the peers and OpenVINO; this one by default. Files are kept, so "
            "tools that exclude each other can be run one after the other.",
        ),
    )


def of_workers() -> Callable[[Command], Command]:
    """Who does what is not timed: `workers` and `cluster`."""
    return _all(
        click.option("--workers", default=1, help="Processes on this machine that share the work."),
        click.option("--cluster", metavar="ADDRESS", help="Dask's workers: tcp://..., local:N."),
    )


def of_timing(seconds: float) -> Callable[[Command], Command]:
    """Placements for an engine: `target` and `seconds`."""
    return _all(
        click.option("--target", default="ort-cpu", show_default=True),
        click.option("--seconds", default=seconds, show_default=True, help="Timing of one model."),
    )


def _all(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def write_rows(file: Path | None, rows: Sequence[Any]) -> None:
    """Write dataclasses as JSON, where a file was asked for."""
    if file is not None:
        file.write_text(json.dumps([asdict(row) for row in rows], indent=1))
