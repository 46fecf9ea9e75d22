"""`onnxruntime.quantization` by its own names: change the import and keep the call.

    from ptq_opt.compat.onnxruntime import CalibrationDataReader, QuantType, quantize_static

What an argument asks for is what it gets, by our passes. What differs is in docs/onnxruntime.md;
an option that we have nothing for is refused with the reason, and never ignored.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    StaticQuantConfig,
    quant_pre_process,
)

from ptq_opt.ir import Graph, UsageError, load
from ptq_opt.ir.spelling import nearest
from ptq_opt.passes.base import all_nodes
from ptq_opt.passes.calibrate import Calibrate
from ptq_opt.passes.quant import Quantize
from ptq_opt.passes.registry import DEFAULT
from ptq_opt.passes.select import selects
from ptq_opt.passes.spec import parse
from ptq_opt.tools.api import Result
from ptq_opt.tools.api import quantize as run_pipeline

__all__ = [
    "CalibrationDataReader",
    "CalibrationMethod",
    "QuantFormat",
    "QuantType",
    "StaticQuantConfig",
    "quant_pre_process",
    "quantize",
    "quantize_static",
]

TYPES = {
    QuantType.QInt8: "int8",
    QuantType.QUInt8: "uint8",
    QuantType.QInt16: "int16",
    QuantType.QUInt16: "uint16",
    QuantType.QInt4: "int4",
    QuantType.QUInt4: "uint4",
}
METHODS = {
    CalibrationMethod.MinMax: "min-max",
    CalibrationMethod.Entropy: "entropy",
    CalibrationMethod.Percentile: "percentile",
}
FORMATS = {QuantFormat.QDQ: "qdq", QuantFormat.QOperator: "qoperator"}
BECOMES = {"MatMul": ("Gemm",), "Sum": ("Add",), "ReduceMean": ("GlobalAveragePool",)}
"""Operators that are written another way before they are quantized."""

WITHOUT_EFFECT = (
    "CalibMaxIntermediateOutputs",  # calibration holds one sample's activations at a time
    "CalibStridedMinMax",
)
HONOURED = ("ActivationSymmetric", "WeightSymmetric", "MatMulConstBOnly")
REFUSED = {
    "ActivationRestrictedAsymmetric": "zero points follow from the ranges",
    "AddQDQPairToWeight": "weights are stored as integers",
    "CalibMovingAverage": 'the nearest we have is passes="calibrate{method=mean-max},quant"',
    "CalibMovingAverageConstant": "there is no moving average",
    "CalibTensorRangeSymmetric": "ActivationSymmetric gives symmetric grids",
    "DedicatedQDQPair": "readers of a tensor share its conversions",
    "EnableSubgraph": "bodies of If, Loop and Scan stay in float",
    "ForceQuantizeNoInputCheck": "the target says what runs in integers",
    "MinimumRealRange": "a target file can say what an engine needs",
    "OpTypesToExcludeOutputQuantization": "the target's float-output says which results stay float",
    "QDQDisableWeightAdjustForInt32Bias": "biases that overflow would be wrong",
    "QDQKeepRemovableActivations": "the target's fused table says which activations melt away",
    "QDQOpTypePerChannelSupportToAxis": "channels are those of the operator's output",
    "SmoothQuant": "channels are aligned by the pass align",
    "SmoothQuantAlpha": "channels are aligned by the pass align",
    "SmoothQuantFolding": "channels are aligned by the pass align",
    "TensorQuantOverrides": "write a pass that sets Value.quant, see docs/writing-a-pass.md",
    "UseQDQContribOps": "the standard's operators know all types that we write",
    "extra.Sigmoid.nnapi": "targets describe engines",
}
"""Options of theirs that would change the result in a way we have nothing for, and why."""


def quantize_static(
    model_input: str | os.PathLike[str] | onnx.ModelProto,
    model_output: str | os.PathLike[str],
    calibration_data_reader: CalibrationDataReader | None = None,
    quant_format: QuantFormat = QuantFormat.QDQ,
    op_types_to_quantize: Sequence[str] | None = None,
    per_channel: bool = False,
    reduce_range: bool = False,
    activation_type: QuantType = QuantType.QInt8,
    weight_type: QuantType = QuantType.QInt8,
    nodes_to_quantize: Sequence[str] | None = None,
    nodes_to_exclude: Sequence[str] | None = None,
    use_external_data_format: bool = False,
    calibrate_method: CalibrationMethod = CalibrationMethod.MinMax,
    calibration_providers: Sequence[str] | None = None,
    extra_options: Mapping[str, Any] | None = None,
    calibration_cache_path: str | os.PathLike[str] | None = None,
) -> Result:
    """Quantize a model and write it to `model_output`; arguments as in onnxruntime.

    Args:
        model_input: path or ModelProto, in float.
        model_output: path; weights go to a second file where the format needs that, whatever
            `use_external_data_format` says.
        calibration_data_reader: gives feeds, all of which are used.
        quant_format: QDQ, or integer operators where all operands are integers.
        op_types_to_quantize: leave all other types in float; empty for none of them.
        per_channel: one scale of weights per output channel.
        reduce_range: has no effect: weights that could saturate 16-bit sums, and no others, are
            kept from it either way (pass `saturate`).
        activation_type: integer type of activations.
        weight_type: integer type of weights.
        nodes_to_quantize: names; leave all other nodes in float; empty for none of them.
        nodes_to_exclude: names; leave these in float.
        use_external_data_format: see `model_output`.
        calibrate_method: how ranges follow from the data.
        calibration_providers: only the CPU's.
        extra_options: by their names; see docs/onnxruntime.md.
        calibration_cache_path: refused, its format is onnxruntime's.

    Returns:
        The model and the report, which onnxruntime does not give.

    Raises:
        UsageError: we have nothing for an argument; says what there is.
        PtqError: as `ptq_opt.quantize`.
    """
    options = _checked(extra_options or {})
    if calibration_data_reader is None:
        raise UsageError("calibration_data_reader is needed: there are no ranges without data")
    if calibration_cache_path is not None:
        raise UsageError("calibration_cache_path is a format of onnxruntime's: leave it out")
    if set(calibration_providers or ()) - {"CPUExecutionProvider"}:
        raise UsageError("calibration runs on CPUExecutionProvider: leave calibration_providers")
    weights = _name(TYPES, weight_type, "weight_type")
    weights += ":per-channel" if per_channel else ":per-tensor"
    weights += _symmetry(options.get("WeightSymmetric"), ",")
    activations = _name(TYPES, activation_type, "activation_type")
    graph = load(model_input)
    result = run_pipeline(
        model_input,
        calibration_data_reader,
        passes=_pipeline(
            _name(METHODS, calibrate_method, "calibrate_method"),
            _name(FORMATS, quant_format, "quant_format"),
        ),
        weights=weights,
        layer_weights=[f"is:end={weights}"],  # all layers alike
        activations=activations + _symmetry(options.get("ActivationSymmetric"), ":"),
        samples=MANY,
        exclude=_excluded(graph, op_types_to_quantize, nodes_to_quantize, options),
        nodes_to_exclude=nodes_to_exclude or (),
    )
    result.save(model_output)
    return result


def quantize(
    model_input: str | os.PathLike[str] | onnx.ModelProto,
    model_output: str | os.PathLike[str],
    quant_config: StaticQuantConfig,
) -> Result:
    """`quantize_static` with its arguments in a configuration, as `onnxruntime.quantization` has.

    Raises:
        UsageError: the configuration is of another kind, or as `quantize_static` raises it.
    """
    if not isinstance(quant_config, StaticQuantConfig):
        kind = type(quant_config).__name__
        raise UsageError(f"only StaticQuantConfig is known here, not {kind}")
    return quantize_static(model_input, model_output, **vars(quant_config))


MANY = 1_000_000
"""Their readers end by themselves: all they give is used."""


def _checked(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """`options`, if we have something for all of them that are set."""
    for name, value in options.items():
        if name in REFUSED and value:
            raise UsageError(f"extra_options['{name}'] is not supported: {REFUSED[name]}")
        if name not in (*REFUSED, *HONOURED, *WITHOUT_EFFECT):
            known = sorted((*REFUSED, *HONOURED, *WITHOUT_EFFECT))
            raise UsageError(f"extra_options has no '{name}'{nearest(name, known)}")
    return options


def _name(known: Mapping[Any, str], value: Any, argument: str) -> str:
    if value not in known:
        names = ", ".join(each.name for each in known)
        raise UsageError(f"{argument} can be {names}, not {getattr(value, 'name', value)}")
    return known[value]


def _symmetry(wanted: bool | None, before: str) -> str:
    if wanted is None:
        return ""
    return before + ("symmetric" if wanted else "asymmetric")


def _pipeline(method: str, form: str) -> list[Any]:
    """The default pipeline with the caller's calibration and format."""
    chosen = {
        Calibrate: Calibrate(method=method, samples=MANY),  # type: ignore[arg-type]
        Quantize: Quantize(format=form),  # type: ignore[arg-type]
    }
    return [chosen.get(type(step), step) for step in parse(DEFAULT)]


def _excluded(
    graph: Graph,
    types: Collection[str] | None,
    names: Collection[str] | None,
    options: Mapping[str, Any],
) -> list[str]:
    """Patterns of what is not among `types` and `names`, those that select anything."""
    patterns = []
    if types:
        kept = {*types, *(other for op in types for other in BECOMES.get(op, ()))}
        patterns.append(f"op:(?!(?:{_alternatives(kept)})$).*")
    if names:
        patterns.append(f"^(?!(?:{_alternatives(names)})$)")
    nodes = [node for _, node in all_nodes(graph)]
    if options.get("MatMulConstBOnly"):
        products = [(node, node.input(1)) for node in nodes if node.is_op("MatMul")]
        variable = [node for node, second in products if second and not second.is_constant]
        patterns += [f"^{re.escape(node.name or node.output.name)}$" for node in variable]
    return [pattern for pattern in patterns if any(selects(pattern, node) for node in nodes)]


def _alternatives(words: Collection[str]) -> str:
    return "|".join(map(re.escape, sorted(words)))
