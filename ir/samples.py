"""Calibration data: feeds of a model, checked, one in memory at a time, readable again and again.

Whatever the data come from, `open_samples` makes `Samples` of them. What can be read only once (a
generator, a data loader, an onnxruntime `CalibrationDataReader`) is written to a temporary folder
as it is read, so that every later pass sees the very same samples.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .dtypes import DType
from .errors import DataError, UsageError
from .sources import (
    Files,
    Items,
    Rows,
    Source,
    Spool,
    TemporaryFolder,
    by_position,
    call,
    load_numpy,
    stream,
    unpack,
)
from .spelling import near
from .tensor import Array
from .value import Shape, Value

Feeds = dict[str, Array]
log = logging.getLogger("ptq_opt")


class Samples:
    """Feeds (input name -> array) that fit a model's inputs; iterate as often as needed.

    Each sample is checked when it is read: every input there, shape, element type (other widths
    of the same kind are converted), no NaN or infinity. Raises `DataError` naming input and sample.
    """

    def __init__(
        self, source: Source, inputs: Sequence[Value], picks: Sequence[int] | None = None
    ) -> None:
        """Read `source`: all of it, or only the samples numbered in `picks`."""
        self.source = source
        self.inputs = list(inputs)
        self._picks = picks
        self._reported: set[str] = set()
        self._identities: dict[int, str] = {}

    def __len__(self) -> int:
        """Number of samples; a source that can be read only once is read to its end for this."""
        return self.source.count() if self._picks is None else len(self._picks)

    def __iter__(self) -> Iterator[Feeds]:
        """The samples in order."""
        numbers = itertools.count() if self._picks is None else iter(self._picks)
        empty = True
        for index in numbers:
            if not self.source.has(index):
                break
            empty = False
            yield self._feeds(index)
        if empty:
            raise DataError("there are no calibration samples")

    def __getitem__(self, index: int) -> Feeds:
        """Sample `index` of these."""
        return self._feeds(index if self._picks is None else self._picks[index])

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which reads the samples where they are."""
        return {**self.__dict__, "inputs": detached(self.inputs)}

    def identity(self) -> list[str]:
        """A digest of each sample as the model gets it, in order."""
        return [self._identity(number) for number in self._numbers()]

    def _identity(self, number: int) -> str:
        if number not in self._identities:
            found = hashlib.sha256()
            for name, array in self._feeds(number).items():
                found.update(f"{name} {array.dtype} {array.shape} ".encode())
                found.update(stored(array))
            self._identities[number] = found.hexdigest()
        return self._identities[number]

    def head(self, n: int) -> Samples:
        """The first `n` samples."""
        if self._picks is not None:
            return self._view(self._picks[:n])
        return self._view(list(itertools.takewhile(self.source.has, range(n))))

    def spread(self, n: int) -> Samples:
        """`n` of the samples (all if fewer), evenly spread."""
        numbers = self._numbers()
        if n >= len(numbers):
            return self
        return self._view([numbers[k] for k in _spread(len(numbers), n)])

    def split(self, holdout: int) -> tuple[Samples, Samples]:
        """Samples to learn from and samples to judge by: every `holdout`-th is held back.

        Of fewer than `holdout` samples the last is held back; a single one serves for both.
        """
        numbers = list(self._numbers())
        if len(numbers) < 2:
            return self, self
        held = set(numbers[holdout - 1 :: holdout] or numbers[-1:])
        return self._view([i for i in numbers if i not in held]), self._view(sorted(held))

    def close(self) -> None:
        """Remove temporary files; the samples cannot be read any more."""
        self.source.close()

    def __enter__(self) -> Samples:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _numbers(self) -> Sequence[int]:
        return range(self.source.count()) if self._picks is None else self._picks

    def _view(self, picks: Sequence[int]) -> Samples:
        view = Samples(self.source, self.inputs, picks)
        view._reported, view._identities = self._reported, self._identities
        return view

    # -- checking ----------------------------------------------------------------------------------

    def _feeds(self, index: int) -> Feeds:
        where = self.source.label(index)
        named = self._by_name(self.source.read(index), where)
        feeds: Feeds = {}
        for value in self.inputs:
            if value.name in named:
                given = named[value.name]  # as it is for a sequence, which has no element type
                feeds[value.name] = given if value.dtype is None else _fit(given, value, where)
            elif value.const is None:
                there = ", ".join(f"'{key}'" for key in named) or "nothing"
                raise DataError(f"{where} has no input '{value.name}': it holds {there}")
        for key in sorted(named.keys() - feeds.keys() - self._reported):
            self._reported.add(key)
            log.warning("%s: '%s' is no input of the model and is ignored", where, key)
        return feeds

    def _by_name(self, raw: Any, where: str) -> Mapping[str, Any]:
        if isinstance(raw, Mapping):
            return raw
        names = [value.name for value in self.inputs if value.const is None]
        parts = by_position(raw)
        if len(parts) != len(names):
            wanted = ", ".join(f"'{name}'" for name in names)
            raise DataError(
                f"{where} is {len(parts)} array(s) without names, the model takes {len(names)} "
                f"({wanted}): give a dict of input name to array"
            )
        return dict(zip(names, parts, strict=True))


