"""The C kernels as an engine that placement takes its times from."""

import numpy as np
from onnx import numpy_helper, parser
from rewriting import noise

from ptq_opt.ir import load
from ptq_opt.ir.engines import latencies, profile

QUANTIZED = """
<ir_version: 8, opset_import: ["" : 17]>
main (float[1,4,6,6] x) => (float[1,4,6,6] y) <float s = {0.1}, uint8 z = {128}, int8 zw = {0}> {
  [q1] a = QuantizeLinear(x, s, z)
  [d1] b = DequantizeLinear(a, s, z)
  [dw] v = DequantizeLinear(w, s, zw)
  [product] c = Conv(b, v)
  [bound] r = Relu(c)
  [q2] e = QuantizeLinear(r, s, z)
  [d2] f = DequantizeLinear(e, s, z)
  [float1] g = Softplus(f)
  [float2] y = Cos(g)
}"""


def test_events_are_named_after_what_does_the_work() -> None:
    """A fused operator by its product; a part that runs elsewhere by its nodes, in equal parts."""
    model = parser.parse_model(QUANTIZED)
    weights = np.ones((4, 4, 1, 1), np.int8)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    feeds = {"x": noise(1, 4, 6, 6), "unused": np.zeros(1, np.float32)}
    (events,) = profile("native", [load(model)], feeds, threads=1, runs=3)
    assert all(event.time > 0 for event in events)
    by_op = {event.op: event for event in events}
    assert by_op["Conv"].names[0] == "product" and "bound" in by_op["Conv"].names
    assert by_op["QuantizeLinear"].names == ("q1",)
    assert "DequantizeLinear" in by_op or "Softplus" in by_op
    assert by_op["Cos"].names == ("float2",)
    found = latencies("native", {"a": load(model)}, feeds, threads=1, seconds=0.01)
    assert found["a"] > 0
