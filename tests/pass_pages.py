"""The parts of docs/passes that follow from the code: `python tests/pass_pages.py` writes them.

Each page begins with what the class of the pass says of itself, the first page lists all of them.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from ptq_opt.passes.base import Pass
from ptq_opt.passes.registry import BUILTIN, DATA_FREE, DEFAULT, find, provider
from ptq_opt.passes.spec import describe

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "passes"
BEGIN, END = "<!-- generated: tests/pass_pages.py -->\n\n", "\n<!-- end -->\n"
PARTS = re.compile(f"{BEGIN}.*?{END}", re.S)


def runs(name: str) -> str:
    """Where a pass runs without being asked for."""
    pipelines = {"by default": DEFAULT, "with `--data-free`": DATA_FREE}
    used = [when for when, spec in pipelines.items() if name in re.findall(r"[\w-]+", spec)]
    return " and ".join(used) or "when it is named in `--passes`"


def facts(found: type[Pass]) -> Iterator[tuple[str, str]]:
    """(what, value) rows."""
    yield "runs", runs(found.name)
    needed = [f"`{fact}` ([{by}]({by}.md))" for fact in found.requires for by in [source(fact)]]
    yield "needs", ", ".join(needed)
    yield "establishes", ", ".join(f"`{fact}`" for fact in found.establishes)
    yield "makes void", ", ".join(f"`{fact}`" for fact in found.invalidates)
    yield "keeps the float function", "yes" if found.preserves_function else "no"
    options = [f"`{option}`: {kind}" for option, kind, _ in describe(found)]
    yield "types of the options", ", ".join(options).replace("|", " or ")


def source(fact: str) -> str:
    """The pass that is added for a fact."""
    return provider(fact).name


def header(name: str) -> str:
    """What the class says of itself."""
    found = find(name)
    told = [f"| {what} | {value} |" for what, value in facts(found) if value]
    return "\n".join([f"*{found.summary()}*", "", "| | |", "|---|---|", *told, ""])


def contents() -> str:
    """All passes in order."""
    lines = ["| pass | what it does | runs |", "|---|---|---|"]
    for name in BUILTIN:
        lines.append(f"| [`{name}`]({name}.md) | {find(name).summary()} | {runs(name)} |")
    return "\n".join([*lines, ""])


def pages() -> dict[Path, str]:
    """Every file as it must be."""
    made = {FOLDER / f"{name}.md": header(name) for name in BUILTIN}
    made[FOLDER / "index.md"] = contents()
    return {file: renewed(file, BEGIN + text + END) for file, text in made.items()}


def renewed(file: Path, part: str) -> str:
    """A file with its generated part replaced."""
    return PARTS.sub(lambda _: part, file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