def stored(array: Array) -> bytes | memoryview:
    """The elements of an array as bytes."""
    if array.dtype.kind == "O":
        return repr(array.tolist()).encode()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def detached(inputs: Sequence[Value]) -> list[Value]:
    """Copies of values that know no operator: name, type, shape and default."""
    copies = [Value(v.name, v.dtype, v.shape, v.const) for v in inputs]
    for copy, value in zip(copies, inputs, strict=True):
        copy.shape = value.shape
    return copies


def _fit(raw: Any, value: Value, where: str) -> Array:
    """`raw` as the array that input `value` takes; `DataError` when it cannot be."""
    try:
        array = np.asarray(raw)
    except ValueError as error:
        raise DataError(f"{where}: input '{value.name}' is not an array: {error}") from None
    assert value.dtype is not None
    array = _with_dtype(array, value.dtype, f"{where}: input '{value.name}'")
    shape = value.shape
    if shape is None:
        return array
    if array.ndim == len(shape) - 1 and (shape[0] == 1 or not isinstance(shape[0], int)):
        array = array[np.newaxis]  # a sample without the batch axis
    fits = array.ndim == len(shape) and all(
        want == have for want, have in zip(shape, array.shape, strict=True) if isinstance(want, int)
    )
    if not fits:
        wanted = ", ".join("?" if d is None else str(d) for d in shape)
        raise DataError(
            f"{where}: input '{value.name}' has shape {list(array.shape)}, "
            f"the model takes [{wanted}]"
        )
    return array


def _with_dtype(array: Array, dtype: DType, what: str) -> Array:
    """`array` as `dtype` when it is of the same kind and the values fit."""
    target = dtype.numpy
    if array.dtype.kind == "V" and array.dtype.itemsize == target.itemsize and target.kind == "V":
        array = array.view(target)  # numpy's files know the types of ml_dtypes by size only
    try:
        source = DType.of(array.astype(array.dtype.newbyteorder("="), copy=False))
    except KeyError:
        raise DataError(f"{what} has numpy type {array.dtype}, which ONNX does not know") from None
    if source.is_float and dtype.is_float:
        with np.errstate(over="ignore"):
            array = array.astype(target, copy=False)
        if not np.isfinite(array).all():
            raise DataError(f"{what} holds NaN or infinity: leave the sample out or repair it")
        return array
    if source.is_integer and dtype.is_integer:
        low, high = dtype.integer_range
        if array.size and (int(array.min()) < low or int(array.max()) > high):
            raise DataError(f"{what} holds integers beyond {dtype.name.lower()} ({low}..{high})")
    elif source is not dtype:
        have, want = source.name.lower(), dtype.name.lower()
        raise DataError(f"{what} is {have}, the model takes {want}: convert it as in training")
    return array.astype(target, copy=False)


# -- opening ---------------------------------------------------------------------------------------


def open_samples(data: Any, inputs: Sequence[Value], limit: int | None = None) -> Samples:
    """Calibration samples from data of any usual form.

    Args:
        data: an onnxruntime `CalibrationDataReader`; an iterable of dicts (input name -> array), of
            arrays (for a model with one input) or of tuples (one array per input); one array or
            one dict of arrays; the path of an .npz, of an .npy, of a folder of those (one sample
            per file, in order of their names) or of `test_data_set_*` folders (input_K.pb); or
            "module:function", a function that returns any of these.
        inputs: the model's inputs. In a single file or array an axis beyond theirs counts
            samples; so does the first axis where the model leaves it open or says 1.
        limit: use at most so many samples, evenly spread over the data; of a stream that does not
            tell its length the first.

    Raises:
        DataError: nothing to read there, or damaged.
        UsageError: not a form of data that is known.
    """
    if isinstance(data, Samples):
        return data if limit is None else data.spread(limit)
    source = _source(data, inputs, limit)
    samples = Samples(source, inputs)
    return samples if limit is None or isinstance(source, Spool) else samples.spread(limit)


