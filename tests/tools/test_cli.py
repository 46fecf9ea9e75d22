"""`ptq-opt`: options, output files, exit codes."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from ptq_opt import Graph, UsageError
from ptq_opt.passes import Context
from ptq_opt.tools.cli import main
from ptq_opt.tools.commands import COMMANDS, SECTIONS

Run = Callable[..., Result]


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call `ptq-opt` in the folder of the model."""
    monkeypatch.chdir(folder)
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_quantizes_in_a_process_of_its_own(folder: Path) -> None:
    words = ["model.onnx", "--data", "calib", "--json", "report.json"]
    done = subprocess.run(
        [sys.executable, "-m", "ptq_opt.tools.cli", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    written = "Written\n  model.int8.onnx\n  report.json\n"
    for part in ("Quantized", "Conv", "SQNR", "Passes", "calibrate", written):
        assert part in done.stdout
    assert done.stderr == ""
    onnx.checker.check_model(folder / "model.int8.onnx")
    report = json.loads((folder / "report.json").read_text())
    assert report["fidelity"]["outputs"][0]["name"] == "y"
    assert listing(folder) == {"model.onnx", "calib", "model.int8.onnx", "report.json"}


def test_the_printed_command_does_the_same_again(run: Run, folder: Path) -> None:
    assert run("model.onnx", "--data=calib", "--exclude=^second$", "--json=r.json").exit_code == 0
    before = (folder / "model.int8.onnx").read_bytes()
    (folder / "model.int8.onnx").unlink()
    program, *words = shlex.split(json.loads((folder / "r.json").read_text())["command"])
    assert program == "ptq-opt"
    assert run(*words).exit_code == 0
    assert (folder / "model.int8.onnx").read_bytes() == before


def test_bytes_do_not_depend_on_the_process(folder: Path) -> None:
    outputs = []
    for seed in ("1", "2"):  # of the order of sets and of strings' hashes
        subprocess.run(
            [sys.executable, "-m", "ptq_opt.tools.cli", "model.onnx", "--data=calib", "--quiet"],
            cwd=folder,
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
        )
        outputs.append((folder / "model.int8.onnx").read_bytes())
    assert outputs[0] == outputs[1]


def test_prints_the_full_pipeline(run: Run) -> None:
    done = run("--passes=align,bias,quant", "--print-pipeline")
    names = [part.split("{")[0] for part in done.stdout.strip().split(",")]
    assert [n for n in names if n in ("align", "bias", "quant")] == ["align", "bias", "quant"]
    assert names.index("calibrate") < names.index("plan") < names.index("bias")


def test_lists_passes_with_their_options(run: Run) -> None:
    done = run("--list-passes")
    assert done.exit_code == 0
    for part in ("calibrate", "method=", "mean-max|min-max", "samples=int", "quant"):
        assert part in done.stdout


def test_lists_targets(run: Run) -> None:
    done = run("--list-targets")
    assert done.exit_code == 0
    for name in ("ort-cpu", "openvino-cpu", "tensorrt", "generic", "native"):
        assert name in done.stdout


def test_prints_graphs_around_passes(run: Run) -> None:
    done = run("model.onnx", "--passes=canonicalize", "--print-before=all", "--print-after=all")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.index("; before canonicalize") < done.stderr.index("; after canonicalize")
    assert "Conv" in done.stderr and "Conv" not in done.stdout


def test_shows_times_and_statistics(run: Run) -> None:
    done = run("model.onnx", "--passes=canonicalize", "--time-passes", "--stats")
    assert "load, float runs, comparison" in done.stdout
    assert "matched" in done.stdout


def test_a_configuration_is_a_table(run: Run, folder: Path) -> None:
    (folder / "ptq.json").write_text("[1]")
    assert "must be a table of options" in run("--config=ptq.json").stderr


def test_checks_that_passes_keep_the_function(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ptq_opt.passes.canonicalize import Canonicalize

    def spoil(_: Canonicalize, graph: Graph, __: Context) -> None:
        (weights,) = [v for v in graph.values() if v.name == "w3"]
        graph.replace(weights, graph.constant(2 * weights.numpy()))

    words = ["model.onnx", "--data=calib", "--passes=canonicalize"]
    assert run(*words, "--verify=numerics").exit_code == 0
    monkeypatch.setattr(Canonicalize, "run", spoil)
    done = run(*words, "--verify=numerics")
    assert done.exit_code == 1
    assert "pass 'canonicalize' promises to keep the function, but output 'y'" in done.stderr
    assert run(*words).exit_code == 0


def test_quiet_prints_nothing(run: Run) -> None:
    done = run("model.onnx", "--quiet", "--samples=4")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")


def test_quiet_still_answers(run: Run) -> None:
    done = run("model.onnx", "--data=calib", "--quiet", "--explain=second")
    assert done.stdout.startswith("\nConv 'second'\n  precision   integers")
    done = run("model.onnx", "--data=calib", "--quiet", "--explain=secnod")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "there is no operator 'secnod'; did you mean 'second'?" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["modle.onnx"], "File 'modle.onnx' does not exist; did you mean 'model.onnx'?"),
        (["dif", "model.onnx"], "File 'dif' does not exist; did you mean 'diff'?"),
        (["something"], "File 'something' does not exist."),
        (["diff", "model.onnx", "modl.onnx"], "does not exist; did you mean 'model.onnx'?"),
        (
            ["model.onnx", "--data=calibb"],
            "no calibration data at 'calibb'; did you mean 'calib'?",
        ),
        (["model.onnx", "--data=mine:f"], "modules are looked for in the current folder"),
    ],
)
def test_names_the_nearest_file(words: list[str], message: str, run: Run) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert message in done.stderr


def test_help_is_in_sections_and_leaves_no_option_out(run: Run) -> None:
    text = run("--help").stdout
    for heading in SECTIONS.values():
        assert f"\n{heading}:\n" in text
    assert all(option.opts[-1] in text for option in main.params if option.opts[0][0] == "-")
    assert all(f"ptq-opt {command} " in text for command in COMMANDS)


def test_warns_without_data(run: Run) -> None:
    done = run("model.onnx")
    assert done.exit_code == 0
    assert "warning: there is no calibration data" in done.stderr
    assert "made-up noise" in done.stdout


def test_a_data_free_run_can_be_repeated_by_its_command(run: Run, folder: Path) -> None:
    assert run("model.onnx", "--data-free", "--json=r.json").exit_code == 0
    report = json.loads((folder / "r.json").read_text())
    assert "--data-free" in report["command"] and "statistics" in report["pipeline"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ptq.toml", 'model = "model.onnx"\ndata = "calib"\nexclude-op = ["Add"]\nsamples = 9\n'),
        (
            "ptq.json",
            '{"model": "model.onnx", "data": "calib", "exclude-op": ["Add"], "samples": 9}',
        ),
    ],
)
def test_configuration_has_the_keys_of_the_command_line(
    run: Run, folder: Path, name: str, text: str
) -> None:
    (folder / name).write_text(text)
    assert run("--config", name, "--json=r.json", "--samples=7").exit_code == 0
    report = json.loads((folder / "r.json").read_text())
    assert report["samples"] == 7  # the command line has precedence
    assert "op:Add" in report["command"]


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("sampels = 3", "did you mean 'samples'"),
        ("samples = ", "is not TOML"),
        ("samples = 'many'", "not a valid integer"),
    ],
)
def test_bad_configuration(run: Run, folder: Path, text: str, cure: str) -> None:
    (folder / "ptq.toml").write_text(text)
    done = run("model.onnx", "--config=ptq.toml")
    assert done.exit_code == 2
    assert cure in done.stderr


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (["--passes=canonicalise"], "did you mean 'canonicalize'"),
        (["--passes=calibrate{metod=mse}"], "did you mean 'method'"),
        (["--passes=calibrate{method=mode}"], "'mode' is not one of"),
        (["--target=ort-cpi"], "did you mean 'ort-cpu'"),
        (["--samples=0"], "at least 1"),
        (["--exclude=secnd"], "did you mean 'second'"),
        (["--exclude-op=Relux"], "did you mean 'Relu'"),
        (["--print-after=quantise", "--passes=quant"], "did you mean 'quant'"),
        (["--output=nowhere/out.onnx"], "make the folder 'nowhere' first"),
        (["--output=calib"], "it is a folder"),
        (["--output=model.onnx"], "is the model itself"),
        (["--json=nowhere/report.json"], "make the folder 'nowhere' first"),
        (["--data=nothing"], "nothing"),
        (["--sampels=3"], "--samples"),
    ],
)
def test_usage_errors_exit_with_2(run: Run, folder: Path, words: list[str], cure: str) -> None:
    before = listing(folder)
    done = run("model.onnx", "--data=calib", *words)
    assert done.exit_code == 2, done.stderr
    assert cure in done.stderr
    assert "Traceback" not in done.stderr
    assert listing(folder) == before


@pytest.mark.parametrize("words", [[], ["missing.onnx"]])
def test_a_missing_model_is_a_usage_error(run: Run, words: list[str]) -> None:
    assert run(*words).exit_code == 2


def test_debug_shows_the_traceback(run: Run, folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"no model")
    assert "Traceback" not in run("model.onnx").stderr
    assert "Traceback" in run("model.onnx", "--debug").stderr


def test_a_failing_pass_prints_how_to_reproduce(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from ptq_opt.passes.quant import Quantize

    def fail(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(Quantize, "run", fail)
    done = run("model.onnx", "--data=calib", "--seed=3")
    assert done.exit_code == 1
    assert "pass 'quant' failed: RuntimeError: boom" in done.stderr
    command = done.stderr.splitlines()[-1].strip()
    assert command.startswith("ptq-opt model.onnx")
    assert ",quant " in command and "cleanup" not in command and "--seed=3" in command
    assert "boom" in run(*shlex.split(command)[1:]).stderr


def test_an_error_is_one_message(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import ptq_opt.tools.api as api

    def fail(*_: object, **__: object) -> None:
        raise UsageError("as it is")

    monkeypatch.setattr(api, "quantize", fail)
    assert run("model.onnx").stderr == "ptq-opt: error: as it is\n"
