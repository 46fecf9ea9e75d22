"""Quantize a model of many gigabytes; tells time and memory.

python tests/large_weights.py --gigabytes 5                 weights to 4 bits, without samples
python tests/large_weights.py --gigabytes 2.5 --samples 2   weights and activations to 8 bits

The model is shaped like a transformer that reads tokens. Its files are sparse: of each weight only
some rows are written, the rest is holes that read as zeros and take no disk.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROWS = 4
"""Rows of each weight that are not zero."""


def write_model(path: Path, gigabytes: float, width: int = 2048, tokens: int = 32000) -> int:
    """Write a float transformer with weights of about `gigabytes` beside it; how many blocks.

    Embedding, blocks of attention (one head) and a gated MLP of four times the width, normalized
    by RMS, and a projection back to tokens.
    """
    layer = 4 * (4 * width * width + 3 * width * 4 * width)
    layers = max(1, round((gigabytes * 1e9 - 8 * tokens * width) / layer))
    rng = np.random.default_rng(0)
    data = path.with_name(path.name + ".data")
    with open(data, "wb") as file:

        def weight(name: str, rows: int, columns: int) -> TensorProto:
            offset = -(-file.tell() // 4096) * 4096
            for row in np.linspace(0, rows - 1, ROWS).astype(int):
                file.seek(offset + 4 * int(row) * columns)
                file.write(rng.normal(0, width**-0.5, columns).astype(np.float32).tobytes())
            proto = TensorProto(name=name, dims=[rows, columns], data_type=TensorProto.FLOAT)
            proto.data_location = TensorProto.EXTERNAL
            where = {"location": data.name, "offset": offset, "length": 4 * rows * columns}
            for key, value in where.items():
                proto.external_data.add(key=key, value=str(value))
            return proto

        model = _transformer(weight, layers, width, tokens)
    path.write_bytes(model.SerializeToString())
    return layers


def _transformer(
    weight: Callable[[str, int, int], TensorProto], layers: int, width: int, tokens: int
) -> onnx.ModelProto:
    nodes: list[onnx.NodeProto] = []
    weights = [
        weight("embedding", tokens, width),
        numpy_helper.from_array(np.float32(1e-5), "eps"),
        numpy_helper.from_array(np.float32(width**-0.5), "scale"),
        numpy_helper.from_array(np.array([-1]), "last"),
    ]

    def add(op: str, *inputs: str, **attrs: object) -> str:
        nodes.append(helper.make_node(op, inputs, [f"t{len(nodes)}"], f"n{len(nodes)}", **attrs))
        return nodes[-1].output[0]

    def linear(x: str, name: str, rows: int, columns: int) -> str:
        weights.append(weight(name, rows, columns))
        return add("MatMul", x, name)

    def normalized(x: str) -> str:
        mean = add("ReduceMean", add("Mul", x, x), "last")
        return add("Div", x, add("Sqrt", add("Add", mean, "eps")))

    x = add("Gather", "embedding", "ids")
    for k in range(layers):
        y = normalized(x)
        q, key, v = (linear(y, f"l{k}.{part}", width, width) for part in "qkv")
        scores = add("Mul", add("MatMul", q, add("Transpose", key, perm=[0, 2, 1])), "scale")
        mixed = add("MatMul", add("Softmax", scores), v)
        x = add("Add", x, linear(mixed, f"l{k}.o", width, width))
        y = normalized(x)
        gate, up = (linear(y, f"l{k}.{part}", width, 4 * width) for part in ("gate", "up"))
        gated = add("Mul", add("Mul", gate, add("Sigmoid", gate)), up)
        x = add("Add", x, linear(gated, f"l{k}.down", 4 * width, width))
    weights.append(weight("head", width, tokens))
    nodes.append(helper.make_node("MatMul", [normalized(x), "head"], ["logits"], "head"))
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "n"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "n", tokens])
    graph = helper.make_graph(nodes, "transformer", [ids], [logits], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def peak() -> float:
    """The most memory this process held so far, files it has mapped included, GB (Linux)."""
    # ru_maxrss would begin with that of the process which started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9


def sentences(count: int, tokens: int, length: int = 16) -> list[dict[str, np.ndarray]]:
    """Samples of tokens whose embedding is not zero."""
    rng = np.random.default_rng(1)
    known = np.linspace(0, tokens - 1, ROWS).astype(np.int64)
    return [{"ids": rng.choice(known, (1, length))} for _ in range(count)]


class Watch(threading.Thread):
    """Looks again and again how much memory this process holds that no file backs (Linux)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0.0
        self.start()

    def run(self) -> None:
        while True:
            held = Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]
            self.most = max(self.most, int(held) * 1024 / 1e9)
            time.sleep(0.02)


def main() -> None:
    """Write, quantize, save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=32000)
    parser.add_argument("--samples", type=int, default=0)
    parser.add_argument("--passes")
    args = parser.parse_args()
    from ptq_opt.tools.api import quantize

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        layers = write_model(folder / "float.onnx", args.gigabytes, args.width, args.tokens)
        size = (folder / "float.onnx.data").stat().st_size / 1e9
        before, watch = peak(), Watch()
        start = time.perf_counter()
        if args.samples:
            samples = sentences(args.samples, args.tokens)
            result = quantize(folder / "float.onnx", samples, passes=args.passes)
        else:
            kinds = {"weights": "int4:block=32", "activations": "none"}
            result = quantize(folder / "float.onnx", passes=args.passes, **kinds)
        quantized = time.perf_counter()
        result.save(folder / "stored.onnx")
        end = time.perf_counter()
        stored = (folder / "stored.onnx.data").stat().st_size / 1e9
        print(
            f"{layers} blocks, {size:.2f} GB of weights (the largest of "
            f"{4e-9 * args.tokens * args.width:.2f} GB) stored in {stored:.2f} GB: quantize "
            f"{quantized - start:.0f} s, save {end - quantized:.0f} s, peak memory {peak():.2f} "
            f"GB, without mapped files {watch.most:.2f} GB; {before:.2f} GB before\n{result.report}"
        )


if __name__ == "__main__":
    main()
