"""The representation: graphs over networkx, their file form, their execution and statistics."""

from .dtypes import DType
from .errors import DataError, GraphError, ModelError, PtqError, UsageError
from .graph import Graph, ModelInfo, Node
from .onnx_io import from_gs, load, save, to_gs
from .quant import QuantInfo, grid
from .tensor import Tensor
from .value import Value

__all__ = [
    "DType",
    "DataError",
    "Graph",
    "GraphError",
    "ModelError",
    "ModelInfo",
    "Node",
    "PtqError",
    "QuantInfo",
    "Tensor",
    "UsageError",
    "Value",
    "from_gs",
    "grid",
    "load",
    "save",
    "to_gs",
]
