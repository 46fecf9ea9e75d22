"""The values between operators; only their graph edits them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .dtypes import DType
from .errors import GraphError
from .quant import QuantInfo
from .tensor import Array, Tensor

if TYPE_CHECKING:
    from .graph import Node

Shape = tuple[int | str | None, ...]
SINK = "<outputs>"


class Value:
    """One tensor (or sequence, optional, map) of a graph; identity, not the name, decides sharing.

    Attributes:
        name: the name in the file; made unique when the graph is saved.
        origin: name of the FP32 tensor of the source model that this value stands for, the key of
            what calibration learned; None when there is no such tensor.
        dtype: element type, None when unknown or not a dense tensor.
        shape: dimensions (int, symbol, or None when unknown); None when even the rank is unknown.
        info: type and annotations that `dtype` and `shape` cannot say, kept for saving.
        producer: the node whose output `index` this is; None for inputs, constants, captures.
        uses: (node, slot) pairs in insertion order; slot < 0 is a capture, see `Node.captures`.
        const: the data of an initializer.
        quant: the grid this value is to be stored on, None for float.
    """

    __slots__ = (
        "const",
        "dtype",
        "index",
        "info",
        "name",
        "origin",
        "overridable",
        "producer",
        "quant",
        "shape",
        "uses",
    )

    def __init__(
        self,
        name: str = "",
        dtype: DType | None = None,
        shape: Shape | None = None,
        const: Tensor | None = None,
    ) -> None:
        """Make a value without producer or uses; a constant takes type and shape from its data."""
        self.name = name
        self.origin: str | None = name or None
        self.dtype = const.dtype if const else dtype
        self.shape: Shape | None = const.shape if const else shape
        self.info: Any = None
        self.producer: Node | None = None
        self.index = 0
        self.uses: dict[tuple[Node, int], None] = {}
        self.const = const
        self.overridable = False
        self.quant: QuantInfo | None = None

    @property
    def is_constant(self) -> bool:
        """True for an initializer that no caller can override."""
        return self.const is not None and not self.overridable

    def numpy(self) -> Array:
        """The elements of a constant."""
        if self.const is None:
            raise GraphError(f"value '{self.name}' is not a constant")
        return self.const.numpy()

    @property
    def rank(self) -> int | None:
        """Number of dimensions, None when unknown."""
        return None if self.shape is None else len(self.shape)

    @property
    def consumers(self) -> list[Node]:
        """The nodes that read this value, each once, in order of first use (the sink included)."""
        return list(dict.fromkeys(node for node, _ in self.uses))

    @property
    def is_output(self) -> bool:
        """True when the value is an output of its graph."""
        return any(node.op == SINK for node, _ in self.uses)

    def __repr__(self) -> str:
        """Name, type and shape."""
        kind = self.dtype.name.lower() if self.dtype is not None else "?"
        shape = (
            "?"
            if self.shape is None
            else ",".join("?" if d is None else str(d) for d in self.shape)
        )
        return f"Value({self.name}: {kind}[{shape}])"
