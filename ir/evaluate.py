"""Run a graph in ONNX Runtime, fetch any of its values, reduce them inside the graph."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike

from . import memory
from .clone import clone
from .dtypes import DType
from .errors import DataError, ModelError, OutOfMemory, PtqError
from .graph import Graph, Node
from .names import Names
from .onnx_save import save_model
from .processor import saturates_pairs
from .stream import stream
from .tensor import Array, Tensor
from .tensor_io import describe, tensor_to_proto
from .value import Value

OUTSIDE = 1 << 16
"""Constants of at least so many bytes are handed to ONNX Runtime beside the model."""
PIECE = 1 << 13
"""Elements that OpenBLAS and MKL sum on one thread."""
THREADS: ContextVar[int] = ContextVar("threads", default=0)
"""Threads of one operator, for sessions that are not told otherwise; 0 for one per core."""
MOST_DECIBEL = 120.0
"""Bound of signal to noise ratios, which would be infinite for equal tensors."""
AXES_ARE_INPUT = {"ReduceSum": 13}
"""Opset from which a reduction's axes are an input; 18 for those not listed."""
CARRIERS = {
    **dict.fromkeys((DType.INT4, DType.INT2), DType.INT8),
    **dict.fromkeys((DType.UINT4, DType.UINT2), DType.UINT8),
    **dict.fromkeys((DType.BFLOAT16, DType.FLOAT8E4M3FN, DType.FLOAT8E4M3FNUZ), DType.FLOAT),
    **dict.fromkeys((DType.FLOAT8E5M2, DType.FLOAT8E5M2FNUZ), DType.FLOAT),
}
"""Types whose arrays ONNX Runtime does not exchange -> those that hold all their values."""
_NODE_IN_MESSAGE = (
    r"Name:'([^']*)'",
    r"Node ?\(([^)]*)\)",
    r"in node \(([^)]*)\)",
    r"In Node, \(\"([^\"]*)\"",
)
"""How messages of ONNX Runtime name the node at fault."""
_NO_MEMORY = ("Failed to allocate memory", "bad allocation", "bad_alloc")
"""How they say that there is none left."""
_BLAMED = {DataError: "data", ModelError: "model", OutOfMemory: "model"}


