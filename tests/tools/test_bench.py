"""The benchmark's own arithmetic: noise for empty models, verdicts, tables, conversions."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from ptq_opt import native
from ptq_opt.tools.bench import measure, noise, tables
from ptq_opt.tools.bench.__main__ import main
from ptq_opt.tools.bench.cases import Case, find_cases, store
from ptq_opt.tools.bench.engines import Race, geometric_means, race, race_table
from ptq_opt.tools.bench.measure import FP32, OURS, Row, Settings
from ptq_opt.tools.bench.peer_worker import TOOLS
from ptq_opt.tools.bench.quantizers import PEER_SAMPLES, run_logged, run_peer
from ptq_opt.tools.bench.racing import race_integers
from ptq_opt.tools.bench.speed import conversions_left, interleaved_latency
from ptq_opt.tools.bench.verdict import misses

MODEL = Path(__file__).resolve().parents[1] / "data/crepe_tiny/model.onnx"


def rows(**changes: object) -> list[Row]:
    """A result that misses nothing, with some fields of ours changed."""
    ours = Row("m", "trained", OURS, metric="top1", score=0.8, sqnr_db={"y": 20.0}, latency_ms=1.0)
    peer = Row("m", "trained", "ort", metric="top1", score=0.8, sqnr_db={"y": 19.0}, latency_ms=1.1)
    fp32 = Row("m", "trained", FP32, metric="top1", score=0.81, latency_ms=2.0, run_seconds=1.0)
    return [fp32, dataclasses.replace(ours, **changes), peer]


def test_nothing_missed() -> None:
    assert misses(rows()) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"score": 0.79}, "top1 0.7900 below 0.8000 of ort"),
        ({"sqnr_db": {"y": 18.0}}, "SQNR of y 18.00 dB below 19.00 dB of ort"),
        ({"latency_ms": 1.5}, "1.500 ms, ort takes 1.100 ms"),
        ({"errors": {"openvino": "no such operator"}}, "openvino: no such operator"),
    ],
)
def test_miss_is_named(changes: dict[str, object], expected: str) -> None:
    assert misses(rows(**changes)) == [f"trained/m: {expected}"]


def test_int8_as_slow_as_fp32_is_a_miss() -> None:
    fp32, ours, _ = rows(latency_ms=2.0)
    assert misses([fp32, ours]) == ["trained/m: 2.000 ms, fp32 takes 2.000 ms"]


def test_a_peer_without_a_file_is_no_bound() -> None:
    fp32, ours, _ = rows()
    failed = Row("m", "trained", "nncf", errors={"quantize": "it broke"})
    assert misses([fp32, ours, failed]) == []
    assert tables.errors([fp32, ours, failed]) == ["nncf, quantize: it broke"]


def test_cost_of_the_command() -> None:
    fp32, ours, _ = rows(model="mobilenet_v2", seconds=7.1, peak_bytes=501_000_000)
    assert [miss.split(": ")[1] for miss in misses([fp32, ours])] == [
        "peak 501 MB above 500 MB",
        "quantized in 7.1 s, allowed are 7.0 s",
    ]


def test_conversions_left_are_bounded_where_everything_fuses() -> None:
    fp32, ours, _ = rows(model="resnet50", kind="light", conversions=(1, 2))
    assert [miss.split(": ")[1] for miss in misses([fp32, ours])] == [
        "1 Q and 2 DQ left after ONNX Runtime's optimizer"
    ]
    ours.conversions = (1, 1)
    assert misses([fp32, ours]) == []


def test_table_has_a_line_for_each_output() -> None:
    lines = dict(tables.lines(rows()))
    assert lines["top1"] == ["0.8100", "0.8000", "0.8000"]
    assert lines["y, dB SQNR"] == ["", "20.00", "19.00"]
    assert lines["ONNX Runtime, ms"] == ["2.000", "1.000 (2.00x)", "1.100 (1.82x)"]
    assert tables.table(rows()).row_count == 4  # with the time to run the samples


def test_json_holds_every_row(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    tables.write_json(file, rows(), ["a miss"])
    content = json.loads(file.read_text())
    assert [row["tool"] for row in content["rows"]] == [FP32, OURS, "ort"]
    assert content["misses"] == ["a miss"]


def test_latency_tells_why_a_file_does_not_run(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    feeds = {"frames": np.zeros((1, 1024), np.float32)}
    taken = interleaved_latency({"good": MODEL, "broken": broken}, feeds, 1, 0)
    assert isinstance(taken["good"], float)
    assert taken["good"] > 0
    assert "InvalidProtobuf" in str(taken["broken"])


def worker(tmp_path: Path, body: str) -> Path:
    """A Python whose OpenVINO is `body`, a fake that computes nothing."""
    package = tmp_path / "openvino"
    package.mkdir()
    (package / "__init__.py").write_text(body)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return python


FAST = """
class Core:
    def read_model(self, file): return file
    def compile_model(self, *_): return self
    def create_infer_request(self): return self
    def __call__(self, inputs): return inputs
