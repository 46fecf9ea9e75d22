"""What other quantizers make of a model is judged like our own file."""

import sys
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from ptq_opt.tools.bench.quantizers import Outcome
from ptq_opt.tools.corpus import peers
from ptq_opt.tools.corpus.cases import stored_models

CASE = stored_models()["pytorch-converted/test_Linear_no_bias/model.onnx"]


def test_models_that_can_be_judged() -> None:
    found = list(peers.judged())
    assert 80 < len(found) < len(stored_models())
    for case in found:
        assert case.feeds is not None
        assert any(np.asarray(array).dtype.kind == "f" for array in case.feeds.values())


@pytest.mark.parametrize(
    ("body", "end"),
    [
        (None, peers.NONE),
        ("y = Strange(x)", peers.UNREADABLE),
        ("y = Add(x, x)", peers.BAD),
        ("y = Identity(x)", peers.GOOD),
    ],
)
def test_files_of_others_are_run(tmp_path: Path, body: str | None, end: str) -> None:
    def model(text: str) -> onnx.ModelProto:
        head = '<ir_version: 8, opset_import: ["": 17]>'
        return onnx.parser.parse_model(f"{head} g (float[2] x) => (float[2] y) {{ {text} }}")

    if body is not None:
        onnx.save(model(body), tmp_path / "out.onnx")
    case = peers.Case("own", model("y = Identity(x)"), {"x": np.ones(2, np.float32)})
    made = Outcome(None if body is None else tmp_path / "out.onnx")
    with mock.patch.object(peers, "run_peer", lambda *_: made):
        assert peers.by_peer(case, "any", Path(sys.executable)) == end


def test_the_command_counts() -> None:
    cases = mock.patch.object(peers, "judged", lambda: iter([CASE]))
    with cases, mock.patch.object(peers, "quiet"):  # it would silence the tests after this one
        done = CliRunner().invoke(peers.main, [])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[0] == "1 models"
    assert done.output.splitlines()[1].startswith("ptq-opt: 1 with 20 dB or more")
    assert done.output.splitlines()[2].startswith("ort: 1 ")
