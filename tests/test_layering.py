"""Imports go one way: tools -> passes -> ir and tools -> native -> ir."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "ir": {"ir"},
    "passes": {"passes", "ir"},
    "native": {"native", "ir"},
    "tools": {"tools", "passes", "native", "ir"},
}
FACADE = Path("tools/ptq_opt")  # what `import ptq_opt` sees; the one that imports absolutely


def modules() -> list[Path]:
    return [
        file.relative_to(ROOT)
        for layer in MAY_IMPORT
        for file in sorted(ROOT.glob(f"{layer}/**/*.py"))
    ]


def imported(file: Path, source: str) -> Iterator[str]:
    """Absolute dotted names that a module imports, with the names taken from each."""
    package = ("ptq_opt", *file.parent.parts)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = (*base, *((node.module,) if node.module else ()))
            yield from (".".join((*stem, alias.name)) for alias in node.names)


def layers(file: Path, source: str) -> set[str]:
    """Layers of ptq_opt that a module imports; "" for the package itself."""
    parts = [name.split(".") for name in imported(file, source)]
    return {
        part[1] if len(part) > 1 and part[1] in MAY_IMPORT else ""
        for part in parts
        if part[0] == "ptq_opt"
    }


@pytest.mark.parametrize("file", modules(), ids=str)
def test_imports_go_one_way(file: Path) -> None:
    allowed = MAY_IMPORT[file.parts[0]]
    found = layers(file, (ROOT / file).read_text())
    assert found <= allowed, f"{file} imports {', '.join(map(repr, sorted(found - allowed)))}"


@pytest.mark.parametrize(
    "file", [file for file in modules() if FACADE not in file.parents], ids=str
)
def test_imports_are_relative(file: Path) -> None:
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [str(node.module)]
        absolute = [name for name in names if name.split(".")[0] == "ptq_opt"]
        assert not absolute, f"{file}:{node.lineno} imports {absolute[0]}"


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("ir/graph.py", "from .ops import f", {"ir"}),
        ("ir/graph.py", "from ..passes import f", {"passes"}),
        ("ir/graph.py", "from .. import tools", {"tools"}),
        ("ir/graph.py", "import ptq_opt.native.build", {"native"}),
        ("ir/graph.py", "def f():\n    from ptq_opt.tools.api import quantize", {"tools"}),
        ("ir/graph.py", "from ptq_opt import quantize", {""}),
        ("tools/bench/cost.py", "from ...passes.plan import f", {"passes"}),
        ("tools/bench/cost.py", "import numpy", set()),
    ],
)
def test_finds_every_way_to_import(file: str, source: str, expected: set[str]) -> None:
    assert layers(Path(file), source) == expected