class Runner:
    """A graph in an ONNX Runtime session on the CPU.

    The graph may be edited or dropped afterwards; the session is of the graph as it was. Only what
    the fetched values need is run. Weights are given to ONNX Runtime beside the model, so that a
    model may be larger than the 2 GB of a protocol buffer; those of such a model are read anew
    for every sample, part after part, see `stream`.
    """

    def __init__(
        self,
        graph: Graph,
        fetch: Sequence[Value] | None = None,
        *,
        threads: int = 0,
        optimize: bool = True,
        spin: bool = True,
        profile: str = "",
        optimized: str = "",
    ) -> None:
        """Open a session.

        Args:
            graph: what to run; it is copied.
            fetch: values of the graph (inner ones, inputs, constants) in the order `run` gives
                them; None for the graph's outputs.
            threads: of one operator; 0 for `THREADS`.
            optimize: let ONNX Runtime fuse operators. Every fetched value is computed all the
                same: what is fetched is never fused away.
            spin: let threads that wait for work keep their cores for a while.
            profile: time the operators; the path that the file of `end_profile` starts with.
            optimized: file to which ONNX Runtime writes the graph as it runs it; its outputs are
                called "fetch_0", "fetch_1"... unless an input is.

        Raises:
            ModelError: ONNX Runtime refuses the model; names the node where it does.
        """
        fetch = graph.outputs if fetch is None else fetch
        self._stream = None
        if not (profile or optimized):
            again = partial(Runner, threads=threads, optimize=optimize, spin=spin)
            self._stream = stream(graph, fetch, again)
        if self._stream is not None:
            return
        copy, where = clone(graph)
        values = [where[value] for value in fetch]
        self._given, own = _carry_inputs(copy)
        self._fetched = [value.dtype for value in values]
        values = [own.get(value, value) for value in values]
        values = [_carried(copy, value) for value in values]
        copy.set_outputs(values, _output_names(copy, len(values)))
        copy.sweep()
        _unshare_integer_weights(copy)
        copy.inputs = [value for value in copy.inputs if value.uses]
        names = Names.of(copy)
        self._labels = {name: node.label for node, name in names.nodes.items()}
        self._session, self._needed, self._accepted = None, set[str](), set[str]()
        if not values:  # a session without outputs is not allowed
            return
        self._session = self._open(copy, names, threads, optimize, spin, profile, optimized)
        self._needed = {info.name for info in self._session.get_inputs()}
        optional = {info.name for info in self._session.get_overridable_initializers()}
        self._accepted = self._needed | optional

    def run(self, feeds: Mapping[str, Array], *, borrow: bool = False) -> list[Any]:
        """The fetched values for one sample: arrays, lists of arrays for sequences.

        Args:
            feeds: input name -> array; what the fetched values do not depend on may be left out.
            borrow: give arrays in memory of the session, which they keep alive, not copies.

        Raises:
            DataError: an input is missing, or of a wrong type or shape.
            ModelError: an operator failed; names it.
        """
        if self._stream is not None:
            return self._stream.run(feeds)
        if self._session is None:
            return []
        missing = self._needed - feeds.keys()
        if missing:
            raise DataError(f"no data for the model's input '{min(missing)}'")
        given = {name: array for name, array in feeds.items() if name in self._accepted}
        given |= {k: given[k].astype(dtype.numpy) for k, dtype in self._given.items() if k in given}
        try:
            found: list[Any] = self._session.run(None, given)
        except Exception as error:  # each status code of ONNX Runtime has a class of its own
            raise self._explained(error, DataError) from None
        return [_own(item, dtype, borrow) for item, dtype in zip(found, self._fetched, strict=True)]

    def end_profile(self) -> str:
        """Stop timing operators; the path of the file that ONNX Runtime has written, as JSON."""
        assert self._session is not None
        return str(self._session.end_profiling())

    def _open(
        self,
        graph: Graph,
        names: Names,
        threads: int,
        optimize: bool,
        spin: bool,
        profile: str,
        optimized: str,
    ) -> Any:
        import onnxruntime as ort

        outside = _Outside(graph, names)
        model = save_model(graph, outside.store, names)
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what fails is raised, not also printed
        options.enable_mem_pattern = False  # as fast, and a third less memory
        options.intra_op_num_threads = threads or THREADS.get()
        if saturates_pairs():  # then sums in 32 bits take a form of their own, which is slower
            options.add_session_config_entry("session.x64quantprecision", "1")
        # Products of floats with stored weights in float: the default rounds the floats to 8 bits.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        if not spin:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        options.optimized_model_filepath = optimized
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        held = [ort.OrtValue.ortvalue_from_numpy(array) for array in outside.arrays.values()]
        options.add_external_initializers(list(outside.arrays), held)
        try:
            return ort.InferenceSession(
                model.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=["WeightBiasQuantization"],  # makes int8 of float weights
            )
        except Exception as error:
            raise self._explained(error, ModelError) from None

    def _explained(self, error: Exception, otherwise: type[PtqError]) -> PtqError:
        """What names the node ONNX Runtime complains of, else `otherwise`."""
        text = str(error).strip()
        told = text.rpartition("Status Message: ")[2] if "Status Message: " in text else text
        told = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", told)
        kind: type[PtqError] = ModelError
        if isinstance(error, MemoryError) or any(each in text for each in _NO_MEMORY):
            kind = otherwise = OutOfMemory
            told = f"more memory is needed than {memory.allowed()}"
        for pattern in _NODE_IN_MESSAGE:
            if (found := re.search(pattern, text)) and found[1]:
                label = self._labels.get(found[1], f"'{found[1]}'")  # a fused one has a new name
                return kind(f"ONNX Runtime cannot run {label}: {told}")
        return otherwise(f"ONNX Runtime refuses the {_BLAMED[otherwise]}: {told}")


def _unshare_integer_weights(graph: Graph) -> None:
    """Give every reader of dequantized weights initializers of its own, the zero point too.

    On x86 before VNNI ONNX Runtime shifts int8 weights to uint8 for exact sums, under names made
    of the initializers': those that two operators share make it refuse the model.
    """
    for node in graph.order():
        if not node.is_op("DequantizeLinear") or not (chain := _stored_by(node)):
            continue
        copies = [chain]
        for reader, slot in list(node.output.uses)[1:]:
            value, made = chain[0].inputs[0], []
            for each in chain:
                operands = [value, *each.inputs[1:]]
                made.append(graph.add(each.op, operands, dict(each.attrs), like=each))
                value = made[-1].output
            copies.append(made)
            graph.set_input(reader, slot, value)
        for each in (each for made in copies for each in made):
            for slot, value in enumerate(each.inputs):
                if value is not None and value.const is not None and len(value.uses) > 1:
                    graph.set_input(each, slot, graph.constant(value.const, value.name))


def _stored_by(dequantize: Node) -> list[Node]:
    """The conversions that make reals of a constant, in order; empty when it is none."""
    stored = dequantize.input(0)
    if stored is None or stored.const is not None:
        return [dequantize] if stored is not None else []
    maker = stored.producer
    real = maker.input(0) if maker is not None and maker.is_op("QuantizeLinear") else None
    return [maker, dequantize] if maker is not None and real is not None and real.const else []


