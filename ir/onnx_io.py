"""Model files: load and save, onnx-graphsurgeon in and out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import onnx
from google.protobuf.message import DecodeError, EncodeError

from . import memory
from .errors import ModelError, OutOfMemory
from .external import DataWriter, ExternalFiles, map_file
from .graph import Graph
from .onnx_load import load_model
from .onnx_save import save_model
from .tensor import Tensor
from .tensor_io import ExternalSource

_LARGEST_INLINE = 2**31 - 2**26
"""Bytes of weights that a model file may hold: protobuf reads 2 GB, and the rest needs room."""


def load(source: str | os.PathLike[str] | onnx.ModelProto | Any) -> Graph:
    """The graph of a model file, a ModelProto or an onnx-graphsurgeon Graph.

    Weights are read when asked for; a ModelProto must not be changed afterwards, as the graph
    refers to its tensors.

    Raises:
        ModelError: the file is missing, damaged, not a model or newer than the installed onnx.
        OutOfMemory: a sparse tensor would be too large.
    """
    if isinstance(source, onnx.ModelProto):
        return load_model(source, ExternalFiles(None))
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        try:
            return load_model(_read(path), ExternalFiles(path.parent))
        except (ModelError, OutOfMemory) as error:
            raise type(error)(f"cannot load '{path}': {error}") from error
    return from_gs(source)


def save(graph: Graph, path: str | os.PathLike[str] | None = None) -> onnx.ModelProto:
    """The model of `graph`, written to `path` if given.

    A model that was loaded with external data or is too large for one file gets its weights in a
    second file, `path` with ".data" appended; the ModelProto then refers to that. Without `path`
    the weights are always inside. The files appear whole or not at all, and the same graph always
    gives the same bytes.

    Raises:
        ModelError: the files cannot be written.
        GraphError: names of inputs and outputs clash.
    """
    if path is None:
        return save_model(graph)
    path = Path(path)
    weights = _weights(graph)
    is_large = sum(tensor.nbytes for tensor in weights) > _LARGEST_INLINE
    data = path.with_name(path.name + ".data")
    if is_large or any(map(_in_a_file, weights)):
        with _replacing(data, path) as (data_file, file):
            model = save_model(graph, DataWriter(data_file, data.name).store)
            file.write(_serialize(model))
    else:
        with _replacing(path) as (file,):
            model = save_model(graph)
            file.write(_serialize(model))
    return model


def from_gs(source: Any) -> Graph:
    """The graph of an onnx-graphsurgeon `Graph`."""
    import onnx_graphsurgeon as gs

    if not isinstance(source, gs.Graph):
        raise ModelError(
            f"cannot load a {type(source).__name__}: give a path, an onnx.ModelProto or an "
            "onnx-graphsurgeon Graph"
        )
    try:
        model = gs.export_onnx(source)
    except Exception as error:  # of any kind: it checks little itself
        raise ModelError(f"onnx-graphsurgeon cannot write its graph: {error}") from error
    return load(model)


def to_gs(graph: Graph) -> Any:
    """The onnx-graphsurgeon `Graph` of `graph`; what that class has no place for is left out."""
    import onnx_graphsurgeon as gs

    model = save(graph)
    try:
        return gs.import_onnx(model)
    except Exception as error:
        raise ModelError(f"onnx-graphsurgeon cannot hold this graph: {error}") from error


def is_external(graph: Graph) -> bool:
    """True when some of the weights lie in a file beside the model."""
    return any(map(_in_a_file, _weights(graph)))


def _in_a_file(tensor: Tensor) -> bool:
    return isinstance(tensor.source, ExternalSource)


def _weights(graph: Graph) -> list[Tensor]:
    every = (v for part in graph.graphs() for v in part.values())
    return [value.const for value in every if value.const is not None]


def _read(path: Path) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        data = memoryview(map_file(path) or b"")
        memory.check(len(data), f"'{path}'")
        model.ParseFromString(data)
    except OSError as error:
        raise ModelError(str(error.strerror)) from None
    except DecodeError:
        raise ModelError("not an ONNX model, or only a part of one; copy it again") from None
    if not model.HasField("graph"):
        raise ModelError("not an ONNX model, it has no graph")
    return model


def _serialize(model: onnx.ModelProto) -> bytes:
    try:
        data: bytes = model.SerializeToString(deterministic=True)
    except EncodeError:
        raise ModelError(
            "attributes hold over 2 GB, more than a model file can: turn Constant nodes into "
            "initializers (canonicalize), which go to a data file"
        ) from None
    return data


@contextmanager
def _replacing(*paths: Path) -> Iterator[list[BinaryIO]]:
    """Files that take the places of `paths`, in that order, once all of them are complete."""
    temporary = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in paths]
    try:
        for path in paths:
            if path.exists() and not path.is_file():
                raise ModelError(f"cannot write '{path}': it is not a file")
        with ExitStack() as stack:
            files: list[BinaryIO] = [stack.enter_context(open(name, "wb")) for name in temporary]
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        for name, path in zip(temporary, paths, strict=True):
            os.replace(name, path)
    except OSError as error:
        raise ModelError(f"cannot write '{paths[-1]}': {error.strerror}") from None
    finally:
        for name in temporary:
            with suppress(OSError):  # it was renamed, or never made
                name.unlink()
