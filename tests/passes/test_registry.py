"""Passes are found by name: ours, and those of packages that register some."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rewriting import net, ops

from ptq_opt.ir import UsageError
from ptq_opt.ir.target import find_target
from ptq_opt.passes import Context, Pipeline
from ptq_opt.passes.registry import BUILTIN, DEFAULT, find, names, provider

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PLUGIN = Path(__file__).resolve().parents[1] / "plugin"
GROUP = "ptq_opt.passes"


def install(site: Path, package: str, entries: dict[str, str], group: str = GROUP) -> None:
    """What pip leaves behind for a package that registers passes, or something else."""
    folder = site / f"{package.replace('-', '_')}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {target}" for name, target in entries.items()]
    (folder / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that Python imports from, with the code of the example package."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(PLUGIN)
    yield tmp_path
    sys.modules.pop("ptq_opt_swish", None)


@pytest.fixture
def plugin(site: Path) -> Path:
    """The same, with the example package installed."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    install(site, project["name"], project["entry-points"][GROUP])
    return site


def test_all_default_passes_exist_under_their_names() -> None:
    assert [find(name).name for name in BUILTIN] == list(BUILTIN)
    assert set(DEFAULT.split(",")) <= BUILTIN.keys()


def test_every_required_fact_has_a_provider() -> None:
    needed = {fact for name in BUILTIN for fact in find(name).requires}
    assert all(fact in provider(fact).establishes for fact in needed)


def test_an_unknown_pass_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="there is no pass 'fold-nb'; did you mean 'fold-bn'"):
        find("fold-nb")


def test_an_installed_package_adds_a_pass(plugin: Path) -> None:
    assert "hard-swish" in names()
    assert find("hard-swish").summary().startswith("Approximate x * sigmoid(x)")


def test_its_pass_takes_part_in_a_pipeline(plugin: Path) -> None:
    pipeline = Pipeline("hard-swish{limit=7}")
    assert pipeline.spec == "canonicalize,hard-swish{limit=7}"
    graph = net("s = Sigmoid(x)\n y = Mul(s, x)")
    pipeline.run(graph, Context(target=find_target("ort-cpu")))
    assert ops(graph) == ["HardSwish"]


def test_a_package_is_loaded_only_when_its_pass_is_named(plugin: Path) -> None:
    names()
    find("cleanup")
    assert "ptq_opt_swish" not in sys.modules


def test_it_may_bring_a_target_too(site: Path) -> None:
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    group = "ptq_opt.targets"
    install(site, project["name"], project["entry-points"][group], group)
    found = find_target("swish-chip")
    assert found.activations.symmetric and "HardSwish" in found.fused["Conv"]


def test_two_packages_with_one_name_are_both_named(plugin: Path) -> None:
    install(plugin, "other-swish", {"hard-swish": "nowhere:Nothing"})
    with pytest.raises(UsageError, match=r"'hard-swish': (ptq-opt|other)-swish and"):
        find("hard-swish")
    assert find("align").name == "align"


def test_the_names_of_our_passes_are_taken(site: Path) -> None:
    install(site, "better-align", {"align": "nowhere:Nothing"})
    with pytest.raises(UsageError, match="'align': ptq-opt and better-align; uninstall one"):
        find("align")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere:Nothing", "'mine' of broken cannot be loaded: ModuleNotFoundError"),
        ("ptq_opt.passes:Rule", "'mine' is registered as a pass but .* is not a Pass class"),
        ("ptq_opt.passes.cleanup:Cleanup", "pass 'cleanup' is registered as 'mine'"),
    ],
)
def test_what_is_no_pass_is_refused(site: Path, target: str, message: str) -> None:
    install(site, "broken", {"mine": target})
    with pytest.raises(UsageError, match=message):
        find("mine")
