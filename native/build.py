"""The two setuptools commands this package needs, named in pyproject.toml."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

from setuptools.command.build_ext import build_ext
from setuptools.command.editable_wheel import editable_wheel
from setuptools.extension import Extension


class BuildExt(build_ext):
    """`build_ext` with the generated cffi glue and every kernel source."""

    def build_extension(self, ext: Extension) -> None:
        """Write the glue and compile it with all of `native/src`."""
        glue = Path(self.build_temp, "_kernels.c")
        glue.parent.mkdir(parents=True, exist_ok=True)
        runpy.run_path("native/ffi.py")["builder"]().emit_c_code(str(glue))
        ext.sources = [str(glue), *map(str, sorted(Path("native/src").glob("*.c")))]
        if self.compiler.compiler_type == "unix":
            # Fused multiply-adds would round once where the specification rounds twice.
            ext.extra_compile_args += ["-std=c11", "-D_GNU_SOURCE", "-ffp-contract=off", "-pthread"]
            ext.extra_link_args += ["-pthread", "-lm"]
        super().build_extension(ext)


class EditableWheel(editable_wheel):
    """Editable installs as links to the source folders, which type checkers can follow."""

    def finalize_options(self) -> None:
        """Point the package at a tree of links, where the file system has links."""
        super().finalize_options()
        links = Path("build", "editable")
        shutil.rmtree(links, ignore_errors=True)
        try:
            for package, folder in sorted(self.package_dir.items()):
                here, there = links.joinpath(*package.split(".")), Path(folder).resolve()
                if "." in package:
                    here.symlink_to(there, target_is_directory=True)
                else:
                    here.mkdir(parents=True)
                    for file in there.iterdir():
                        here.joinpath(file.name).symlink_to(file)
        except OSError:  # no symlinks here: setuptools falls back on an import hook
            return
        self.package_dir = {"": str(links)}
