"""The benchmark of growth: its networks, its table and its plot."""

from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import onnx
from click.testing import CliRunner

from ptq_opt.tools.bench.growth import exponent, main, residual_network


def test_networks_are_sound_and_of_the_size_asked_for() -> None:
    model = residual_network(40)
    onnx.checker.check_model(model, full_check=True)
    assert len(model.graph.node) == 39  # the first block has no shortcut


def test_the_power_of_growth() -> None:
    assert exponent([10, 100], [1.0, 100.0]) == "2.00"
    assert exponent([10, 30, 300], [9.0, 1.0, 10.0]) == "1.00"  # over the last factor of ten
    assert exponent([10], [1.0]) == "-"


def test_a_table_and_a_plot(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["40", "400", "--svg", str(tmp_path / "growth.svg")])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].startswith("| step | 40 | 400 | exponent")
    assert any(line.startswith("| `fold-bn`") for line in lines) and lines[-1].startswith("| all")
    root = ElementTree.parse(tmp_path / "growth.svg").getroot()
    lines_drawn = [part for part in root if part.tag.endswith("polyline")]
    assert len(lines_drawn) == 4
    labels = sorted(float(t.attrib["y"]) for t in root if "fill" in t.attrib and t.text)
    assert all(b - a > 11 for a, b in pairwise(labels))


def test_sizes_must_be_numbers() -> None:
    assert CliRunner().invoke(main, ["many"]).exit_code == 2
