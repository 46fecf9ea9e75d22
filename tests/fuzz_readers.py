"""What fuzz.py reads: per reader good files to start from, how to edit and how to read them."""

import io
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from fuzz_edits import Chance, edit_bytes, edit_message, edit_words
from small_model import small_model

from ptq_opt import quantize
from ptq_opt.ir import Graph, PtqError, load, save
from ptq_opt.ir.calibration import Calibration
from ptq_opt.ir.ranges import Range
from ptq_opt.ir.samples import open_samples
from ptq_opt.ir.shapes import infer
from ptq_opt.ir.target import FOLDER, find_target
from ptq_opt.ir.text import parse, print_graph
from ptq_opt.ir.timings import read_timings
from ptq_opt.ir.verify import verify
from ptq_opt.passes.pipeline import Pipeline
from ptq_opt.passes.registry import DATA_FREE, DEFAULT
from ptq_opt.tools.cli import Options
from ptq_opt.tools.config import read_config

WEIGHTS = np.arange(64, dtype=np.float32)
GRAPHS = [
    """
    g (float[N,2] x, float[2,4] w = {1, 2, 3, 4, 5, 6, 7, 8}) => (float[N,?] y, seq(float[2]) z)
    <float[4] b = {1, -0.5, 0, 2}, int4[3] q = {1, -8, 7}, string[2] t = {"a", "b"}, bool c = {1},
     int8[4,2,1,1] k ~ int8(0.5, 0, axis=0) = {1, 2, 3, 4, 5, 6, 7, 8}> {
      [first] h ~ uint8(0.1, 128) = Gemm <alpha = 2.0> (x, w, b) ~ int8
      r = If (c) <then_branch = a () => (float[N,4] i) { i = Relu(h) },
                  else_branch = e () => (float[N,4] j) { j = Neg(h) }>
      s = Constant <value = float[2] {1, 2}> ()
      u = Conv <kernel_shape = [1, 1], pads = [0, 0, 0, 0]> (r, k)
      v = Split <axis = 0, num_outputs = 2> (q)
      z = SequenceConstruct (s, s)
      y = ai.onnx.Relu (u)
    }
    """,
    """
    <ir_version: 9, opset_import: ["": 18, "own": 1], producer_name: "me">
    g (float[2,3] x) => (float[2,3] y) { y = own.twice <by = 2.0> (x) }
    <domain: "own", opset_import: ["": 18]> twice <by> (p) => (r)
    { f = Constant <value_float: float = @by> () r = Mul(p, f) }
    """,
]
SPECS = [DEFAULT, DATA_FREE, "bits{size=2MB},tune{trials=3,seconds=1.5},round{places=512},quant"]
CONFIG = ['data = "calib"\nsamples = 10\nexclude = ["a", "b"]\n', '{"data": "calib", "samples": 1}']
COSTS = """
machine = "m"
engine = "e"
pace = { float = 1.0, integer = 2.5 }
times = [ { kind = "Conv 3x3", shape = "1x2", work = 3, float = 1.5, integer = 2 } ]
"""


@dataclass(frozen=True)
class Reader:
    """One way that data come in.

    Attributes:
        name: for people.
        file: what the input is called.
        seeds: makes good inputs.
        edit: damages one.
        read: reads the file, as deeply as anything does.
        named: True when errors have to name the file.
        slow: it is read only when asked for.
    """

    name: str
    file: str
    seeds: Callable[[], Sequence[bytes]]
    edit: Callable[[bytes, Chance], bytes]
    read: Callable[[Path], object]
    named: bool = True
    slow: bool = False

    def write(self, folder: Path, chance: Chance) -> None:
        """Write a damaged file."""
        data = chance.choice(self.seeds())
        for _ in range(chance.choice((1, 1, 2, 3, 8))):
            data = self.edit(data, chance)
        self.put(folder, data)

    def put(self, folder: Path, data: bytes) -> None:
        """Write `data` where it is read."""
        (folder / self.file).parent.mkdir(exist_ok=True)
        (folder / self.file).write_bytes(data)


# -- models ----------------------------------------------------------------------------------------


@cache
def models() -> list[bytes]:
    """The graphs, and a model with external, sparse and packed data."""
    found = [save(parse(text)) for text in GRAPHS]
    model = found[0]
    outside = model.graph.initializer.add(name="o", data_type=1, dims=[8, 8])
    outside.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "w.bin", "offset": "0", "length": "256"}.items():
        outside.external_data.add(key=key, value=value)
    model.graph.initializer.add(name="p", data_type=16, dims=[2], int32_data=[1, 2])
    sparse = model.graph.sparse_initializer.add(dims=[4, 5])
    sparse.values.CopyFrom(onnx.numpy_helper.from_array(WEIGHTS[:2], "sparse"))
    sparse.indices.CopyFrom(onnx.numpy_helper.from_array(np.array([3, 19])))
    for name in ("o", "p", "sparse"):
        model.graph.node.add(op_type="Identity", input=[name], output=[f"{name}_"])
        model.graph.output.add(name=f"{name}_")
    return [one.SerializeToString() for one in found]


