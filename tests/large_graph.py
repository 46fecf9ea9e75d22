"""Synthetic graphs of any size, for measurements of how time grows; run it to see.

python tests/large_graph.py 100000
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def large_model(operators: int) -> onnx.ModelProto:
    """A chain of residual blocks, Mul-Add-Relu-Add with constants of their own per block."""
    nodes, weights = [], []
    last = "x"
    for k in range(operators // 4):
        mul, add, relu, out = (f"{kind}{k}" for kind in ("mul", "add", "relu", "out"))
        weights.append(numpy_helper.from_array(np.full(4, 0.5, np.float32), f"w{k}"))
        weights.append(numpy_helper.from_array(np.full(4, 0.1, np.float32), f"b{k}"))
        nodes.append(helper.make_node("Mul", [last, f"w{k}"], [mul], f"Mul_{k}"))
        nodes.append(helper.make_node("Add", [mul, f"b{k}"], [add], f"Bias_{k}"))
        nodes.append(helper.make_node("Relu", [add], [relu], f"Relu_{k}"))
        nodes.append(helper.make_node("Add", [relu, last], [out], f"Add_{k}"))
        last = out
    nodes.append(helper.make_node("Identity", [last], ["y"], "Last"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph(nodes, "large", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def main() -> None:
    from ptq_opt.ir import load, save
    from ptq_opt.ir.shapes import infer
    from ptq_opt.ir.verify import verify

    for operators in [int(arg) for arg in sys.argv[1:]] or [10_000, 100_000]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "large.onnx"
            onnx.save(large_model(operators), path)
            clock = [time.perf_counter()]
            graph = load(path)
            clock.append(time.perf_counter())
            verify(graph)
            clock.append(time.perf_counter())
            infer(graph)
            clock.append(time.perf_counter())
            save(graph, path)
            clock.append(time.perf_counter())
        load_, verify_, infer_, save_ = np.diff(clock)
        print(
            f"{operators} operators: load {load_:.2f} s, verify {verify_:.2f} s, "
            f"infer {infer_:.2f} s, save {save_:.2f} s"
        )


if __name__ == "__main__":
    main()
