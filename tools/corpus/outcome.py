"""One case through the default pipeline, judged from outside: by ONNX Runtime on the saved file."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from ... import native
from ...ir import PtqError
from ...ir.evaluate import Runner, signal_to_noise
from ...ir.target import DEFAULT, Costs, Target, find_target
from ...passes.place import REASONS
from ..api import FAR_FROM_FLOAT, Result, quantize
from ..report import CLOSE_DB, Report
from .cases import Case

QUANTIZED, FAR, FLOAT, REFUSED = "quantized", "quantized, told to be far", "float", "refused"
BUGS = CRASH, UNLOADABLE, SILENT = "CRASH", "DOES NOT LOAD", "FAR FROM FLOAT WITHOUT A WARNING"
KINDS = (QUANTIZED, FAR, FLOAT, REFUSED, *BUGS)
"""Every kind of outcome; the last three must not happen."""
NO_KERNEL = "no integer kernel"
CONVERTS = f"{FLOAT}: {REASONS['converts']}"


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        kind: one of `KINDS`.
        reason: why it is not quantized, or what went wrong; without names.
        db: signal to noise ratio of the worst float output, None where there is none to compare.
        native: the same of our C kernels, None where they had nothing to do.
    """

    kind: str
    reason: str = ""
    db: float | None = None
    native: float | None = None

    @property
    def group(self) -> str:
        """Kind and reason."""
        return f"{self.kind}: {self.reason}" if self.reason else self.kind


def run_case(case: Case) -> Outcome:
    """Quantize a case and compare the file with the original, both in ONNX Runtime.

    What could be in integers but for the conversions is quantized again where these cost nothing.
    """
    found = _run(case, find_target(DEFAULT))
    return _run(case, eager()) if found.group == CONVERTS else found


@functools.cache
def eager() -> Target:
    """The default target, but that integers are faster for all that has an integer kernel."""
    target = find_target(DEFAULT)
    every = dict.fromkeys((*target.light, *target.agnostic), (1.0, 0.1))
    costs = Costs(gops=(1.0, 100.0), quantize=0.0, dequantize=0.0, operators=every)
    return replace(target, costs=costs)


def _run(case: Case, target: Target) -> Outcome:
    data = None if case.feeds is None else [case.feeds]
    try:
        result = quantize(case.model, data, target=target)
    except PtqError as error:
        if not _is_ours(error):
            return Outcome(CRASH, plain(str(error)))
        return Outcome(REFUSED, _refusal(case, str(error)))
    except Exception as error:
        return Outcome(CRASH, f"{type(error).__name__}: {error}")
    return _judge(case, result)


def _judge(case: Case, result: Result) -> Outcome:
    """What a result is worth."""
    told = " ".join(result.report.warnings)
    before, after = open_session(case.model), open_session(result.model)
    if isinstance(before, ort.InferenceSession) and isinstance(after, str):
        return Outcome(UNLOADABLE, plain(after))
    db = by_kernels = None
    if isinstance(before, ort.InferenceSession) and case.feeds is not None:
        real, again = run(before, case.feeds), run(before, case.feeds)
        found = run(after, case.feeds)
        if isinstance(found, str) and not isinstance(real, str):
            return Outcome(UNLOADABLE, plain(found))
        if repeats(real, again):
            db = worst(real, Runner(result.graph).run(case.feeds))
            try:
                by_kernels = _by_kernels(case, result, real)
            except Exception as error:
                return Outcome(CRASH, f"our kernels: {plain(str(error))}")
            low = [each for each in (db, by_kernels) if each is not None and each < CLOSE_DB]
            if low and FAR_FROM_FLOAT not in told:
                return Outcome(SILENT, db=db, native=by_kernels)
            if low:
                return Outcome(FAR, db=db, native=by_kernels)
    if any(decision.quantized for decision in result.report.decisions):
        return Outcome(QUANTIZED, db=db, native=by_kernels)
    return Outcome(FLOAT, why_float(result.report), db)


def repeats(real: list[Any] | str, again: list[Any] | str) -> bool:
    """False where the original does not run on its own data, or makes random numbers."""
    if isinstance(real, str) or isinstance(again, str):
        return False
    return worst(real, again) in (None, signal_to_noise(1, 1))


def why_float(report: Report) -> str:
    """The most frequent reason but for missing kernels, without names."""
    reasons = Counter(plain(decision.reason) for decision in report.decisions)
    if not reasons:
        return "no operators"
    return min(reasons, key=lambda reason: (reason == NO_KERNEL, -reasons[reason], reason))


def _is_ours(error: BaseException) -> bool:
    """True when no exception that was not meant for the user is behind it."""
    cause = error.__cause__
    return cause is None or (isinstance(cause, PtqError) and _is_ours(cause))


def _refusal(case: Case, message: str) -> str:
    """Why, without names; and whether ONNX Runtime would have run the model."""
    if "ONNX Runtime" not in message:
        return plain(message)
    session = open_session(case.model)
    found = session if isinstance(session, str) else run(session, case.feeds or {})
    if isinstance(found, str):
        return "ONNX Runtime does not run it either"
    return f"though ONNX Runtime runs it: {plain(message)}"


def _by_kernels(case: Case, result: Result, real: Sequence[Any]) -> float | None:
    """How near our C kernels come, None where ONNX Runtime would do everything for them."""
    if not any(decision.precision != "float" for decision in result.report.decisions):
        return None
    program = native.compile(result.model)
    found = program.run({name: np.asarray(array) for name, array in (case.feeds or {}).items()})
    return worst(real, list(found.values()))


def open_session(model: onnx.ModelProto) -> ort.InferenceSession | str:
    """A session as anybody opens it, or ONNX Runtime's complaint."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        return str(error)


def run(session: ort.InferenceSession | str, feeds: Mapping[str, Any]) -> list[Any] | str:
    """The outputs, or ONNX Runtime's complaint."""
    if isinstance(session, str):
        return session
    given = {info.name: feeds[info.name] for info in session.get_inputs() if info.name in feeds}
    try:
        outputs: list[Any] = session.run(None, given)
    except Exception as error:
        return str(error)
    return outputs


def worst(real: Sequence[Any], found: Sequence[Any]) -> float | None:
    """Signal to noise ratio of the worst output in dB; -120 for one of another shape.

    Outputs that are not of real numbers count by the share of elements that differ, as if it were
    the relative size of an error: 20 dB for a tenth of them.
    """
    ratios = [ratio for a, b in zip(real, found, strict=True) for ratio in _ratios(a, b)]
    return min(ratios, default=None)


def _ratios(real: Any, found: Any) -> list[float]:
    if isinstance(real, list):
        if len(real) != len(found):
            return [-signal_to_noise(1, 1)]
        return [ratio for a, b in zip(real, found, strict=True) for ratio in _ratios(a, b)]
    if not isinstance(real, np.ndarray) or not real.size:
        return []
    if real.shape != found.shape:
        return [-signal_to_noise(1, 1)]
    if real.dtype.kind != "f":
        return [signal_to_noise(1.0, 1.0 - np.mean(real != found))]
    finite = np.isfinite(real)
    return [signal_to_noise(real[finite], found[finite])]


def plain(message: str) -> str:
    """A message without names, numbers and paths, so that equal reasons are equal texts."""
    if "no integer kernel" in message:
        return NO_KERNEL
    text = message.splitlines()[0] if message else ""
    text = re.sub(r"'[^']*'", "'..'", text)
    text = re.sub(r"/\S+|\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"\([^()]*\)", "", text)
    text = re.sub(r"\d+", "N", text)
    return re.sub(r" +", " ", text)[:100].strip()