def edit_model(data: bytes, chance: Chance) -> bytes:
    """Edit a field where the model can still be read, else bytes."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:
        return edit_bytes(data, chance)
    if chance.random() < 0.2:
        return edit_bytes(data, chance)
    try:
        edit_message(model, chance)
        return model.SerializeToString()
    except UnicodeDecodeError:
        return edit_bytes(data, chance)


def read_model(path: Path) -> None:
    """Load it, read all constants, infer shapes, print and save it."""
    (path.parent / "w.bin").write_bytes(WEIGHTS.tobytes())
    graph = load(path)
    try:
        for part in graph.graphs():
            for value in part.values():
                if value.const is not None:
                    value.const.numpy()
    except Exception as error:
        raise AssertionError(f"it was loaded, but a constant cannot be read: {error!r}") from error
    use(graph)


def use(graph: Graph) -> None:
    """What comes after loading; errors there need not name the file."""
    for step in (print_graph, save, infer, verify):
        with suppress(PtqError):
            step(graph)


def quantize_model(path: Path) -> None:
    """All of it: the default pipeline with made-up samples."""
    (path.parent / "w.bin").write_bytes(WEIGHTS.tobytes())
    quantize(path, seed=1).save(path.with_suffix(".int8.onnx"))


# -- text ------------------------------------------------------------------------------------------


def edit_text(data: bytes, chance: Chance) -> bytes:
    """Edit words, seldom bytes."""
    if chance.random() < 0.1:
        return edit_bytes(data, chance)
    return edit_words(data.decode(errors="replace"), chance).encode()


def text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")


# -- samples ---------------------------------------------------------------------------------------


INPUTS = "g (float[N,2] x) => (float[N,2] y) { y = Relu(x) }"


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@cache
def arrays() -> list[bytes]:
    return [npy(WEIGHTS.reshape(32, 2)), npy(np.array([{}, 2], object)), npy(np.array(["a", "bc"]))]


@cache
def archives() -> list[bytes]:
    found = []
    for save_archive in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save_archive(file, x=WEIGHTS.reshape(32, 2))
        found.append(file.getvalue())
    return found


def edit_archive(data: bytes, chance: Chance) -> bytes:
    """Edit a member, or the archive itself."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        name = chance.choice(sorted(parts))
    except Exception:
        return edit_bytes(data, chance)
    if chance.random() < 0.4:
        return edit_bytes(data, chance)
    parts[name] = chance.choice((edit_bytes, edit_text))(parts[name], chance)
    file = io.BytesIO()
    with zipfile.ZipFile(
        file, "w", chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as out:
        for key, value in parts.items():
            out.writestr(key, value)
    return file.getvalue()


def read_samples(path: Path) -> None:
    """Read the first samples, and all of them when they are few."""
    source = path.parent if path.suffix == ".pb" else path
    with open_samples(source, parse(INPUTS).inputs, 8) as samples:
        for feeds in samples:
            np.add.reduce(feeds["x"], axis=None)


@cache
def tensors() -> list[bytes]:
    outside = onnx.TensorProto(name="o", data_type=1, dims=[32, 2])
    outside.data_location = onnx.TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="../w.bin")
    inside = onnx.numpy_helper.from_array(WEIGHTS.reshape(32, 2), "x")
    listed = onnx.helper.make_tensor("x", 1, [32, 2], WEIGHTS.tolist())
    return [tensor.SerializeToString() for tensor in (inside, listed, outside)]


def edit_tensor(data: bytes, chance: Chance) -> bytes:
    """Edit a field, or bytes."""
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(data)
        edit_message(tensor, chance)
        return tensor.SerializeToString()
    except Exception:
        return edit_bytes(data, chance)


@cache
def calibrations() -> list[bytes]:
    found = Calibration("min-max")
    rows = np.array([[-1, -2], [1, 2], [-1, -2], [1, 2], [0, 0]], np.float64)
    found.ranges["x"] = Range.of(rows[:, 0], 4)
    found.channels["x"] = Range.of(rows, 4)
    with TemporaryDirectory() as folder:
        found.save(Path(folder) / "c.npz")
        return [(Path(folder) / "c.npz").read_bytes()]


def targets() -> list[bytes]:
    own = b'base = "ort-cpu"\nname = "own"\n[costs.operators]\nRelu = [1, 2.5]\n'
    return [own, (FOLDER / "ort-cpu.toml").read_bytes()]


OPTIONS = [name.replace("_", "-") for name in Options.__dataclass_fields__]

READERS = [
    Reader("model", "model.onnx", models, edit_model, read_model),
    Reader("pipeline", "model.onnx", lambda: [small_model().SerializeToString(), models()[1]],
           edit_model, quantize_model, named=False, slow=True),
    Reader("text", "g.txt", lambda: [g.encode() for g in GRAPHS], edit_text,
           lambda path: use(parse(text(path))), named=False),
    Reader("spec", "spec.txt", lambda: [s.encode() for s in SPECS], edit_text,
           lambda path: Pipeline(text(path)).resolve(), named=False),
    Reader("array", "a.npy", arrays, edit_bytes, read_samples),
    Reader("archive", "a.npz", archives, edit_archive, read_samples),
    Reader("tensor", "set/input_0.pb", tensors, edit_tensor, read_samples),
    Reader("calibration", "c.npz", calibrations, edit_archive, Calibration.load),
    Reader("target", "t.toml", targets, edit_text, find_target),
    Reader("costs", "costs.toml", lambda: [COSTS.encode()], edit_text, read_timings),
    Reader("config", "c.toml", lambda: [CONFIG[0].encode()], edit_text,
           lambda path: read_config(path, OPTIONS)),
    Reader("json", "c.json", lambda: [CONFIG[1].encode()], edit_text,
           lambda path: read_config(path, OPTIONS)),
]  # fmt: skip