"""


def test_a_race_times_three_engines_and_profiles_what_is_slower(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", frames=np.zeros((1, 1024), np.float32))
    python = worker(tmp_path, FAST)
    one = race("crepe", MODEL, tmp_path / "s.npz", 1, 0, python)
    assert not one.errors and set(one.ms) == {"native", "onnxruntime", "openvino"}
    assert one.ratio == one.ms["openvino"] / one.ms["native"]  # it does nothing: the better
    assert one.ratio < 1 and one.profile
    assert dataclasses.asdict(one)["profile"][0]["nanoseconds"] > 0


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("raise ModuleNotFoundError", "RuntimeError: not installed"),
        ("import os\nos._exit(7)", "RuntimeError: ended with 7"),
        (FAST.replace("return file", "raise ValueError('odd')"), "RuntimeError: ValueError: odd"),
    ],
)
def test_a_race_tells_why_an_engine_is_missing(tmp_path: Path, body: str, error: str) -> None:
    np.savez(tmp_path / "s.npz", frames=np.zeros((1, 1024), np.float32))
    one = race("crepe", MODEL, tmp_path / "s.npz", 1, 0, worker(tmp_path, body))
    assert one.errors == {"openvino": error} and "openvino" not in one.ms


def test_races_are_run_on_files_in_integers(tmp_path: Path) -> None:
    case = Case("crepe", "trained", MODEL, tmp_path)
    case.calibration.mkdir()
    np.savez(case.calibration / "0.npz", frames=np.ones((1, 1024), np.float32))
    python = worker(tmp_path, FAST)
    one, two = race_integers(case, (1, 2), 0, python)
    assert (one.threads, two.threads) == (1, 2) and not one.errors and one.ratio is not None
    assert not native.compile(tmp_path / "integers.onnx").reasons
    broken = dataclasses.replace(case, model=tmp_path / "missing.onnx")
    assert "exit code" in race_integers(broken, (1,), 0, python)[0].errors["native"]


def test_means_are_of_the_ratios_to_the_better_engine() -> None:
    races = [
        Race("a", 1, {"native": 1.0, "onnxruntime": 4.0, "openvino": 2.0}),
        Race("b", 1, {"native": 2.0, "onnxruntime": 1.0}),
        Race("c", 1, {"native": 2.0}),
        Race("c", 2, {"onnxruntime": 2.0}, {"native": "it broke"}),
    ]
    assert [one.ratio for one in races] == [2.0, 0.5, None, None]
    assert geometric_means(races) == {1: pytest.approx(1.0)}
    assert race_table(races).row_count == 4
    slow = dataclasses.replace(rows()[1], races=races[:2])
    fp32, _, peer = rows()
    assert misses([fp32, slow, peer]) == [
        "trained/m: native with 1 thread(s): 0.50 x as fast as the better engine"
    ]


def test_counts_the_conversions_that_no_operator_absorbs(tmp_path: Path) -> None:
    scale = numpy_helper.from_array(np.float32(0.1), "scale")
    zero = numpy_helper.from_array(np.uint8(3), "zero")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Erf", ["d"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [scale, zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    assert conversions_left(tmp_path / "model.onnx") == (1, 1)


def light_model() -> onnx.ModelProto:
    """Conv, BatchNormalization and a scale, all of ConstantOfShape weights, in IR version 3."""
    shapes = {"w": [8, 2, 3, 3], "b": [8], "g": [8], "s": [8], "m": [8], "v": [8], "k": [8]}
    initializers = [
        numpy_helper.from_array(np.array(shape, np.int64), f"{name}_shape")
        for name, shape in shapes.items()
    ]
    constants = [helper.make_node("ConstantOfShape", [f"{name}_shape"], [name]) for name in shapes]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "g", "s", "m", "v"], ["n"]),
        helper.make_node("Unsqueeze", ["k"], ["k4"], axes=[1, 2]),
        helper.make_node("Mul", ["n", "k4"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 5, 5])]
    inputs += [
        helper.make_tensor_value_info(tensor.name, TensorProto.INT64, tensor.dims)
        for tensor in initializers
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 3, 3])]
    graph = helper.make_graph([*constants, *nodes], "g", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=3)


def test_noise_replaces_constant_weights() -> None:
    model = noise.fill(light_model())
    onnx.checker.check_model(model)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert set(values) == set("wbgsmvk")
    assert [value.name for value in model.graph.input] == ["x"]
    assert 0.6 < values["w"].std() / np.sqrt(2 / 18) < 1.4  # He: sqrt(2 / fan-in)
    assert all(values[name].min() > 0.5 for name in "gvk")  # scales, one behind Unsqueeze
    assert all(abs(values[name]).max() < 0.5 for name in "bsm")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    output = session.run(None, {"x": np.ones((1, 2, 5, 5), np.float32)})[0]
    assert np.isfinite(output).all()
    assert model == noise.fill(light_model())


def test_gemm_weights_are_scaled_by_their_own_fan_in() -> None:
    for transposed, shape in ((0, [400, 10]), (1, [10, 400])):
        nodes = [
            helper.make_node("ConstantOfShape", ["shape"], ["w"]),
            helper.make_node("Gemm", ["x", "w"], ["y"], transB=transposed),
        ]
        sizes = [numpy_helper.from_array(np.array(shape, np.int64), "shape")]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 400])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])
        graph = helper.make_graph(nodes, "g", [x], [y], sizes)
        filled = noise.fill(helper.make_model(graph))
        weight = numpy_helper.to_array(filled.graph.initializer[0])
        assert weight.std() == pytest.approx(np.sqrt(2 / 400), rel=0.1)


def test_light_models_need_no_zoo(tmp_path: Path) -> None:
    (case,) = find_cases(None, tmp_path, "light/squeezenet")
    assert (case.kind, case.name) == ("light", "squeezenet")
    assert [array.shape for array in case.sample().values()] == [(1, 3, 224, 224)]
    again = next(find_cases(None, tmp_path, "light/squeezenet"))
    assert again == case


def test_peer_quantizes_once(tmp_path: Path) -> None:
    case = Case("crepe", "trained", MODEL, tmp_path)
    store(case.calibration, [{"frames": np.ones((1, 1024), np.float32)}])
    outcome = run_peer("ort", case, Path(sys.executable))
    assert outcome.error == ""
    assert outcome.file is not None
    made = outcome.file.stat().st_mtime_ns
    assert run_peer("ort", case, Path("no such python")) == outcome
    assert outcome.file.stat().st_mtime_ns == made


def test_every_peer_has_a_number_of_samples() -> None:
    assert PEER_SAMPLES.keys() == TOOLS.keys()


def test_failure_of_a_peer_is_its_result(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    case = Case("broken", "trained", broken, tmp_path)
    outcome = run_peer("ort", case, Path(sys.executable))
    assert outcome.file is None
    assert "DecodeError" in outcome.error
    assert run_peer("ort", case, Path("no such python")) == outcome


def test_a_peer_may_write_into_the_file_it_is_given(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"as it was")
    python = tmp_path / "python"  # says what it was given, and writes into it
    python.write_text('#!/bin/sh\necho spoiled > "$3"\nexit 1\n')
    python.chmod(0o755)
    run_peer("ort", Case("m", "trained", model, tmp_path), python)
    assert model.read_bytes() == b"as it was"
    assert [file.name for file in tmp_path.glob("*.onnx")] == ["m.onnx"]


def test_log_keeps_what_a_command_says(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", "import sys; print('one'); sys.exit('two')"]
    assert run_logged(command, log) == (1, "two")
    assert set(log.read_text().split()) == {"one", "two"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers", "ort,nobody"], "no peer 'nobody'; there are ort, nncf"),
        (["--models", "^nothing$"], "no model matches '^nothing$'"),
    ],
)
def test_usage_errors(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [*arguments, "--cache", str(tmp_path)])
    assert done.exit_code == 2
    assert message in done.output


def test_one_crash_in_openvino_hides_no_other_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(case: Case, files: list[Path], settings: Settings) -> dict[str, float | str]:
        if tmp_path / "bad" in files:
            raise subprocess.CalledProcessError(-11, "worker")
        return {str(file): 1.5 for file in files}

    monkeypatch.setattr(measure, "run_openvino", run)
    fp32, ours, peer = rows()
    settings = Settings(Path(sys.executable), ("ort",), frozenset(), 1, 1, ())
    files = {FP32: tmp_path / "a", OURS: tmp_path / "b", "ort": tmp_path / "bad"}
    case = Case("m", "trained", tmp_path / "a", tmp_path)
    measure.add_openvino({FP32: fp32, OURS: ours, "ort": peer}, case, files, settings)
    assert (fp32.openvino_ms, ours.openvino_ms, peer.openvino_ms) == (1.5, 1.5, None)
    assert peer.errors == {"openvino": "the process ended with -11"}
