"""The compiled binding: cffi objects, untyped."""

from typing import Any

ffi: Any
lib: Any
