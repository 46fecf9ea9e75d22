"""Model files: load and save, onnx-graphsurgeon in and out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from .errors import ModelError
from .graph import Graph
from .onnx_load import load_model
from .onnx_save import save_model
from .tensor_io import ExternalFiles


def load(source: str | os.PathLike[str] | onnx.ModelProto | Any) -> Graph:
    """The graph of a model file, a ModelProto or an onnx-graphsurgeon Graph.

    Weights are read when asked for; a ModelProto must not be changed afterwards, as the graph
    refers to its tensors.

    Raises:
        ModelError: the file is missing, damaged, not a model or newer than the installed onnx.
    """
    if isinstance(source, onnx.ModelProto):
        return load_model(source, ExternalFiles(None))
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return load_model(_read(path), ExternalFiles(path.parent))
    return from_gs(source)


def save(graph: Graph, path: str | os.PathLike[str] | None = None) -> onnx.ModelProto:
    """Write the graph as a model, to `path` if given."""
    model = save_model(graph)
    if path is not None:
        Path(path).write_bytes(model.SerializeToString(deterministic=True))
    return model


def from_gs(source: Any) -> Graph:
    """The graph of an onnx-graphsurgeon `Graph`."""
    import onnx_graphsurgeon as gs

    return load(gs.export_onnx(source))


def to_gs(graph: Graph) -> Any:
    """The onnx-graphsurgeon `Graph` of `graph`."""
    import onnx_graphsurgeon as gs

    return gs.import_onnx(save(graph))


def _read(path: Path) -> onnx.ModelProto:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read '{path}': {error.strerror}") from None
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        raise ModelError(f"'{path}' is not an ONNX model, or is truncated") from None
    if not model.HasField("graph"):
        raise ModelError(f"'{path}' is not an ONNX model: it has no graph")
    return model