def _spread(count: int, n: int) -> list[int]:
    """`n` of the numbers below `count`, evenly spread."""
    return [k * count // n for k in range(n)]


def random_samples(inputs: Sequence[Value], n: int, seed: int = 0) -> Samples:
    """`n` made-up samples: normal reals, integers 0 and 1; open dimensions are 1.

    Ranges learned from these say little about real data: who uses them has to say so.
    """
    return Samples(Items(_Random(inputs, n, seed)), inputs)


class _Random(Sequence[Feeds]):
    """Made-up feeds, each a function of the seed and its number."""

    def __init__(self, inputs: Sequence[Value], n: int, seed: int) -> None:
        self.inputs = detached([v for v in inputs if v.const is None and v.dtype is not None])
        self.n, self.seed = n, seed

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Any) -> Any:
        rng = np.random.default_rng([self.seed, index])
        feeds = {}
        for value in self.inputs:
            assert value.dtype is not None
            shape = [d if isinstance(d, int) else 1 for d in value.shape or ()]
            real = rng.standard_normal(shape) if value.dtype.is_float else rng.integers(0, 2, shape)
            feeds[value.name] = np.asarray(real).astype(value.dtype.numpy)
        return feeds


def _source(data: Any, inputs: Sequence[Value], limit: int | None) -> Source:
    if isinstance(data, str) and not Path(data).exists() and re.fullmatch(r"[\w.]+:\w+", data):
        data = call(data)
    if isinstance(data, str | Path):
        return _open_path(Path(data), inputs)
    if isinstance(data, np.ndarray | Mapping):
        arrays = data if isinstance(data, Mapping) else {"": data}
        return _whole({name: np.asarray(array) for name, array in arrays.items()}, inputs)
    if isinstance(data, Sequence) and not isinstance(data, bytes):
        return Items(data)
    if hasattr(data, "get_next") or hasattr(data, "__iter__"):
        count = _length_hint(data)
        if limit is None:
            return Spool(stream(data))
        return Spool(stream(data), _spread(count, limit) if count > limit else range(limit))
    raise UsageError(
        f"cannot read calibration data from a {type(data).__name__}: give a path, an iterable of "
        "dicts of arrays, or an onnxruntime CalibrationDataReader"
    )


def _length_hint(data: Any) -> int:
    """How many samples there are, 0 when that is not known."""
    try:
        return operator.length_hint(data)
    except NotImplementedError:  # what onnxruntime's CalibrationDataReader has for a length
        return 0


def _whole(
    arrays: Mapping[str, Array],
    inputs: Sequence[Value],
    folder: TemporaryFolder | None = None,
    file: str = "",
) -> Source:
    """The samples stacked in `arrays`, or the one sample they are.

    Stacked means for every input: an axis more than the model's, or a first axis longer than 1
    where the model leaves it open or says 1. A lone array is named "".
    """
    shapes = {"" if "" in arrays else v.name: v.shape for v in inputs if v.const is None}
    known = {name: shape for name, shape in shapes.items() if name in arrays and shape is not None}
    if known and all(_beyond(arrays[name].shape, shape) for name, shape in known.items()):
        count = len(arrays[min(known)])
        aligned = {k: a for k, a in arrays.items() if k in known or a.shape[:1] == (count,)}
        return Rows(aligned, folder, file)
    return Items([arrays.get("", arrays)], folder, file)


def _beyond(have: tuple[int, ...], want: Shape) -> bool:
    if len(have) != len(want) or not want:
        return len(have) == len(want) + 1
    return have[0] != 1 and (want[0] == 1 or not isinstance(want[0], int))


def _open_path(path: Path, inputs: Sequence[Value]) -> Source:
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise UsageError(f"there is no calibration data at '{path}'{near(path)}")
    if path.suffix == ".npy":
        return _whole({"": load_numpy(path)}, inputs, file=path.name)
    if path.suffix != ".npz":
        raise DataError(f"'{path}' is neither .npz, .npy nor a folder of them")
    arrays, folder = unpack(path)
    return _whole(arrays, inputs, folder, path.name)


def _open_folder(path: Path) -> Source:
    files = sorted(p for p in path.iterdir() if p.suffix in (".npz", ".npy"))
    sets = [path, *sorted(path.glob("test_data_set_*"))]
    found = files or [folder for folder in sets if (folder / "input_0.pb").is_file()]
    if not found:
        raise DataError(f"folder '{path}' has no .npz, no .npy and no test_data_set_* in it")
    return Files(found)
