"""What calibration learned: lookup, merging, files."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptq_opt.ir import DataError, UsageError, Value
from ptq_opt.ir.ranges import Calibration, Range


def span(low: Any, high: Any, mean: Any = 0.5, samples: int = 1) -> Range:
    """A range seen a little wider than it is expected."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    return Range(low, high, low - 1, high + 1, np.full(low.shape, mean), samples)


def calibration() -> Calibration:
    found = Calibration("mean-max")
    found.ranges = {"a": span(-1, 2, samples=3), "größe/ß:0": span(0, 1e-30, samples=2)}
    found.channels = {"a": span([-1, 0], [2, 3], samples=3)}
    return found


def assert_same(one: Calibration, two: Calibration) -> None:
    assert (one.method, one.samples) == (two.method, two.samples)
    for mine, theirs in ((one.ranges, two.ranges), (one.channels, two.channels)):
        assert list(mine) == list(theirs)
        for name, known in mine.items():
            assert known.samples == theirs[name].samples
            assert known.low.shape == theirs[name].low.shape
            np.testing.assert_array_equal(known.rows, theirs[name].rows)


def test_values_are_found_by_the_name_of_the_tensor_they_stand_for() -> None:
    found, renamed, other = calibration(), Value("a"), Value("b")
    renamed.name = "a_quantized"
    assert found[renamed].high == 2
    assert renamed in found and found.get(renamed) is found.ranges["a"]
    assert found.per_channel(renamed) is found.channels["a"]
    assert other not in found and found.get(other) is None and found.per_channel(other) is None
    assert found.samples == 3


# -- merging ---------------------------------------------------------------------------------------


def test_ranges_of_different_tensors_are_put_together() -> None:
    one, two = Calibration("mse"), Calibration("mse")
    one.ranges, two.ranges = {"a": span(0, 1)}, {"b": span(0, 2)}
    one.merge(two)
    assert {name: float(known.high) for name, known in one.ranges.items()} == {"a": 1, "b": 2}


def test_means_are_weighted_by_samples_and_extremes_taken_together() -> None:
    one, two = Calibration("mean-max"), Calibration("mean-max")
    one.ranges, two.ranges = {"a": span(-1, 1, 0, samples=1)}, {"a": span(-2, 5, 4, samples=3)}
    one.merge(two)
    found = one.ranges["a"]
    assert (found.low, found.high, found.mean, found.samples) == (-1.75, 4, 3, 4)
    assert (found.seen_low, found.seen_high) == (-3, 6)


def test_extremes_stay_extremes() -> None:
    one, two = Calibration("min-max"), Calibration("min-max")
    one.ranges["a"] = Range.of(np.array([-1.0, 1, -1, 1, 0]), 1)
    two.ranges["a"] = Range.of(np.array([-2.0, 0.5, -2, 0.5, 0]), 1)
    one.merge(two)
    assert one.ranges["a"].rows.tolist() == [-2, 1, -2, 1, 0]


def test_what_cannot_be_merged_is_refused() -> None:
    known, other = Calibration("mean-max"), Calibration("mse")
    with pytest.raises(UsageError, match="'mean-max' and by 'mse'"):
        known.merge(other)
    other.ranges["a"] = span(0, 1)
    with pytest.raises(UsageError, match="'a' has two ranges by 'mse'"):
        other.merge(other)
    channels = calibration()
    channels.channels["a"] = span([0], [1])
    with pytest.raises(UsageError, match="'a' has 2 and 1 channels"):
        calibration().merge(channels)


# -- files -----------------------------------------------------------------------------------------


def test_a_saved_calibration_is_loaded_as_it_was(tmp_path: Path) -> None:
    for known in (calibration(), Calibration("entropy")):
        known.save(tmp_path / "c.npz")
        assert_same(Calibration.load(tmp_path / "c.npz"), known)
    assert [path.name for path in tmp_path.iterdir()] == ["c.npz"]


def test_the_same_calibration_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        calibration().save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def changed(path: Path, **parts: Any) -> None:
    """Rewrite a saved calibration with some of its arrays replaced or, if None, left out."""
    calibration().save(path)
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    arrays |= {key.replace("_", "."): array for key, array in parts.items()}
    with path.open("wb") as out:
        np.savez(out, **{key: array for key, array in arrays.items() if array is not None})


def truncated(path: Path) -> None:
    calibration().save(path)
    path.write_bytes(path.read_bytes()[:-100])


def not_an_archive(path: Path) -> None:
    path.write_bytes(b"nothing of the kind")


def some_other_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"version": 1}))


def vast_header(path: Path) -> None:
    """An array that claims to have 2**60 elements."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1152921504606846976,), }\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "version.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
        )


NAN = np.full((5, 2), np.nan)
WRONG: dict[str, Callable[[Path], None]] = {
    "truncated": truncated,
    "not an archive": not_an_archive,
    "another archive": some_other_archive,
    "pickled": pickled,
    "vast header": vast_header,
    "missing": lambda path: None,
    "newer": lambda path: changed(path, version=2),
    "version of another kind": lambda path: changed(path, version=[1, "x"]),
    "unknown method": lambda path: changed(path, method="guess"),
    "part missing": lambda path: changed(path, ranges_data=None),
    "not finite": lambda path: changed(path, ranges_data=NAN),
    "objects": lambda path: changed(path, ranges_data=np.array([{}], object)),
    "integers": lambda path: changed(path, ranges_data=np.zeros((5, 2), np.int64)),
    "too few rows": lambda path: changed(path, ranges_data=np.zeros((4, 2))),
    "too few columns": lambda path: changed(path, ranges_data=np.zeros((5, 1))),
    "upside down": lambda path: changed(path, ranges_data=np.arange(10.0)[::-1].reshape(5, 2)),
    "repeated names": lambda path: changed(path, ranges_names=["a", "a"]),
    "names of another kind": lambda path: changed(path, ranges_names=[1, 2]),
    "names in a table": lambda path: changed(path, ranges_names=[["a"], ["b"]]),
    "a name": lambda path: changed(path, ranges_names="a"),
    "negative size": lambda path: changed(path, ranges_sizes=[3, -1]),
    "large tensor": lambda path: changed(path, ranges_sizes=[2, 0]),
    "no samples": lambda path: changed(path, ranges_samples=[0, 1]),
    "sizes overflow": lambda path: changed(path, channels_sizes=[2**62], channels_names=["a"]),
}


@pytest.mark.parametrize("damage", WRONG)
def test_a_file_that_is_no_calibration_is_refused_by_name(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    WRONG[damage](path)
    with pytest.raises(DataError, match=r"c\.npz"):
        Calibration.load(path)