def _carry_inputs(graph: Graph) -> tuple[dict[str, DType], dict[Value, Value]]:
    """Carriers of the inputs that need one, by name, and what now has the type of each."""
    carriers: dict[str, DType] = {}
    own: dict[Value, Value] = {}
    for slot, value in enumerate(graph.inputs):
        if value.dtype in CARRIERS and value.const is None:
            carriers[value.name] = CARRIERS[value.dtype]
            graph.inputs[slot] = stand_in = Value(value.name)
            stand_in.dtype, stand_in.shape = carriers[value.name], value.shape
            own[value] = graph.add("Cast", [stand_in], {"to": int(value.dtype)}).output
            own[value].dtype, own[value].shape = value.dtype, value.shape
            graph.replace(value, own[value])
    return carriers, own


def _carried(graph: Graph, value: Value) -> Value:
    """`value`, in its carrier's type where it has one."""
    if value.dtype not in CARRIERS:
        return value
    return graph.add("Cast", [value], {"to": int(CARRIERS[value.dtype])}).output


def _own(item: Any, dtype: DType | None, borrow: bool) -> Any:
    """A result in its own type and memory: an array of ONNX Runtime's keeps its session alive."""
    if not isinstance(item, np.ndarray) or (borrow and dtype not in CARRIERS):
        return item
    return item.astype(dtype.numpy) if dtype in CARRIERS and dtype is not None else item.copy()


class _Outside:
    """Keeps large constants out of the model: ONNX Runtime copies them from memory."""

    def __init__(self, graph: Graph, names: Names) -> None:
        read = (value for node in graph.order() for _, value in node.operands())
        self.candidates = {names.values[v] for v in read if v.const is not None}
        self.arrays: dict[str, Array] = {}

    def store(self, tensor: Tensor, name: str | None) -> onnx.TensorProto:
        plain = tensor.dtype.numpy.kind in "biuf"  # numpy's own types, no strings
        if tensor.nbytes < OUTSIDE or not plain or name not in self.candidates:
            return tensor_to_proto(tensor, name)
        self.arrays[name] = np.asarray(tensor.numpy(), order="C")
        proto = describe(tensor, name)
        proto.data_location = onnx.TensorProto.EXTERNAL
        proto.external_data.add(key="location", value="memory")
        return proto


def _output_names(graph: Graph, count: int) -> list[str]:
    """Interface names that no input has."""
    taken = {value.name for value in graph.inputs}
    fresh = (name for k in itertools.count() if (name := f"fetch_{k}") not in taken)
    return list(itertools.islice(fresh, count))


def reduce(graph: Graph, value: Value, op: str, axis: int | None = None) -> Value:
    """Add a reduction of `value` over all axes, or all but `axis`, to `graph`.

    `op` is ReduceMin, ReduceMax, ReduceMean or another of that family; the result has shape () or
    [channels]. With an axis the rank must be known.
    """
    attrs: dict[str, Any] = {"keepdims": 0}
    inputs: list[Value | None] = [value]
    if axis is not None:
        assert value.rank is not None
        axes = [k for k in range(value.rank) if k != axis % value.rank]
        if not axes:
            return value
        if graph.info.opset >= AXES_ARE_INPUT.get(op, 18):
            inputs.append(graph.constant(np.array(axes, np.int64)))
            attrs["noop_with_empty_axes"] = 1
        else:
            attrs["axes"] = axes
    return graph.add(op, inputs, attrs).output


def signal_to_noise(reference: ArrayLike, test: ArrayLike) -> float:
    """Energy of `reference` over that of the error of `test` in dB, within +-120.

    10 log10(sum r^2 / sum (r - t)^2); 120 for equal tensors, -120 where `test` is not finite.
    """
    r, t = np.asarray(reference, np.float64).ravel(), np.asarray(test, np.float64).ravel()
    return decibel(dot(r, r), dot(r - t, r - t))


def dot(a: Array, b: Array) -> float:
    """Sum of products of two flat arrays, in their type within a piece and in double beyond.

    Pieces are too short for BLAS to share among threads, whose number would change the last bits.
    """
    return sum(float(a[k : k + PIECE] @ b[k : k + PIECE]) for k in range(0, a.size, PIECE))


def decibel(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two energies, within +-120; 120 where there is no noise."""
    if noise == 0:
        return MOST_DECIBEL
    if signal == 0 or not np.isfinite(noise):
        return -MOST_DECIBEL
    ratio = 10 * (np.log10(signal) - np.log10(noise))
    return float(np.clip(ratio, -MOST_DECIBEL, MOST_DECIBEL))
