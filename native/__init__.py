"""The C kernel library and its Python binding: run a quantized model in integers.

program = ptq_opt.native.compile("model.int8.onnx", threads=2)
outputs = program.run({"input": array})
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .profile import OperatorTime
    from .program import Program, compile
    from .serialized import serialize

__all__ = ["OperatorTime", "Program", "compile", "serialize"]
_MODULES = {
    "OperatorTime": ".profile",
    "Program": ".program",
    "compile": ".program",
    "serialize": ".serialized",
}


def __getattr__(name: str) -> Any:
    """Import what `name` needs: the build reads this package before its extension exists."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name], __name__), name)
    raise AttributeError(f"module 'ptq_opt.native' has no attribute '{name}'")
