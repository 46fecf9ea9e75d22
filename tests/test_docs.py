"""What docs/ says is so: its examples run, and it leaves no pass, option or key out."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import onnx
import pass_pages
import pytest
from doc_examples import FENCED, Block, blocks, run
from small_model import make_samples, small_model

from ptq_opt.ir import Graph, target
from ptq_opt.ir.samples import open_samples
from ptq_opt.ir.shapes import infer
from ptq_opt.ir.text import parse, print_graph
from ptq_opt.passes import Context
from ptq_opt.passes import spec as specification
from ptq_opt.passes.registry import BUILTIN, find
from ptq_opt.tools import cli
from ptq_opt.tools import run as run_tool

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
GRAPHS = [(d, b) for d in DOCS for b in blocks(d) if b.language == "graph"]
NUMBER = re.compile(r"-?\b\d+(?:\.\d+)?(?:e[-+]?\d+)?\b")
RUNNABLE = ("python", "toml", "c", "cmake", "sh", "console")
NEEDS = "needs "
"""Before a module or a program without which a block is not run, in place of a file's name."""


def read(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def rows(text: str) -> list[list[str]]:
    """Cells of all table rows whose first cell is code."""
    lines = re.findall(r"^\| (`.*) \|$", text, re.M)
    return [[cell.strip() for cell in re.split(r" (?<!\\)\| ", line)] for line in lines]


def code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


# -- examples ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where examples run: model.onnx, and samples for it in calib/."""
    onnx.save(small_model(), tmp_path / "model.onnx")
    (tmp_path / "calib").mkdir()
    for number, feeds in enumerate(make_samples(4)):
        np.savez(tmp_path / "calib" / f"{number}.npz", **feeds)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "document",
    [d for d in DOCS if any(b.language in RUNNABLE for b in blocks(d))],
    ids=lambda document: document.stem,
)
def test_examples_run(document: Path, folder: Path) -> None:
    """From first to last, Python in one namespace; a block with a title is that file."""
    names: dict[str, object] = {"__name__": "example"}
    for block in blocks(document):
        if block.title.startswith(NEEDS):
            require(block.title.removeprefix(NEEDS))
            block = block._replace(title="")
        if block.language in RUNNABLE and block.title:
            (folder / block.title).write_text(block.text)
        elif block.language == "python":
            padded = "\n" * (block.line - 1) + block.text  # tracebacks tell the document's line
            exec(compile(padded, document, "exec"), names)
        elif block.language in ("sh", "console"):
            shell(block, folder)


def require(name: str) -> None:
    """Leave the rest of a page out where a module or a program that it needs is not installed."""
    if importlib.util.find_spec(name) is None and shutil.which(name) is None:
        leave = pytest.fail if "REQUIRE" in os.environ else pytest.skip
        leave(f"{name} is not installed; `make integrations` runs this page with it")


def shell(block: Block, folder: Path) -> None:
    """Run the commands; what is shown of their output must be there, line by line in order."""
    text = block.text.strip()
    parts = text.splitlines() if block.language == "sh" else re.split(r"^\$ ", text, flags=re.M)[1:]
    for part in parts:
        command, *shown = part.splitlines()
        if command == "pip install .":
            install(folder)
            continue
        found = run(shlex.split(command), folder, PYTHONPATH=f"{folder}:{':'.join(sys.path)}")
        lines = iter(line.strip() for line in found.splitlines())
        for line in shown:
            assert line.strip() in lines, f"{command}\ndoes not print '{line}' but\n{found}"


