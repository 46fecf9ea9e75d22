"""The C library on its own: built with warnings as errors, checked on random models."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "native"
HERE = Path(__file__).parent / "c"
STRICT = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"]
INCLUDES = [f"-I{NATIVE / 'include'}", f"-I{NATIVE / 'src'}", f"-I{HERE}"]
SANITIZE = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
ARM = "aarch64-linux-gnu-gcc"
EMULATE512 = f"-include{HERE / 'emulate512.h'}"
SIMDE = Path("/usr/include/simde/x86/avx512.h")

Build = Callable[..., Path]


def needs(*tools: str) -> pytest.MarkDecorator:
    """Skip where one of the tools is not installed."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)} here")


def compilers(names: str, **choices: object) -> pytest.MarkDecorator:
    """Once with each compiler, and with what is chosen for it."""
    found = [pytest.param(cc, choice, marks=needs(cc)) for cc, choice in choices.items()]
    return pytest.mark.parametrize(names, found)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """(compiler, program in `c/`, flags) -> executable; the library is compiled once for each."""

    @functools.cache
    def objects(cc: str, *flags: str) -> list[Path]:
        folder = tmp_path_factory.mktemp("objects")
        sources = [HERE / "random_model.c", *sorted((NATIVE / "src").glob("*.c"))]
        command = [cc, *STRICT, *flags, *INCLUDES, "-c"]
        if EMULATE512 in flags:  # only where it is needed: SIMDe's headers are large
            beyond = [s for s in sources if re.search("avx512|avxvnni|amx", s.name)]
            subprocess.run([*command, *map(str, beyond)], cwd=folder, check=True)
            sources = [s for s in sources if s not in beyond]
            command = [part for part in command if part != EMULATE512]
        subprocess.run([*command, *map(str, sources)], cwd=folder, check=True)
        return sorted(folder.glob("*.o"))

    def program(cc: str, name: str, *flags: str, link: str = "") -> Path:
        target = tmp_path_factory.mktemp("program") / "program"
        parts = [str(HERE / name), *map(str, objects(cc, *flags))]
        flags = tuple(flag for flag in flags if flag != EMULATE512)
        command = [cc, *STRICT, *flags, *INCLUDES, *parts, "-o", str(target), "-lm", "-pthread"]
        subprocess.run([*command, *link.split()], check=True)
        return target

    return program


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@compilers("cc, cases", gcc=20000, clang=3000)
def test_every_instruction_set_equals_scalar(cc: str, cases: int, build: Build) -> None:
    checker = build(cc, "checker.c", "-O2")
    assert f"{cases} cases, 0 failures" in run(str(checker), str(cases), "1")


def cpu_flags() -> set[str]:
    """What this processor can do, by Linux's names; empty where nothing tells."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    return set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())


@pytest.mark.skipif(
    not {"avx512_vnni", "avx512vbmi", "avx512dq"} <= cpu_flags(), reason="emulation needs AVX-512"
)
@needs("gcc")
def test_emulated_instruction_sets_equal_scalar(build: Build) -> None:
    """AMX and AVX-VNNI kernels, their instructions replaced by others and by C."""
    features = ["f", "bw", "vl", "dq", "vnni", "vbmi"]
    flags = [*(f"-mavx512{feature}" for feature in features), "-O2", "-include"]
    checker = build("gcc", "checker.c", *flags, str(HERE / "emulate.h"))
    found = run(str(checker), "5000", "1")
    assert "5000 cases, 0 failures, best instruction set amx" in found


@pytest.mark.skipif("avx2" not in cpu_flags(), reason="emulation needs AVX2")
@pytest.mark.skipif(not SIMDE.exists(), reason="SIMDe (libsimde-dev) is not installed")
@needs("gcc")
def test_emulated_avx512_equals_scalar(build: Build) -> None:
    """The same and AVX-512's where there is no AVX-512 either, through SIMDe."""
    flags = ["-mavx2", "-O1", "-Wno-psabi", EMULATE512, "-include", str(HERE / "emulate.h")]
    found = run(str(build("gcc", "checker.c", *flags)), "1000", "1")
    assert "1000 cases, 0 failures, best instruction set amx" in found


