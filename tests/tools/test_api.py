"""`ptq_opt.quantize` and the package's surface."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import helper, numpy_helper
from sessions import exact_session
from small_model import Feeds, make_samples, small_model

import ptq_opt
from ptq_opt import DataError, ModelError, Pipeline, UsageError, quantize
from ptq_opt.ir import load
from ptq_opt.ir.evaluate import Runner
from ptq_opt.passes import Instruments


def run(model: onnx.ModelProto, feeds: Feeds) -> list[np.ndarray]:
    session = exact_session(model)
    return session.run(None, feeds)


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_quantizes_and_reports(model: onnx.ModelProto, samples: list[Feeds]) -> None:
    result = quantize(model, samples)
    onnx.checker.check_model(result.model)
    assert "QuantizeLinear" in ops(result.model)
    assert result.report.counts()["Conv"] == (2, 2)
    assert result.report.fidelity.outputs[0].sqnr_db > 20
    ours, float_ = run(result.model, samples[0])[0], run(model, samples[0])[0]
    assert np.abs(ours - float_).max() < 0.1 * np.abs(float_).max()


def test_takes_a_path_and_a_folder(folder: Path) -> None:
    from_files = quantize(folder / "model.onnx", folder / "calib")
    in_memory = quantize(small_model(), make_samples(30))
    assert from_files.model.SerializeToString() == in_memory.model.SerializeToString()


def test_leaves_its_input_alone(model: onnx.ModelProto, samples: list[Feeds]) -> None:
    before = model.SerializeToString(deterministic=True)
    quantize(model, samples)
    assert model.SerializeToString(deterministic=True) == before


def test_takes_a_graphsurgeon_graph(model: onnx.ModelProto, samples: list[Feeds]) -> None:
    result = quantize(gs.import_onnx(model), samples)
    assert "QuantizeLinear" in ops(result.model)


def test_needs_no_data_where_a_model_has_statistics() -> None:
    model = small_model()
    for name in ("gamma", "beta", "mean", "var"):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(32, np.float32), name))
    conv = model.graph.node[0]
    conv.output[0] = "c0"
    names = ["c0", "gamma", "beta", "mean", "var"]
    model.graph.node.insert(1, helper.make_node("BatchNormalization", names, ["c1"]))
    report = quantize(model, data_free=True).report
    assert report.counts()["Conv"] == (1, 2)
    assert report.not_quantized()["the range of 'x' is unknown"][0].node == "first"
    assert "statistics" in report.pipeline and report.samples == 0
    assert report.warnings[0].startswith("quantized without data: ranges come from")
    assert "there are no samples" in report.fidelity.missing


def test_without_statistics_a_data_free_run_quantizes_nothing_and_says_so() -> None:
    report = quantize(small_model(), data_free=True).report
    assert report.counts()["Conv"] == (0, 2)
    assert report.warnings[0].startswith("nothing was quantized")


def test_data_free_takes_no_data(samples: list[Feeds]) -> None:
    with pytest.raises(UsageError, match="a data-free run takes no data: give one of the two"):
        quantize(small_model(), samples, data_free=True)


class Reader:
    """An onnxruntime `CalibrationDataReader`, read once."""

    def __init__(self, samples: list[Feeds]) -> None:
        self.left: Iterator[Feeds] = iter(samples)

    def get_next(self) -> Feeds | None:
        return next(self.left, None)


def test_knows_onnxruntimes_names(model: onnx.ModelProto, samples: list[Feeds]) -> None:
    result = quantize(model, calibration_data_reader=Reader(samples), nodes_to_exclude=["second"])
    precision = {d.node: d.precision for d in result.report.decisions}
    assert (precision["first"], precision["second"]) == ("int8", "float")
    with pytest.raises(UsageError, match="two names of one thing"):
        quantize(model, samples, calibration_data_reader=Reader(samples))


@pytest.mark.parametrize("pattern", ["^sec", "op:Add"])
def test_excluded_nodes_stay_float(
    model: onnx.ModelProto, samples: list[Feeds], pattern: str
) -> None:
    report = quantize(model, samples, exclude=[pattern]).report
    (reason,) = [reason for reason in report.not_quantized() if pattern in reason]
    names = [d.node for d in report.not_quantized()[reason]]
    assert names == [{"^sec": "second", "op:Add": "shortcut"}[pattern]]


@pytest.mark.parametrize(
    ("pattern", "cure"),
    [
        ("^secund$", "did you mean 'second'"),
        ("op:Convv", "did you mean 'Conv'"),
        ("(", "not a regular expression"),
    ],
)
def test_exclude_must_select_something(
    model: onnx.ModelProto, samples: list[Feeds], pattern: str, cure: str
) -> None:
    with pytest.raises(UsageError, match=cure):
        quantize(model, samples, exclude=[pattern])


@pytest.mark.parametrize(
    ("available", "wanted", "learned", "judged", "unseen"),
    [
        (30, 300, 27, 3, True),  # enough: one in ten is held back
        (24, 16, 16, 8, True),  # more than wanted: the rest judges
        (30, 30, 27, 3, True),
        (5, 300, 5, 5, False),  # too few to hold any back
        (9, 1, 1, 4, True),
    ],
)
def test_judges_by_unseen_samples(
    model: onnx.ModelProto, available: int, wanted: int, learned: int, judged: int, unseen: bool
) -> None:
    report = quantize(model, make_samples(available), samples=wanted, passes="calibrate").report
    assert (report.samples, report.fidelity.samples) == (learned, judged)
    assert report.fidelity.unseen is unseen


def test_takes_pass_objects(model: onnx.ModelProto, samples: list[Feeds]) -> None:
    by_text = quantize(model, samples, passes="calibrate{method=min-max},quant")
    by_object = quantize(model, samples, passes=Pipeline("calibrate{method=min-max},quant").items)
    assert by_text.model.SerializeToString() == by_object.model.SerializeToString()


def test_saves_what_it_returns(
    model: onnx.ModelProto, samples: list[Feeds], tmp_path: Path
) -> None:
    result = quantize(model, samples)
    result.save(tmp_path / "out.onnx")
    saved = (tmp_path / "out.onnx").read_bytes()
    assert saved == result.model.SerializeToString(deterministic=True)


def test_needs_no_data_without_calibration(model: onnx.ModelProto) -> None:
    report = quantize(model, passes="canonicalize").report
    assert not report.warnings
    assert report.fidelity.missing


def test_says_loudly_that_ranges_are_made_up(
    model: onnx.ModelProto, caplog: pytest.LogCaptureFixture
) -> None:
    report = quantize(model).report
    assert "made-up" in report.warnings[0]
    assert "made-up" in caplog.text
    assert "QuantizeLinear" in ops(quantize(model).model)


def test_all_errors_are_one_family(model: onnx.ModelProto) -> None:
    for error in (DataError, ModelError, UsageError, ptq_opt.PassError, ptq_opt.GraphError):
        assert issubclass(error, ptq_opt.PtqError)
    with pytest.raises(UsageError, match="at least 1"):
        quantize(model, samples=0)


def test_names_are_there_when_used() -> None:
    for name in ptq_opt.__all__:
        assert getattr(ptq_opt, name) is not None
    assert dir(ptq_opt) == sorted(ptq_opt.__all__)
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = ptq_opt.quantise


def test_import_alone_loads_nothing_heavy() -> None:
    code = (
        "import sys, ptq_opt; print([m for m in ('numpy', 'onnx', 'networkx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_threads_hold_for_one_run(model: onnx.ModelProto, samples: list[Feeds]) -> None:
    seen = []
    look = Instruments(after=[lambda _, graph: seen.append(threads_of(Runner(graph)))])
    quantize(model, samples, passes="canonicalize", threads=3, instruments=look)
    assert seen == [3]
    assert threads_of(Runner(load(model))) == 0


def threads_of(runner: Runner) -> int:
    return runner._session.get_session_options().intra_op_num_threads


def test_custom_operators_are_kept_and_reported(
    model: onnx.ModelProto, samples: list[Feeds]
) -> None:
    pool = model.graph.node[4]
    pool.input[0] = "strange"
    model.graph.node.insert(4, helper.make_node("Strange", ["sum"], ["strange"], domain="mine"))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    result = quantize(model, samples)
    (strange,) = [node for node in result.model.graph.node if node.domain == "mine"]
    assert strange.op_type == "Strange"
    assert result.report.counts()["Conv"] == (2, 2)
    assert "'y' depends on Strange 'strange'" in result.report.fidelity.missing
    assert "not compared with float" in result.report.warnings[0]


def test_models_that_noise_does_not_suit_need_data() -> None:
    """A shape among the inputs, for example."""
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    reshape (float[4] x, int64[2] shape) => (float[n, m] y) { y = Reshape (x, shape) }
    """
    model = onnx.parser.parse_model(text)
    with pytest.raises(DataError, match=r"made-up samples do not suit.*Reshape 'y'.*give --data"):
        quantize(model)
    feeds = {"x": np.ones(4, np.float32), "shape": np.array([2, 2])}
    assert quantize(model, [feeds]).report.fidelity.outputs[0].sqnr_db == 120


