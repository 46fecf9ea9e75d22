"""The placement problem of a graph: which tensors are converted, and change their layout."""

from dataclasses import replace

import pytest
from rewriting import net, noise

from ptq_opt.ir.target import Target, find_target
from ptq_opt.ir.timings import Timing, Timings
from ptq_opt.passes.place import places
from ptq_opt.passes.units import find_units

ROWS = (
    Timing("QuantizeLinear", "512", 512, None, 10.0),
    Timing("DequantizeLinear", "512", 512, None, 1.0),
    Timing("QuantizeLinear image", "512", 512, None, 210.0),
    Timing("DequantizeLinear image", "512", 512, None, 101.0),
)
TARGET = replace(find_target("ort-cpu"), timings=Timings(rows=ROWS))


def conversions(body: str, precisions: str, target: Target = TARGET) -> float:
    """Nanoseconds of conversions where each operator is in integers (I) or in float (F)."""
    graph = net(body, "float[1,8,8,8] x", w=noise(8, 8, 1, 1))
    found = places(find_units(graph, target), graph, target)
    integer = [letter == "I" for letter in precisions] + [False]
    return sum(link.cost(integer) for link in found.problem.links)


BETWEEN = "a = Conv (x, w)\n b = Erf (a)\n y = Conv (b, w)"


@pytest.mark.parametrize(
    ("precisions", "expected"),
    [
        ("FFF", 0.0),
        ("FFI", 10 + 200 + 1),  # behind Erf
        ("IFF", 10 + 200 + 1 + 100),  # x; in front of and behind Erf
        ("IFI", 10 + 200 + 1 + 10 + 1),  # between convolutions alike Erf computes in their layout
    ],
)
def test_a_layout_changes_between_convolutions_of_different_precision(
    precisions: str, expected: float
) -> None:
    assert conversions(BETWEEN, precisions) == expected


def test_a_layout_changes_once_for_all_readers() -> None:
    body = "a = Conv (x, w)\n b = Conv (a, w)\n c = Conv (a, w)\n y = Add (b, c)"
    assert conversions(body, "FIII") == 10 + 200 + 1
    assert conversions(body, "FIFF") == 10 + 200 + 1


def test_a_sum_is_in_the_layout_of_the_latest_convolution() -> None:
    body = "a = Conv (x, w)\n b = Conv (a, w)\n c = Add (a, b)\n y = Conv (c, w)"
    assert conversions(body, "FIII") == 10 + 200 + 1, "a is quantized once, for b and the sum"


def test_what_is_no_image_has_no_layout() -> None:
    body = "a = Conv (x, w)\n b = Transpose <perm = [0,2,3,1]> (a)\n y = Conv (b, w)"
    assert conversions(body, "FFI") == 10 + 1


POOLED = Timing("MaxPool 1x1", "1x8x8x8", 512, 10.0, 5.0, 10.0, 1005.0)
"""Integers take 5 ns, 1000 more where the image is in the layout of float convolutions."""


@pytest.mark.parametrize(
    ("precisions", "expected"),
    [
        ("IIIII", 10 + 200 + 1),  # x and its layout, y
        ("FIIII", 10 + 200 + 10 + 1 + 1000),  # and a: the pool is slow though b is in integers
        ("IFIII", 10 + 200 + 10 + 200 + 1 + 1000),  # and the layout of b, the latest, for y
        ("FFIII", 10 + 10 + 200 + 1 + 1000),  # the pool once
        ("FFFFF", 0.0),
        ("FFFFI", 10 + 200 + 1 + 995),  # quantized before the pool, which moves integers: 5 for 10
    ],
)
def test_a_pool_is_in_the_layout_of_all_convolutions_in_front(
    precisions: str, expected: float
) -> None:
    body = (
        "a = Conv (x, w)\n b = Conv (x, w)\n s = Add (a, b)\n"
        "p = MaxPool <kernel_shape = [1,1]> (s)\n y = Conv (p, w)"
    )
    slow = replace(TARGET, timings=Timings(rows=(*ROWS, POOLED)))
    assert conversions(body, precisions, slow) == expected