@needs("gcc")
def test_sanitizers_find_nothing(build: Build) -> None:
    checker = build("gcc", "checker.c", *SANITIZE)
    assert "1500 cases, 0 failures" in run(str(checker), "1500", "100000")


@needs("gcc")
def test_damaged_models_do_no_harm(build: Build) -> None:
    """The fuzz target on its own: what loads is run, under both sanitizers."""
    fuzzer = build("gcc", "loader_fuzz.c", *SANITIZE)
    assert "10000 models" in run(str(fuzzer), "10000", "1")


@needs("clang")
def test_libfuzzer_finds_nothing(build: Build, tmp_path: Path) -> None:
    """Ten seconds, guided by coverage, from sound models on; with the address sanitizer."""
    write = build("clang", "loader_fuzz.c", "-O2")
    run(str(write), "100", "1", str(tmp_path))
    flags = ["-O1", "-g", "-fsanitize=fuzzer-no-link,address", "-DWITH_LIBFUZZER"]
    fuzzer = build("clang", "loader_fuzz.c", *flags, link="-fsanitize=fuzzer")
    run(str(fuzzer), "-max_total_time=10", f"-artifact_prefix={tmp_path}/", str(tmp_path))


@needs("gcc")
def test_scalar_code_stands_alone(build: Build) -> None:
    """What the compiler of a machine that is no x86 sees."""
    checker = build("gcc", "checker.c", "-O0", "-DPTQ_PORTABLE")
    assert "best instruction set scalar" in run(str(checker), "300", "1")


@needs(ARM)
def test_compiles_for_arm(build: Build) -> None:
    """With warnings as errors; where an emulator is installed, the scalar code also runs."""
    checker = build(ARM, "checker.c", "-O1", "-static")
    if shutil.which("qemu-aarch64") is not None:
        found = run("qemu-aarch64", str(checker), "300", "1")
        assert "300 cases, 0 failures, best instruction set scalar" in found


@compilers("cc, language", gcc="c11", clang="c++11")
def test_public_header_compiles_alone(cc: str, language: str) -> None:
    header = NATIVE / "include" / "ptq" / "kernels.h"
    flags = ["-x", language.removesuffix("11"), f"-std={language}", "-Wall", "-Wextra", "-Werror"]
    run(cc, *flags, "-fsyntax-only", str(header))


@needs("cmake")
@compilers("cc, shared", gcc="OFF", clang="ON")
def test_cmake_package_is_found(cc: str, shared: str, tmp_path: Path) -> None:
    """Built, installed and found by another project, which links the library and runs."""
    prefix, user = tmp_path / "prefix", tmp_path / "user"
    options = [f"-DCMAKE_C_COMPILER={cc}", "-DCMAKE_BUILD_TYPE=Debug"]
    install = [f"-DCMAKE_INSTALL_PREFIX={prefix}", f"-DBUILD_SHARED_LIBS={shared}"]
    run("cmake", "-S", str(NATIVE), "-B", str(tmp_path / "b"), *options, *install)
    run("cmake", "--build", str(tmp_path / "b"), "--target", "install")
    user.mkdir()
    (user / "main.c").write_text(
        '#include "ptq/kernels.h"\nint main(void) { return ptq_isa_name(ptq_best_isa()) == 0; }\n'
    )
    (user / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(user C)\n"
        "find_package(ptq_kernels 0.1 REQUIRED)\nadd_executable(user main.c)\n"
        "target_link_libraries(user PRIVATE ptq::kernels)\n"
    )
    found = f"-DCMAKE_PREFIX_PATH={prefix}"
    run("cmake", "-S", str(user), "-B", str(user / "b"), *options, found)
    run("cmake", "--build", str(user / "b"))
    run(str(user / "b" / "user"))
    library = next(prefix.rglob("libptq_kernels.so" if shared == "ON" else "libptq_kernels.a"))
    if shared == "ON" and shutil.which("nm") is not None:
        names = run("nm", "-D", "--defined-only", str(library)).split()[2::3]
        declared = (NATIVE / "include" / "ptq" / "kernels.h").read_text()
        assert names and all(f"{name}(" in declared for name in names)
