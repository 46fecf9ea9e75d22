"""ONNX Runtime with sums in 32 bits on every processor, as the standard defines its operators."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort


def exact_session(model: onnx.ModelProto | Path) -> ort.InferenceSession:
    """A session that does not saturate pairs of products, which x86 before VNNI does by default."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
