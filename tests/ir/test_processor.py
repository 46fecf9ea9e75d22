"""Which processors cut sums of products at 16 bits."""

import pytest

from ptq_opt.ir import processor


@pytest.mark.parametrize(
    ("flags", "saturates"),
    [
        ("flags : sse avx2 avx512_vnni", False),
        ("flags : sse avx2 avx_vnni vaes", False),
        ("flags : sse avx2 avx512bw", True),
        ("", True),
    ],
)
def test_pairs_are_exact_with_vnni(
    flags: str, saturates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "description", lambda: flags)
    assert processor.saturates_pairs() == saturates
