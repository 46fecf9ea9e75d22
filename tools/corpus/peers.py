"""``python -m ptq_opt.tools.corpus.peers``: what quantizers make of the small stored models."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx

from ..bench.cases import Case as PeerCase
from ..bench.options import of_peers
from ..bench.quantizers import run_peer
from ..report import CLOSE_DB
from .__main__ import quiet
from .cases import Case, stored_models
from .outcome import FAR, FLOAT, QUANTIZED, REFUSED, open_session, repeats, run, run_case, worst

GOOD, BAD = f"with {CLOSE_DB:.0f} dB or more", f"with less than {CLOSE_DB:.0f} dB"
WARNED, NONE, UNREADABLE = f"{BAD}, warned of", "without a file", "whose file does not load or run"
OURS: Mapping[str, str] = {QUANTIZED: GOOD, FLOAT: GOOD, FAR: WARNED, REFUSED: NONE}


@click.command()
@of_peers("ort")
def main(peers: str, peer_python: Path) -> None:
    """Tell what we and other quantizers make of the small models in the onnx package.

    These are the stored models, but those of the folder light/, that ONNX Runtime runs on the data
    beside them, with some inputs and all outputs of finite floats.
    """
    quiet()
    cases = list(judged())
    click.echo(f"{len(cases)} models")
    ours = [run_case(case).kind for case in cases]
    _tell("ptq-opt", [OURS.get(kind, kind) for kind in ours])
    for peer in peers.split(","):
        _tell(peer, [by_peer(case, peer, peer_python) for case in cases])


def judged() -> Iterator[Case]:
    """The models that a quantized file can be compared with."""
    for name, case in stored_models().items():
        if name.startswith("light/") or case.feeds is None:
            continue
        session = open_session(case.model)
        real, again = run(session, case.feeds), run(session, case.feeds)
        inputs, outputs = case.feeds.values(), [] if isinstance(real, str) else real
        some, every = any(map(_is_float, inputs)), all(map(_is_float, outputs))
        if repeats(real, again) and some and every and all(np.isfinite(o).all() for o in outputs):
            yield case


def by_peer(case: Case, peer: str, python: Path) -> str:
    """What another quantizer makes of a model, given the sample it is judged by."""
    assert case.feeds is not None
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model.onnx")
        given = PeerCase(case.name, "light", model, Path(folder))
        onnx.save(_with_constants(case.model), model)
        given.calibration.mkdir()
        np.savez(given.calibration / "0.npz", **dict(case.feeds))
        file = run_peer(peer, given, python).file
        made = None if file is None else onnx.load(file)
    if made is None:
        return NONE
    found = run(open_session(made), case.feeds)
    if isinstance(found, str):
        return UNREADABLE
    real = run(open_session(case.model), case.feeds)
    assert not isinstance(real, str)
    ratio = worst(real, found)
    return GOOD if ratio is None or ratio >= CLOSE_DB else BAD


def _with_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose initializers are no inputs, as they had to be in the format's first versions."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = {tensor.name for tensor in copy.graph.initializer}
    inputs = [info for info in copy.graph.input if info.name not in constants]
    del copy.graph.input[:]
    copy.graph.input.extend(inputs)
    copy.ir_version = max(copy.ir_version, 4)
    return copy


def _is_float(data: Any) -> bool:
    return isinstance(data, np.ndarray) and data.dtype.kind == "f"


def _tell(name: str, ends: Sequence[str]) -> None:
    counts = Counter(ends).most_common()
    click.echo(f"{name}: {', '.join(f'{count} {end}' for end, count in counts)}")


if __name__ == "__main__":
    main()
