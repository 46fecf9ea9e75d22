"""What importing and using the package does besides: load little, say nothing, call nobody."""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from small_model import Feeds, make_samples, small_model

import ptq_opt

TESTS = Path(__file__).resolve().parents[1]


def python(code: str, *arguments: str) -> list[str]:
    """Run code in a process of its own; the words that it prints."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout.split()


def loaded(statement: str) -> set[str]:
    """Packages outside the standard library that a statement imports."""
    names = "print(*{m.partition('.')[0] for m in set(sys.modules) - before})"
    found = python(f"import sys; before = set(sys.modules); {statement}; {names}")
    return set(found) - sys.stdlib_module_names - {"ptq_opt"}


def test_importing_the_package_loads_nothing_else() -> None:
    assert loaded("import ptq_opt") == set()


@pytest.mark.parametrize(
    "statement",
    [
        "from ptq_opt import *",
        "from ptq_opt import Pipeline, quantize",
        "from ptq_opt.passes.registry import BUILTIN, find; [find(name) for name in BUILTIN]",
        "import ptq_opt.tools.cli",
    ],
)
def test_what_is_heavy_is_loaded_when_it_is_used(statement: str) -> None:
    heavy = {"onnxruntime", "scipy", "onnx_graphsurgeon", "optuna", "pandas", "matplotlib"}
    assert not loaded(statement) & heavy


def test_the_version_is_that_of_the_distribution() -> None:
    version = (TESTS.parent / "native" / "VERSION").read_text().strip()
    assert ptq_opt.__version__ == version
    assert "__version__" not in vars(ptq_opt)  # looked up on use


NO_NETWORK = """
import sys

def watch(event, arguments):
    if event.startswith(("socket.", "http.client.", "urllib.", "ftplib.", "smtplib.")):
        print(event, arguments)

sys.addaudithook(watch)
import ptq_opt
result = ptq_opt.quantize(sys.argv[1], sys.argv[2])
result.save(sys.argv[1] + ".int8")
str(result), result._repr_html_(), result.model
"""


def test_no_socket_is_opened_and_nothing_printed(tmp_path: Path) -> None:
    """Python tells its audit hooks of every socket before it is made."""
    onnx.save(small_model(), tmp_path / "model.onnx")
    (tmp_path / "calib").mkdir()
    import numpy as np

    for number, feeds in enumerate(make_samples(4)):
        np.savez(tmp_path / "calib" / f"{number}.npz", **feeds)
    assert python(NO_NETWORK, str(tmp_path / "model.onnx"), str(tmp_path / "calib")) == []
    assert python(NO_NETWORK.split("import ptq_opt")[0] + "import socket; socket.socket()")


def test_warnings_are_logged_not_printed() -> None:
    """In a process of its own, where nothing else has touched the loggers."""
    listen = "log = logging.getLogger(); log.addHandler(logging.Handler()); seen = []"
    quantize = "log.handlers[0].emit = seen.append; ptq_opt.quantize(small_model.small_model())"
    show = "print(*(f'{record.name}: {record.getMessage()}' for record in seen))"
    found = python(f"import logging, ptq_opt, small_model; {listen}; {quantize}; {show}")
    assert found[0] == "ptq_opt:" and found.count("ptq_opt:") == 1
    assert "no calibration data" in " ".join(found)


def test_a_result_shows_its_report(model: onnx.ModelProto, samples: list[Feeds]) -> None:
    result = ptq_opt.quantize(model, samples)
    assert str(result) == str(result.report) and "Where precision is lost most" in str(result)
    page = result._repr_html_()
    assert page == result.report._repr_html_()
    assert page.startswith("<pre") and page.endswith("</pre>") and "font-weight: bold" in page
    assert "Where precision is lost most" in page and "\x1b" not in page


def test_a_result_is_a_line_where_only_a_line_fits(
    model: onnx.ModelProto, samples: list[Feeds]
) -> None:
    result = ptq_opt.quantize(model, samples)
    decibel = min(o.sqnr_db for o in result.report.fidelity.outputs if o.sqnr_db)
    assert repr(result) == (
        "<Result: model in memory for ort-cpu: 6 of 6 operators in integers, 0.04 -> 0.01 MB, "
        f"{decibel:.1f} dB>"
    )


def test_names_in_a_report_are_no_markup_of_the_page(samples: list[Feeds]) -> None:
    model = small_model()
    model.graph.node[0].name = "<script>alert(1)</script>"
    page = ptq_opt.quantize(model, samples)._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page
