"""ptq_opt: post-training quantization of ONNX models.

    result = ptq_opt.quantize("model.onnx", "folder of samples")
    result.save("model.int8.onnx")
    print(result.report)

This file is installed as `ptq_opt/__init__.py` (see pyproject.toml), so it imports absolutely
while every other module imports relatively. Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptq_opt import ir, native, passes, tools
    from ptq_opt.ir import DataError, Graph, GraphError, ModelError, PtqError, UsageError
    from ptq_opt.passes import Pass, PassError, Pipeline
    from ptq_opt.tools.api import Result, quantize
    from ptq_opt.tools.report import Report

    __version__: str

__all__ = [
    "DataError",
    "Graph",
    "GraphError",
    "ModelError",
    "Pass",
    "PassError",
    "Pipeline",
    "PtqError",
    "Report",
    "Result",
    "UsageError",
    "ir",
    "native",
    "passes",
    "quantize",
    "tools",
]

_MODULES = {
    "ptq_opt.ir": ("DataError", "Graph", "GraphError", "ModelError", "PtqError", "UsageError"),
    "ptq_opt.passes": ("Pass", "PassError", "Pipeline"),
    "ptq_opt.tools.api": ("Result", "quantize"),
    "ptq_opt.tools.report": ("Report",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
_FOLDERS = ("ir", "native", "passes", "tools")


def __getattr__(name: str) -> Any:
    """Import what `name` needs."""
    if name in _FOLDERS:
        return importlib.import_module(f"ptq_opt.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("ptq-opt")
    raise AttributeError(f"module 'ptq_opt' has no attribute '{name}'")


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return __all__
