"""Cost files: written and read back, and what they say of operators they do not hold."""

from pathlib import Path

import pytest

from ptq_opt.ir import UsageError
from ptq_opt.ir.timings import Timing, Timings, merged, read_timings, write_timings

ROWS = (
    Timing("Conv 3x3", "1x8x16x16", 1000, 500.0, 200.0),
    Timing("Conv 3x3", "1x8x64x64", 16000, 6000.0, 2000.0),
    Timing("Erf", "1x8", 8, 40.0, None),
    Timing("Relu", "1x8", 8, 0.0, 3.5),
    Timing("MaxPool", "1x8", 16, 5.0, 4.0, 6.0, 90.0),
)


def test_a_file_says_what_was_measured(tmp_path: Path) -> None:
    timings = Timings('AMD "EPYC"', "onnxruntime 1.32", ROWS, 1.5, 2.5)
    path = tmp_path / "costs.toml"
    path.write_text(write_timings(timings))
    assert read_timings(path) == timings


@pytest.mark.parametrize(
    ("kind", "shape", "work", "integer", "expected"),
    [
        ("Conv 3x3", "1x8x16x16", 1000, False, (500.0, "measured")),
        ("Conv 3x3", "1x8x16x16", 1000, True, (200.0, "measured")),
        ("Conv 3x3", "1x9x16x16", 1500, True, (300.0, "scaled")),  # of 1000
        ("Conv 3x3", "1x8x50x50", 12000, True, (1500.0, "scaled")),  # of 16000
        ("Conv 5x5", "1x8x16x16", 1000, True, None),
        ("Erf", "1x8", 8, True, None),
        ("Relu", "1x8", 8, False, (0.0, "measured")),  # fused there
        ("Relu", "1x9", 9, False, None),  # may not be here
    ],
)
def test_the_nearest_of_a_class(
    kind: str, shape: str, work: float, integer: bool, expected: object
) -> None:
    assert Timings(rows=ROWS).find(kind, shape, work, integer=integer) == expected


def test_times_among_products_of_the_other_precision() -> None:
    timings = Timings(rows=ROWS)
    for integer, time in ((False, 6.0), (True, 90.0)):
        assert timings.find("MaxPool", "1x8", 16, integer=integer, apart=True) == (time, "measured")
    assert timings.find("Relu", "1x8", 8, integer=True, apart=True) is None


def test_equal_rows_become_their_mean() -> None:
    rows = [Timing("Add", "8", 8, 10.0, None), Timing("Add", "8", 8, 20.0, 5.0)]
    assert merged(rows) == (Timing("Add", "8", 8, 15.0, 5.0),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("times = [", "is not TOML"),
        ("machine = 'm'\nengine = 'e'", "has no 'times'"),
        ("machine = 'm'\nengine = 'e'\ntimes = [{kind = 'Add', shape = '8'}]", "has no 'work'"),
        (
            "machine = 'm'\nengine = 'e'\ntimes = [{kind = 'Add', shape = '8', work = 8, us = 3}]",
            "times have no key 'us'",
        ),
        (
            "machine = 'm'\nengine = 'e'\ntimes = [{kind = 'A', shape = '', work = 8, float = -1}]",
            "a time or the work of 'A' is negative",
        ),
    ],
)
def test_a_file_that_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "costs.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_timings(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read cost file"):
        read_timings(tmp_path / "none.toml")