def test_masks_of_infinity_stay_in_float() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    masked (float[n, n] x, bool[n, n] keep) => (float[n, n] y) <float zero = {0.0}>
    {
        shape = Shape (x)
        low = ConstantOfShape <value: tensor = float[1] {-inf}> (shape)
        mask = Where (keep, zero, low)
        scores = Add (x, mask)
        y = Softmax (scores)
    }
    """
    feeds = {"x": np.zeros((9, 9), np.float32), "keep": np.tri(9, dtype=bool)}
    report = quantize(onnx.parser.parse_model(text), [feeds]).report
    assert any("infinite by a mask" in note for done in report.passes for note in done.notes)
    assert report.fidelity.outputs[0].sqnr_db > 40


def test_exclusions_without_effect_are_told(samples: list[Feeds]) -> None:
    """A BatchNormalization is folded into the Conv before it, so it cannot stay in float."""
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    folded (float[1, 3, 32, 32] x) => (float[1, 3, 32, 32] y)
    <float[3, 3, 1, 1] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[3] v = {1, 2, 3}>
    {
        [conv] c = Conv (x, w)
        [norm] y = BatchNormalization (c, v, v, v, v)
    }
    """
    model = onnx.parser.parse_model(text)
    lost, kept = (quantize(model, samples, exclude=[name]).report for name in ("norm", "conv"))
    assert "--exclude 'norm' keeps nothing in float" in lost.warnings[0]
    assert not [warning for warning in kept.warnings if "keeps nothing" in warning]


