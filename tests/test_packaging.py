"""pyproject.toml names every package there is and ships the data the code reads."""

import sys
from pathlib import Path

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
    for pattern in ("ir/targets/*", "native/include/ptq/*.h", "native/src/*", "tools/**/py.typed"):
        for file in ROOT.glob(pattern):
            assert file in shipped, file.relative_to(ROOT)


def test_every_script_exists() -> None:
    for target in PROJECT["project"]["scripts"].values():
        module, _, function = target.partition(":")
        package, _, name = module.rpartition(".")
        assert f"def {function}(" in (folder(package) / f"{name}.py").read_text()
