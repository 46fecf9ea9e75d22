"""The ablation's pipelines differ in one technique; its cells are measured once; its tables."""

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from small_model import small_model

from ptq_opt.passes import Pipeline
from ptq_opt.passes.registry import DEFAULT
from ptq_opt.tools.ablation.__main__ import main
from ptq_opt.tools.ablation.measure import Budget, Cell
from ptq_opt.tools.ablation.tables import Found, document, gain, gains, signed
from ptq_opt.tools.ablation.variants import PLACES, PLAIN, Technique, by_name, schemes, techniques

ZOO = """
from pathlib import Path
import numpy as np

class Entry:
    name, main_metric, outputs = "small", "best", ("y",)
    path = Path(__file__).parent / "small.onnx"

    def sample(self, stream, k):
        noise = np.random.default_rng([stream, k]).standard_normal((1, 3, 32, 32))
        return {"x": noise.astype(np.float32)}

    def calibration(self, n):
        return [self.sample(0, k) for k in range(n)]

    def samples(self, stream, n):
        assert stream == 1
        return [(self.sample(stream, k), k) for k in range(n)]

    def score(self, outputs, labels):
        assert len(outputs) == len(labels)
        return {"best": 0.75}

def fidelity(entry, reference, outputs):
    noise = sum(float(((a[0] - b[0]) ** 2).sum()) for a, b in zip(reference, outputs))
    return {"sqnr_db": 0.0, "sqnr_db/y": -10 * np.log10(max(noise, 1e-12))}

ZOO = {"small": Entry()}
"""


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    (tmp_path / "zoo.py").write_text(ZOO)
    onnx.save(small_model(), tmp_path / "small.onnx")
    return tmp_path


def run(zoo: Path, *more: str) -> str:
    """Measure `bias` under one scheme; the table."""
    table = zoo / "table.md"
    words = ["--zoo", zoo, "--cache", zoo / "cache", "-o", table, "--learn", 8, "--test", 3]
    words += ["--schemes", "W8A8$", "--techniques", "^bias$", *more]
    found = CliRunner().invoke(main, list(map(str, words)))
    assert found.exit_code == 0, found.output
    return table.read_text()


def test_pipelines_differ_in_the_technique_alone() -> None:
    every = techniques()
    assert {"align", "bias", "calibrate"} <= {each.name for each in every if each.default}
    assert {"clip", "equalize", "round"} <= {each.name for each in every if not each.default}
    for each in every:
        (name,) = by_name(each.name)
        for pair in (each.alone, each.beside):
            without, with_it = map(by_name, pair)
            assert with_it[name] == each.name != without.get(name)
            for replaced in (name, *PLACES.get(name, ())):
                without.pop(replaced, None)
            assert without == {key: text for key, text in with_it.items() if key != name}
        assert each.beside[1 if each.default else 0] == DEFAULT
        assert each.alone[0] == PLAIN == Pipeline(PLAIN).spec


def test_schemes_differ_in_the_weights() -> None:
    rules = {name: target.weights for name, target in schemes().items()}
    assert [r and (r.dtype.bits, r.per_channel, r.block) for r in rules.values()] == [
        (8, True, 0),
        (4, True, 0),
        (8, False, 0),
        (4, True, 32),
    ]
    assert not any(target.saturating_pairs for target in schemes().values())


def test_a_table_of_what_was_measured(zoo: Path) -> None:
    text = run(zoo)
    assert "| small, 8 + 3 samples | worst dB | mean dB | best (float 0.750) | seconds |" in text
    for row in ("nothing", "`bias`", "default", "default without `bias`"):
        assert f"| {row} | " in text
    assert "| **`bias`** | +" in text or "| **`bias`** | -" in text
    assert "| `clip` | ? / ? |" in text
    assert "| default with `clip` |" not in text


def test_cells_are_measured_once_and_redone_when_asked(zoo: Path) -> None:
    run(zoo)
    files = sorted((zoo / "cache").glob("small/*.json"))
    assert len(files) == 5  # float, and four pipelines
    for file in files:
        cell = json.loads(file.read_text())
        cell["cell"]["sqnr_db"] = {"y": 123.0}
        file.write_text(json.dumps(cell))
    assert "| nothing | 123.0 |" in run(zoo)
    assert "| nothing | 123.0 |" in run(zoo, "--show")
    assert "123.0" not in run(zoo, "--redo")


def test_workers_measure_the_same(zoo: Path) -> None:
    alone = run(zoo)
    shared = run(zoo, "--redo", "--workers=2")

    def numbers(table: str) -> list[str]:
        rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")]
        return [cell for row in rows for cell in row[:-2]]  # seconds are the last column

    assert numbers(shared) == numbers(alone)


def test_samples_that_do_not_fit_are_an_error(zoo: Path) -> None:
    text = (zoo / "zoo.py").read_text()
    (zoo / "zoo.py").write_text(text.replace('return {"x":', 'return {"z":', 1))
    found = CliRunner().invoke(main, ["--zoo", str(zoo), "--cache", str(zoo / "cache")])
    assert found.exit_code != 0
    assert "no data for the model's input 'x'" in str(found.exception)


def test_gains() -> None:
    cells = {"a": Cell("a", {"y": 20.0, "z": 30.0}), "b": Cell("b", {"y": 21.0, "z": 32.0})}
    found = Found(
        "m", "W8A8", "top1", 0.9, {**cells, "c": Cell("c", error="broken | pipe")}, Budget(4, 2)
    )
    pairs = [("a", "b"), ("b", "a"), ("a", "c"), ("a", "d")]
    assert [signed(gain(found, pair)) for pair in pairs] == ["+1.5", "-1.5", "fails", "?"]
    half = Found("n", "W8A8", "top1", 0.9, {**cells, "b": Cell("b", {"y": 25.5})}, Budget(4, 2))
    rows = gains([found, half], [Technique("t", ("a", "b"), ("b", "c"), False)])
    assert rows.splitlines()[0] == "| technique | m | n | median |"
    assert rows.splitlines()[2] == "| `t` | +1.5 / fails | +0.5 / ? | +1.0 / ? |"
    text = document([found], [Technique("t", ("a", "b"), ("a", "c"), False)], "command")
    assert "| default with `t` | fails: broken / pipe |  |  |  |" in text


def test_nothing_chosen_is_an_error(zoo: Path) -> None:
    words = ["--zoo", str(zoo), "--models", "none", "--cache", str(zoo / "cache")]
    assert "nothing was measured" in CliRunner().invoke(main, words).output


def test_slow_models_get_fewer_samples() -> None:
    assert Budget(48, 24).of("small") == Budget(48, 24)
    assert Budget(96, 240).of("brain_unet3d") == Budget(4, 10)
