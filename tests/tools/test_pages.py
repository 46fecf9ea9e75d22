"""Reports as files: what is written where, what advice says, Markdown that nothing can break."""

import json
import re
from dataclasses import replace
from pathlib import Path

import page_reports
import pytest
from click.testing import CliRunner
from markdown_it import MarkdownIt

from ptq_opt import Pipeline, Report, UsageError
from ptq_opt.ir.target import find_target
from ptq_opt.ir.text import parse
from ptq_opt.passes.registry import DEFAULT
from ptq_opt.tools.advice import advise
from ptq_opt.tools.cli import main
from ptq_opt.tools.pages import text as page_text
from ptq_opt.tools.pages.html import embedded
from ptq_opt.tools.pages.markdown import WORST, code, markdown, plain
from ptq_opt.tools.pages.summary import share, times
from ptq_opt.tools.report import LayerFidelity
from ptq_opt.tools.timing import Timing, timing


def test_the_command_line_writes_what_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    words = ["model.onnx", "--data=calib", "--report=r.html", "--report=r.md", "--report=r.json"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    for name in ("r.html", "r.md", "r.json"):
        assert f"  {name}" in done.stdout
        text = (folder / name).read_text(encoding="utf-8")
        assert "ptq-opt model.onnx -o model.int8.onnx --data calib --passes=" in text
    found = json.loads((folder / "r.json").read_text())
    assert found["predicted_us"]["placed"] < found["predicted_us"]["all in float"]
    assert found["timing"]["us"].keys() == {"placed", "all in float"}
    assert {operator["op"] for operator in found["graph"]["operators"]} > {"Conv", "input"}
    assert found["fidelity"]["layers"][0]["values"]["dtype"] == "uint8"


@pytest.mark.parametrize("name", ["report.pdf", "report", "missing/report.html"])
def test_what_cannot_be_written_is_refused_before_work(name: str, folder: Path) -> None:
    words = [str(folder / "model.onnx"), f"--report={folder / name}"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert "report" in done.output
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "calib"}


def test_a_report_saves_itself(tmp_path: Path) -> None:
    report = Report(model="m", target="ort-cpu", samples=3)
    report.save(tmp_path / "r.HTML")
    assert (tmp_path / "r.HTML").read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(UsageError, match=r"\.html, \.md or \.json"):
        report.save(tmp_path / "r.txt")


def test_json_cannot_end_its_element() -> None:
    data = {"name": "</script><!-- & \u2028"}
    text = str(embedded(data))
    assert not re.search("[<>&\u2028]", text)
    assert json.loads(text) == data


def test_names_are_text_in_html(tmp_path: Path) -> None:
    page_reports.hostile().save(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script>window" not in text and "<img" not in text
    assert "&lt;script&gt;window.hacked=1" in text


def test_names_are_text_in_markdown() -> None:
    """As a parser of Markdown sees it, the only HTML is ours, and every row has all its cells."""
    tokens = (
        MarkdownIt("commonmark", {"html": True})
        .enable("table")
        .parse(markdown(page_reports.hostile()))
    )
    every = [part for token in tokens for part in (token, *(token.children or ()))]
    found = {part.content.strip() for part in every if part.type.startswith("html")}
    ours = r"(<details><summary>[\w ,]+</summary>|</details>|<br>)"
    assert found and all(re.fullmatch(ours, text) for text in found), found
    cells = {part.content for part in every if part.type == "code_inline"}
    assert any("window.hacked=1" in text for text in cells)


def test_markdown_escapes() -> None:
    assert plain("a|b *c* <d> @e #12 [f](g)") == (
        r"a\|b \*c\* &lt;d&gt; @" "\u200be #" "\u200b" r"12 \[f\](g)"
    )
    assert code("a`b|c") == r"``a`b\|c``"
    assert code("`") == "`` ` ``"


def test_markdown_says_what_decides() -> None:
    report = page_reports.real()
    text = markdown(report)
    for part in (
        "| Weights |",
        "Output `y`",
        "excluded by 'second'",
        "**chosen**",
        report.pipeline,
    ):
        assert part in text, part


def test_markdown_gives_one_cure_once() -> None:
    cure = ",round,bias,quant"
    report = page_reports.large()
    report.pipeline = "calibrate,bias,quant"
    layers = report.fidelity.layers
    layers[:] = [replace(each, noise=0.1) for each in layers]
    text = markdown(report)
    assert text.count(cure) == 1
    (line,) = [line for line in text.splitlines() if cure in line]
    assert line.count("operator_") == WORST


# -- advice ---------------------------------------------------------------------------------------


def options(layer: LayerFidelity) -> list[str]:
    report = Report(pipeline=Pipeline(DEFAULT).spec)
    return [item.option for item in advise(layer, report)]


def layer(noise: float, **values: float) -> LayerFidelity:
    found = replace(page_reports.values(), clipping=0.0, rounding=0.0, **values)  # type: ignore[arg-type]
    return LayerFidelity("Conv 'a.b'", "t", 20.0, 30.0, noise, found)


def test_clipped_layers_get_wider_ranges() -> None:
    first, last = options(
        replace(layer(0.1), values=replace(page_reports.values(0.1), clipping=0.09))
    )
    assert "calibrate{method=min-max}" in first
    assert last == r"--exclude='^a\.b$'"


def test_layers_on_few_steps_get_other_ranges_and_equal_channels() -> None:
    found = replace(layer(0.1), values=replace(page_reports.values(), rounding=0.09, steps=9.0))
    ranges, channels, _ = options(found)
    assert "calibrate{method=mse}" in ranges
    assert "equalize," in channels


def test_layers_on_all_steps_get_more_bits() -> None:
    found = replace(layer(0.1), values=replace(page_reports.values(), rounding=0.09, steps=200.0))
    assert options(found)[0] == "--activations=int16"


def test_what_the_grid_does_not_explain_is_the_weights() -> None:
    assert "round," in options(layer(0.1))[0]


def test_little_noise_needs_nothing() -> None:
    assert options(layer(1e-4)) == []


def test_advised_pipelines_parse() -> None:
    found = options(layer(0.1))[0].removeprefix("--passes=").strip("'")
    assert Pipeline(found).spec == found


# -- numbers --------------------------------------------------------------------------------------


def test_times_prefer_the_placement_that_was_kept() -> None:
    predicted = {"placed": 2000.0, "all in integers": 1000.0, "all in float": 4000.0}
    islands = {"predicted_us": predicted, "timed_us": predicted, "kept": "all in float"}
    first, second = times(Report(islands=islands))
    assert (first.by, second.by) == ("predicted", "timed")
    assert first.speedup == 1.0
    (only,) = times(Report(predicted_us=predicted))
    assert only.speedup == 2.0
    assert times(Report()) == []


def test_times_of_the_result_itself_count_most() -> None:
    known = Timing({"placed": 5.0, "all in float": 10.0}, "engine")
    islands = {"timed_us": {"placed": 7.0}, "kept": "placed"}
    (only,) = times(Report(islands=islands, timing=known))
    assert (only.by, only.speedup) == ("timed", 2.0)
    search = {"timed": {"float": 8.0, "integers": 1.0, "placed": 2.0}}
    (only,) = times(Report(islands=islands, accuracy=search))
    assert only.rows == {"all float": 8000.0, "all in integers": 1000.0, "this result": 2000.0}


def test_what_is_not_timed_is_told() -> None:
    graph = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    target = find_target("ort-cpu")
    assert timing(graph, graph, target, None).missing == "not timed: there are no samples"
    assert "x" in timing(graph, graph, target, {}).missing
    known = timing(graph, graph, replace(target, engine="nobody's"), {})
    assert known.missing == "not timed: nobody's is not installed here"
    for form in (".md", ".html"):
        assert known.missing.replace("'", "&#39;" if form == ".html" else "'") in page_text(
            Report(timing=known, predicted_us={"placed": 1.0}), form
        )


@pytest.mark.parametrize(
    ("part", "text"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.1234, "12 %"), (0.00018, "0.018 %"), (1e-9, "< 0.0001 %")],
)
def test_shares_have_two_digits(part: float, text: str) -> None:
    assert share(part) == text
