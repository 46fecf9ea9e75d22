"""Quantize one model with another tool; runs under that tool's own Python.

``python peer_worker.py PEER MODEL CALIBRATION COUNT OUT`` writes OUT and, beside it, a ``.json``
with the seconds it took and the error, if any. This file imports nothing of ptq_opt, which need
not be installed there. Exits with 3 when the tool is not installed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import version_converter

PER_CHANNEL_OPSET = 13
"""First opset whose QuantizeLinear has an axis; both tools ask for it in their documentation."""


def load(file: Path) -> dict[str, Any]:
    """Read one sample."""
    with np.load(file) as arrays:
        return dict(arrays)


def raised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model at an opset that can hold per-channel scales."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset >= PER_CHANNEL_OPSET:
        return model
    return version_converter.convert_version(model, PER_CHANNEL_OPSET)


def reader(samples: list[Path]) -> Any:
    """The samples as ONNX Runtime's quantizer takes them; Quark does, too."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        feeds: Iterator[dict[str, Any]] = map(load, samples)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    return Reader()


def quantize_ort(model: Path, samples: list[Path], out: Path) -> None:
    """ONNX Runtime: QDQ, MinMax, uint8 activations, int8 weights per channel."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        converted, prepared = Path(folder, "converted.onnx"), Path(folder, "prepared.onnx")
        onnx.save(raised(onnx.load(model)), converted)
        quant_pre_process(str(converted), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(out),
            reader(samples),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )


def quantize_nncf(model: Path, samples: list[Path], out: Path) -> None:
    """NNCF with its defaults."""
    import nncf

    dataset = nncf.Dataset(samples, load)
    onnx.save(nncf.quantize(raised(onnx.load(model)), dataset, subset_size=len(samples)), out)


def quantize_aimet(model: Path, samples: list[Path], out: Path) -> None:
    """AIMET: simulation with its defaults, folded and equalized before, written as QDQ."""
    from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
    from aimet_onnx.cross_layer_equalization import equalize_model
    from aimet_onnx.quantsim import QuantizationSimModel

    float_model = raised(onnx.load(model))
    fold_all_batch_norms_to_weight(float_model)
    equalize_model(float_model)
    simulation = QuantizationSimModel(float_model)
    simulation.compute_encodings(map(load, samples))
    onnx.save(simulation.to_onnx_qdq(prequantize_constants=True), out)


def quantize_quark(model: Path, samples: list[Path], out: Path) -> None:
    """Quark: its settings for uint8 activations and int8 weights on a CPU, per channel."""
    from quark.onnx import ModelQuantizer
    from quark.onnx.quantization.config import Config, get_default_config

    settings = get_default_config("U8S8_AAWS")
    settings.per_channel = True
    quantizer = ModelQuantizer(Config(global_quant_config=settings))
    quantizer.quantize_model(str(model), str(out), reader(samples))


def quantize_modelopt(model: Path, samples: list[Path], out: Path, method: str = "entropy") -> None:
    """ModelOpt with its defaults, but that the rest stays float32 and that it runs on the CPU."""
    from modelopt.onnx.quantization import quantize

    feeds = [load(sample) for sample in samples]
    quantize(
        str(model),
        calibration_data={name: np.concatenate([f[name] for f in feeds]) for name in feeds[0]},
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(out),
    )


TOOLS: dict[str, Callable[[Path, list[Path], Path], None]] = {
    "ort": quantize_ort,
    "nncf": quantize_nncf,
    "aimet": quantize_aimet,
    "quark": quantize_quark,
    "modelopt": quantize_modelopt,
    "modelopt-max": partial(quantize_modelopt, method="max"),
}


def main() -> None:
    """Run the command line."""
    peer, model, calibration, count, out = sys.argv[1:]
    tool = TOOLS[peer]
    samples = sorted(Path(calibration).glob("*.npz"))[: int(count)]
    record: dict[str, Any] = {"samples": len(samples)}
    start = time.perf_counter()
    try:
        tool(Path(model), samples, Path(out))
    except ModuleNotFoundError as error:
        print(error, file=sys.stderr)
        sys.exit(3)
    except Exception as error:  # whatever another tool raises is its result
        traceback.print_exc()
        record["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    record["seconds"] = time.perf_counter() - start
    Path(out).with_suffix(".json").write_text(json.dumps(record))


if __name__ == "__main__":
    main()
