"""cffi API-mode description of the C kernels; run to emit the C glue."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
HEADER = HERE / "include" / "ptq" / "kernels.h"


def cdef(text: str) -> str:
    """The declarations of a plain C header, as cffi wants them."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r"#ifdef __cplusplus.*?#endif", "", text, flags=re.DOTALL)
    return re.sub(r"^#.*$", "", text, flags=re.MULTILINE)


def builder() -> FFI:
    """A configured FFI whose module is ptq_opt.native._kernels."""
    ffi = FFI()
    ffi.cdef(cdef(HEADER.read_text()))
    ffi.set_source("ptq_opt.native._kernels", '#include "ptq/kernels.h"')
    return ffi


if __name__ == "__main__":
    builder().emit_c_code(sys.argv[1])
