"""ONNX Runtime with sums in 32 bits on every processor, as the standard defines its operators."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort


def exact_session(model: onnx.ModelProto | Path) -> ort.InferenceSession:
    """A session that neither saturates pairs of products nor rounds floats to 8 bits.

    x86 before VNNI does the one by default, products with weights of few bits the other.
    """
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
