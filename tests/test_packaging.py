"""pyproject.toml names every package there is and ships the data the code reads."""

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def folder(package: str) -> Path:
    """Where a package lives; a package inside another one lives in its folder."""
    if package in SETUPTOOLS["package-dir"]:
        return ROOT / str(SETUPTOOLS["package-dir"][package])
    parent, _, name = package.rpartition(".")
    return folder(parent) / name


def test_every_package_is_named() -> None:
    listed = {folder(package) for package in SETUPTOOLS["packages"]}
    found = {
        file.parent
        for layer in ("ir", "passes", "native", "tools")
        for file in ROOT.glob(f"{layer}/**/__init__.py")
    }
    assert listed == found


def test_data_is_shipped() -> None:
    shipped = {
        file
        for package, patterns in SETUPTOOLS["package-data"].items()
        for pattern in patterns
        for file in folder(package).glob(pattern)
    }
    patterns = ["ir/targets/*", "native/include/ptq/*.h", "native/src/*", "tools/**/py.typed"]
    patterns += ["tools/pages/assets/**/*.*", "tools/pages/assets/vendor/NOTICE"]
    for pattern in patterns:
        files = list(ROOT.glob(pattern))
        assert files, pattern
        for file in files:
            assert file in shipped, file.relative_to(ROOT)


def test_bundled_scripts_are_as_published_with_their_licences() -> None:
    """But for the comments that name other files."""
    folder = ROOT / "tools/pages/assets/vendor"
    notice = (folder / "NOTICE").read_text(encoding="utf-8")
    for name, digest in (
        ("d3.min.js", "912111098ea99503a6f4967361d2bbdc9dbf58cf9c678c8e27e5b02d1a07f0c1"),
        ("dagre.min.js", "2a3aee60b1ee1f12f51354acfb9e6a94e5ec350eabba57e9c4427dab5a10386c"),
    ):
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        assert name in notice
    assert "ISC" in notice and "MIT" in notice


def test_every_script_exists() -> None:
    for target in PROJECT["project"]["scripts"].values():
        module, _, function = target.partition(":")
        package, _, name = module.rpartition(".")
        assert f"def {function}(" in (folder(package) / f"{name}.py").read_text()


def test_the_version_is_said_in_one_place() -> None:
    version = (ROOT / "native" / "VERSION").read_text().strip()
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert SETUPTOOLS["dynamic"]["version"] == {"file": "native/VERSION"}
    assert "version" not in PROJECT["project"]
    assert "VERSION ${PTQ_VERSION}" in (ROOT / "native" / "CMakeLists.txt").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="no checkout by git"
)
def test_a_source_distribution_builds_from_a_clean_tree_and_is_complete(tmp_path: Path) -> None:
    """It holds all that building and using the package takes, and nothing generated."""
    clean = tmp_path / "clean"
    for name in git("ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (ROOT / name).exists() and not name.startswith("tests/data/"):
            (clean / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clean / name)
    code = f"from setuptools import build_meta; print(build_meta.build_sdist({str(tmp_path)!r}))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    archive = tmp_path / done.stdout.split()[-1]
    version = (ROOT / "native" / "VERSION").read_text().strip()
    assert archive.name == f"ptq_opt-{version}.tar.gz"
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    code_files = {
        str(file.relative_to(clean))
        for layer in ("ir", "passes", "native", "tools")
        for file in (clean / layer).rglob("*")
        if file.is_file() and file.name not in ("README.md", ".clang-format")
    }
    assert sorted(code_files - held) == []
    assert {"LICENSE", "README.md", "pyproject.toml"} <= held
    assert not any(name.endswith((".so", ".o", ".pyc")) for name in held)