def test_operators_of_functions_can_be_excluded(samples: list[Feeds]) -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17, "own": 1]>
    called (float[1, 3, 32, 32] x) => (float[1, 3, 32, 32] y) { [block] y = own.Twice (x) }
    <domain: "own", opset_import: ["": 17]> Twice (v) => (w) { [inner] w = Add (v, v) }
    """
    model = onnx.parser.parse_model(text)
    (node,) = [d.node for d in quantize(model, samples).report.decisions]
    report = quantize(model, samples, exclude=[f"^{node}$"]).report
    assert report.decisions[0].reason.startswith("excluded by")
    lost = quantize(model, samples, exclude=["nowhere"]).report
    assert "--exclude 'nowhere' keeps nothing in float" in lost.warnings[0]


@pytest.mark.parametrize(
    ("weights", "activations", "sqnr"),
    [
        ("int4", None, 10),
        ("int4:block=16", "int16", 10),
        ("int8", "none", 35),
        ("none", "int8", 20),
    ],
)
def test_other_widths(
    model: onnx.ModelProto,
    samples: list[Feeds],
    weights: str,
    activations: str | None,
    sqnr: float,
) -> None:
    result = quantize(model, samples, weights=weights, activations=activations)
    onnx.checker.check_model(result.model)
    assert result.report.fidelity.outputs[0].sqnr_db > sqnr
    (second,) = (d for d in result.report.decisions if d.node == "second")
    assert second.precision == ("float" if activations == "none" else "int8")
    assert second.weights == ("float" if weights == "none" else weights.partition(":")[0])
    assert not result.report.warnings


def test_weights_only_is_told_in_the_report(model: onnx.ModelProto, samples: list[Feeds]) -> None:
    all_int4 = {"weights": "int4", "layer_weights": ["is:end=int4"]}
    report = quantize(model, samples, activations="none", **all_int4).report
    assert report.stored() == {"Conv": 2, "Gemm": 1}
    assert "Computed in float, with weights stored as integers" in str(report)
    assert report.weight_bytes[1] < report.weight_bytes[0] / 6


def test_ends_have_8_bits_where_others_have_few(
    model: onnx.ModelProto, samples: list[Feeds]
) -> None:
    def types(**given: Any) -> list[str]:
        found = quantize(model, samples, **given).report.decisions
        return [d.weights for d in found if d.op in ("Conv", "Gemm")]

    assert types(weights="int4") == ["int8", "int4", "int8"]
    assert types(weights="int4", layer_weights=["is:end=int4"]) == ["int4", "int4", "int4"]
    assert types(weights="int4", layer_weights=["second=int8"]) == ["int8", "int8", "int8"]
    assert types(layer_weights=["second=int4"]) == ["int8", "int4", "int8"]
    assert types(weights="int16", activations="int16") == ["int16", "int16", "int16"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("secnd=int4", "no node's name matches --layer-weights 'secnd'; did you mean 'second'"),
        ("is:depthwize=int4", "no role is called 'depthwize'; did you mean 'depthwise'"),
        ("second", "'second' does not say PATTERN=TYPE"),
        ("second=int5", "weights can be"),
        ("second=int2", "weights of 2 bits do not go with activations of 8"),
        ("(=int4", "not a regular expression"),
    ],
)
def test_layer_weights_must_make_sense(
    model: onnx.ModelProto, samples: list[Feeds], text: str, message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        quantize(model, samples, layer_weights=[text])


def test_an_output_far_from_the_float_model_is_warned_of(
    model: onnx.ModelProto, samples: list[Feeds]
) -> None:
    """The ranges of one sample, much smaller than those it is judged by."""
    small = [{"x": samples[0]["x"] / 50}, *samples[1:9]]
    report = quantize(model, small, samples=1, min_sqnr=0).report
    (output,) = report.fidelity.outputs
    assert output.sqnr_db is not None and output.sqnr_db < 20
    assert any(
        f"far from the float model's ({output.sqnr_db:.1f} dB)" in w for w in report.warnings
    )


def test_where_not_a_number_begins_is_warned_of() -> None:
    """Even where it is swallowed and no range depends on it."""
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    logs (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,2,1,1] w = {1, 2, 3, 4}, float z = {0}> {
        c = Conv(x, w)  l = Log(x)  n = Neg(l)  b = IsNaN(n)  y = Where(b, z, c)
    }
    """
    data = [
        {"x": np.random.default_rng(k).standard_normal((1, 2, 4, 4)).astype("f")} for k in (0, 1)
    ]
    (warning,) = [
        w for w in quantize(onnx.parser.parse_model(text), data).report.warnings if "NaN" in w
    ]
    assert warning == (
        "'l', computed by Log 'l', holds NaN or infinity (sample 0) of what is finite before it"
    )


def test_ranges_that_nothing_limits_are_those_of_all_samples() -> None:
    report = quantize(small_model(), make_samples(4), passes="calibrate").report
    (calibrate,) = [done for done in report.passes if done.spec == "calibrate"]
    assert calibrate.notes[1] == "extremes of all samples"