def install(folder: Path) -> None:
    """Leave behind what pip does, without a build."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {place}" for name, place in entries.items())]
    (info / "entry_points.txt").write_text("\n".join([*lines, ""]))


@pytest.mark.parametrize("document", DOCS, ids=lambda document: document.stem)
def test_every_block_is_of_a_kind_that_runs(document: Path) -> None:
    assert {block.language for block in blocks(document)} <= {*RUNNABLE, "graph"}


@pytest.mark.parametrize(
    ("document", "block"), GRAPHS, ids=lambda x: x.title if isinstance(x, Block) else x.name
)
def test_graphs_become_what_is_shown(document: Path, block: Block) -> None:
    """Title: PASSES [for TARGET] [on N samples], which are noise; then digits shown are right."""
    found = re.fullmatch(r"(\S+)(?: for (\S+))?(?: on (\d+) samples)?", block.title)
    assert found is not None, block.title
    before, after = (parse(text) for text in block.text.split("\nbecomes\n"))
    infer(before)
    context = Context(target=target.find_target(found[2] or target.DEFAULT))
    if found[3]:
        context.samples = open_samples(noise(before, int(found[3])), before.inputs)
    for item in specification.parse(found[1]):
        item.run(before, context)
    ours, shown = plain(before), plain(after)
    where = f"{document.name}, line {block.line}:\n{ours}"
    if found[3]:
        assert NUMBER.sub("#", ours) == NUMBER.sub("#", shown), where
        numbers = [[float(text) for text in NUMBER.findall(each)] for each in (ours, shown)]
        assert numbers[0] == pytest.approx(numbers[1], rel=5e-3), where
    else:
        assert ours == shown, where


def noise(graph: Graph, count: int) -> list[dict[str, np.ndarray]]:
    """Standard normal samples, the same every time."""
    rng = np.random.default_rng(0)
    return [
        {x.name: rng.standard_normal(x.shape).astype(np.float32) for x in graph.inputs}
        for _ in range(count)
    ]


def plain(graph: Graph) -> str:
    """The text without types of inner values, which shape inference adds."""
    for value in graph.values():
        if value.producer is not None and not value.is_output:
            value.dtype, value.shape = None, None
    return print_graph(graph, elide=None)


# -- nothing is left out -------------------------------------------------------------------------


def test_every_pass_has_a_page() -> None:
    pages = {file.stem for file in (ROOT / "docs" / "passes").glob("*.md")}
    assert pages == {*BUILTIN, "index"}


@pytest.mark.parametrize("name", BUILTIN)
def test_every_pass_has_an_example(name: str) -> None:
    kinds = {block.language for block in blocks(ROOT / "docs" / "passes" / f"{name}.md")}
    assert kinds & {"graph", "python", "console"}


@pytest.mark.parametrize("file", pass_pages.pages(), ids=lambda file: file.stem)
def test_what_follows_from_the_code_is_up_to_date(file: Path) -> None:
    """Or run `python tests/pass_pages.py`."""
    text = file.read_text(encoding="utf-8")
    assert pass_pages.BEGIN in text and text == pass_pages.pages()[file]


@pytest.mark.parametrize("name", BUILTIN)
def test_every_option_of_a_pass_has_a_row(name: str) -> None:
    section = read(f"passes/{name}.md")
    table = [cells for cells in rows(section) if len(cells) == 3]
    found = [(*code(name), *code(default)) for name, default, _ in table]
    assert found == [(option, default) for option, _, default in specification.describe(find(name))]


def test_every_key_of_a_target_file_has_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"base"}  # which is taken before the rest is read
    take = target._Reader.take

    def spy(reader: target._Reader, key: str, *rest: object) -> object:
        asked.add(reader.where + key)
        return take(reader, key, *rest)

    monkeypatch.setattr(target._Reader, "take", spy)
    (tmp_path / "mine.toml").write_text("")
    target.find_target(tmp_path / "mine.toml")
    leaves = {key for key in asked if not any(other.startswith(f"{key}.") for other in asked)}
    section = read("targets.md").split("## Keys\n")[1].split("\n## ")[0]
    described = [key for cells in rows(section) for key in code(cells[0])]
    assert sorted(described) == sorted(leaves)


def test_every_target_is_described() -> None:
    section = read("targets.md").split("## Shipped targets\n")[1]
    described = [code(cells[0])[0] for cells in rows(section)]
    assert sorted(described) == sorted(path.stem for path in target.FOLDER.glob("*.toml"))


@pytest.mark.parametrize(
    ("command", "section"),
    [(cli.main, "Options"), (run_tool.main, "Running the result")],
    ids=["ptq-opt", "ptq-run"],
)
def test_every_option_of_a_command_has_a_row(command: click.Command, section: str) -> None:
    text = read("command-line.md").split(f"## {section}\n")[1].split("\n## ")[0]
    described = {word for cells in rows(text) for word in code(cells[0]) if word.startswith("--")}
    options = {p.opts[-1] for p in command.params if isinstance(p, click.Option)}
    assert described == {*options, "--help"}


def test_every_rounding_of_the_kernels_is_specified() -> None:
    text = read("kernels.md")
    assert all(f"`{mode}`" in text for mode in ("float", "fixed", "gemmlowp", "s32", "s16-pairs"))


# -- nothing is referred to that is not there ------------------------------------------------------


@pytest.mark.parametrize("document", [*DOCS, *ROOT.glob("*.md")], ids=lambda d: d.stem)
def test_links_and_paths_exist(document: Path) -> None:
    text = FENCED.sub("", document.read_text(encoding="utf-8"))
    for link, anchor in re.findall(r"\]\(([^)#:]*)(?:#([\w-]+))?\)", text):
        goal = document.parent / link if link else document
        assert goal.exists(), link
        heads = re.findall(r"^#+ (.*)$", goal.read_text(encoding="utf-8"), re.M) if anchor else ()
        assert not anchor or anchor in [slug(head) for head in heads], f"{link}#{anchor}"
    for path in re.findall(r"`((?:ir|passes|native|tools|tests)/[\w./]*)`", text):
        assert (ROOT / path).exists(), path


def test_tests_that_are_named_exist() -> None:
    found = [
        named for d in DOCS for named in re.findall(r"`(tests/[\w/.]+)::(\w+)`", d.read_text())
    ]
    assert found
    for path, name in found:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{name}"


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_files_that_comments_refer_to_exist() -> None:
    for layer in ("ir", "passes", "native", "tools", "tests"):
        for file in (ROOT / layer).rglob("*.*"):
            if file.suffix in (".py", ".c", ".h", ".toml", ".md"):
                for name in re.findall(r"\bdocs/[\w/-]+\.md", file.read_text(encoding="utf-8")):
                    assert (ROOT / name).exists(), f"{file.relative_to(ROOT)} refers to {name}"


def test_the_site_builds_and_no_link_is_broken(tmp_path: Path) -> None:
    """Pages that the navigation does not list are errors, too."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "passes" / "align.html").read_text(encoding="utf-8")
    assert "<td>runs</td>" in page and "fonts.googleapis" not in page
    assert 'href="https://' not in re.sub(r"<footer.*", "", page, flags=re.S).split("<main")[1]
    assert (tmp_path / "contributing.html").exists() and (tmp_path / "native.html").exists()
