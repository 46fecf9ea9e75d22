"""The C library on its own: built with warnings as errors, checked on random models."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "native"
HERE = Path(__file__).parent / "c"
COMPILER = shutil.which("cc")
STRICT = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"]

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


def build(target: Path, program: str, *flags: str) -> Path:
    """Compile the library and one of the programs in `c/`."""
    sources = [HERE / program, HERE / "random_model.c", *sorted((NATIVE / "src").glob("*.c"))]
    includes = [f"-I{NATIVE / 'include'}", f"-I{NATIVE / 'src'}"]
    subprocess.run(
        [COMPILER or "cc", *STRICT, *flags, *includes, *sources, "-o", target, "-lm", "-pthread"],
        check=True,
    )
    return target


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_instruction_set_equals_scalar(tmp_path: Path) -> None:
    checker = build(tmp_path / "checker", "checker.c", "-O2")
    assert "20000 cases, 0 failures" in run(str(checker), "20000", "1")


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
def test_emulated_instruction_sets_equal_scalar(tmp_path: Path) -> None:
    """AMX and AVX-VNNI kernels, their instructions replaced by others and by C."""
    features = ["f", "bw", "vl", "dq", "vnni", "vbmi"]
    flags = [*(f"-mavx512{feature}" for feature in features), "-O2", "-include"]
    checker = build(tmp_path / "checker", "checker.c", *flags, str(HERE / "emulate.h"))
    found = run(str(checker), "5000", "1")
    assert "5000 cases, 0 failures, best instruction set amx" in found


def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    checker = build(tmp_path / "checker", "checker.c", *flags)
    assert "1500 cases, 0 failures" in run(str(checker), "1500", "100000")


@pytest.mark.parametrize("language", ["c", "c++"])
def test_public_header_compiles_alone(language: str) -> None:
    header = NATIVE / "include" / "ptq" / "kernels.h"
    std = "c11" if language == "c" else "c++11"
    run(
        str(COMPILER),
        "-x",
        language,
        f"-std={std}",
        "-Wall",
        "-Werror",
        "-fsyntax-only",
        str(header),
    )


def test_cmake_package_is_found(tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("no cmake")
    prefix, user = tmp_path / "prefix", tmp_path / "user"
    run("cmake", "-S", str(NATIVE), "-B", str(tmp_path / "b"), f"-DCMAKE_INSTALL_PREFIX={prefix}")
    run("cmake", "--build", str(tmp_path / "b"), "--target", "install", "-j2")
    user.mkdir()
    (user / "main.c").write_text(
        '#include "ptq/kernels.h"\nint main(void) { return ptq_isa_name(ptq_best_isa()) == 0; }\n'
    )
    (user / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(user C)\n"
        "find_package(ptq_kernels 0.1 REQUIRED)\nadd_executable(user main.c)\n"
        "target_link_libraries(user PRIVATE ptq::kernels)\n"
    )
    run("cmake", "-S", str(user), "-B", str(user / "b"), f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", str(user / "b"))
    run(str(user / "b" / "user"))


def test_compiles_without_x86(tmp_path: Path) -> None:
    """The scalar code stands alone: what another machine's compiler sees."""
    checker = build(tmp_path / "checker", "checker.c", "-O1", "-DPTQ_PORTABLE")
    assert "best instruction set scalar" in run(str(checker), "300", "1")


def test_damaged_models_do_no_harm(tmp_path: Path) -> None:
    """The fuzz target on its own: what loads is run, under both sanitizers."""
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    fuzzer = build(tmp_path / "fuzzer", "loader_fuzz.c", *flags)
    assert "10000 models" in run(str(fuzzer), "10000", "1")
