"""Sums of numpy's BLAS that do not depend on how many processors there are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """Let numpy's matrix products, sums of products and solvers use one thread in the block.

    With more, OpenBLAS and MKL cut sums differently, and the last bits of the results differ. ONNX
    Runtime cuts between results, never within a sum: its threads change nothing.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield
