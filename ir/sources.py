"""Where calibration samples come from: memory, files, stacked arrays, streams."""

from __future__ import annotations

import importlib
import itertools
import math
import shutil
import sys
import tempfile
import weakref
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import onnx

from . import memory
from .errors import DataError, UsageError
from .external import ExternalFiles
from .temporary import keeping
from .tensor import Array
from .tensor_io import tensor_from_proto

MAPPED = 1 << 20
"""Files beyond this many bytes are mapped rather than read."""


class Source(Protocol):
    """Raw samples by number: mappings, tuples of arrays by position, or single arrays."""

    def count(self) -> int:
        """How many samples there are."""
        ...

    def has(self, index: int) -> bool:
        """True when there is a sample `index`; unlike `count` it reads no stream to its end."""
        ...

    def read(self, index: int) -> Any:
        """Sample `index`, from disk where possible."""
        ...

    def label(self, index: int) -> str:
        """What messages call sample `index`."""
        ...

    def close(self) -> None:
        """Remove temporary files."""
        ...


class TemporaryFolder:
    """A folder that goes with the object, or at the latest with the process."""

    def __init__(self) -> None:
        """Make the folder."""
        self.path = Path(tempfile.mkdtemp(prefix="ptq_opt_samples_"))
        self.remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class Items:
    """Samples in a sequence."""

    def __init__(
        self, items: Sequence[Any], folder: TemporaryFolder | None = None, file: str = ""
    ) -> None:
        """Keep the sequence, whose items may be made on demand; `folder` goes with `close`.

        `file` is the name of what they were read from.
        """
        self.items, self.folder, self.file = items, folder, file

    def __getstate__(self) -> dict[str, Any]:
        """For another process: the folder stays this one's, to be removed by it."""
        return {**self.__dict__, "folder": None}

    def count(self) -> int:
        """Length of the sequence."""
        return len(self.items)

    def has(self, index: int) -> bool:
        """True within the sequence."""
        return index < len(self.items)

    def read(self, index: int) -> Any:
        """The item."""
        return self.items[index]

    def label(self, index: int) -> str:
        """Its number and, where there is one, its file."""
        return f"sample {index} ({self.file})" if self.file else f"sample {index}"

    def close(self) -> None:
        """Remove the files behind the items."""
        if self.folder is not None:
            self.folder.remove()


class Files(Items):
    """One sample per path: an .npz, an .npy, or a folder of input_K.pb (ONNX test data)."""

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which may have another current folder."""
        return {**super().__getstate__(), "items": [path.absolute() for path in self.items]}

    def read(self, index: int) -> Any:
        """The arrays of the file, by name or by position."""
        path: Path = self.items[index]
        return read_protos(path) if path.is_dir() else load_numpy(path)

    def label(self, index: int) -> str:
        """Number and file name."""
        return f"sample {index} ({self.items[index].name})"


class Rows(Items):
    """Samples stacked along the first axis of every array; the array named "" has no name."""

    def __init__(
        self, arrays: Mapping[str, Array], folder: TemporaryFolder | None = None, file: str = ""
    ) -> None:
        """Take arrays of equal length; see `Items`."""
        lengths = {len(array) for array in arrays.values()}
        if len(lengths) != 1:
            where = f" in '{file}'" if file else ""
            raise DataError(f"stacked samples{where} differ in number: {sorted(lengths)}")
        super().__init__(range(lengths.pop()), folder, file)
        self.arrays = arrays

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which maps the files that are mapped here."""
        arrays = {name: _place(array) for name, array in self.arrays.items()}
        return {**super().__getstate__(), "arrays": arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the files again."""
        self.__dict__.update(state)
        self.arrays = {
            name: load_numpy(array) if isinstance(array, Path) else array
            for name, array in self.arrays.items()
        }

    def read(self, index: int) -> Any:
        """Row `index` of each array."""
        row = {name: array[index] for name, array in self.arrays.items()}
        return row.get("", row)


class Spool:
    """Samples of a stream, kept in a temporary folder as they are read."""

    def __init__(self, stream: Iterator[Any], picks: Sequence[int] | None = None) -> None:
        """Read `stream`, or of it the items numbered in `picks`, each when first asked for."""
        self.stream = stream if picks is None else _picked(stream, picks)
        self.ended = False
        self.kept = 0
        self.folder = TemporaryFolder()

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process, which reads the files; all of the stream is in them then."""
        return Kept, (range(self.count()), self.folder.path)

    def count(self) -> int:
        """Number of samples; reads the stream to its end."""
        while not self.ended:
            self.has(self.kept)
        return self.kept

    def has(self, index: int) -> bool:
        """True when the stream is long enough; reads it that far."""
        while not self.ended and self.kept <= index:
            try:
                self._keep(next(self.stream))
            except StopIteration:
                self.ended = True
        return index < self.kept

    def read(self, index: int) -> Any:
        """The sample as the stream gave it."""
        return _kept(self.folder.path, index)

    def label(self, index: int) -> str:
        """Its number."""
        return f"sample {index}"

    def close(self) -> None:
        """Remove the temporary folder."""
        self.folder.remove()

    def _keep(self, raw: Any) -> None:
        names = list(raw) if isinstance(raw, Mapping) else []
        parts = raw.values() if isinstance(raw, Mapping) else by_position(raw)
        arrays = [np.asarray(part) for part in parts]
        for k, array in enumerate(arrays):
            if array.dtype.kind == "O" and not all(isinstance(x, str) for x in array.flat):
                what = f"'{names[k]}'" if names else f"part {k}"
                raise DataError(f"sample {self.kept}: {what} is not an array of numbers")
            arrays[k] = array.astype(np.str_) if array.dtype.kind == "O" else array
        path = _file(self.folder.path, self.kept)
        with keeping("samples"), path.open("wb") as file:
            np.savez(file, *arrays, names=np.array(names, dtype=np.str_))
        self.kept += 1


class Kept(Items):
    """The samples of a `Spool`, read from its folder by another process."""

    def __init__(self, numbers: Sequence[int], path: Path) -> None:
        """Read the samples with these numbers in the folder `path`."""
        super().__init__(numbers)
        self.path = path

    def read(self, index: int) -> Any:
        """The sample as the stream gave it."""
        return _kept(self.path, index)


def _file(folder: Path, index: int) -> Path:
    return folder / f"{index:06}.npz"


def _kept(folder: Path, index: int) -> Any:
    """A sample that a `Spool` wrote: arrays by name, or by position where it had no names."""
    loaded = load_numpy(_file(folder, index))
    arrays = [loaded[f"arr_{k}"] for k in range(len(loaded) - 1)]
    names = loaded["names"].tolist()
    return dict(zip(names, arrays, strict=True)) if names else tuple(arrays)


def _place(array: Array) -> Array | Path:
    """The file of an array that is mapped as a whole, else the array."""
    mapped = isinstance(array, np.memmap) and array.filename is not None
    return Path(array.filename).absolute() if mapped else array  # type: ignore[attr-defined]


def _picked(stream: Iterator[Any], picks: Sequence[int]) -> Iterator[Any]:
    """The items with the rising numbers `picks`; nothing is read beyond the last."""
    at, ended = 0, object()
    for number in picks:
        item = next(itertools.islice(stream, number - at, None), ended)
        if item is ended:
            return
        yield item
        at = number + 1


def by_position(raw: Any) -> Sequence[Any]:
    """A tuple or list is one array per input, anything else is a single array."""
    return raw if isinstance(raw, tuple | list) else (raw,)


def load_numpy(path: Path) -> Any:
    """The array of an .npy (mapped when large) or a dict of those of an .npz, never unpickled.

    Raises `DataError` when the file is damaged, holds Python objects, or declares more than it has
    or memory holds; that is found out before anything is allocated.
    """
    try:
        if path.suffix == ".npy":
            size = path.stat().st_size
            with path.open("rb") as file:
                _check_header(file, size, "it")
                file.seek(0)
                mapped = size > MAPPED
                return _checked(np.load(path if mapped else file, "r" if mapped else None))
        with zipfile.ZipFile(path) as archive:
            members = _members(archive)
            memory.check(sum(member.file_size for member in members.values()), "it")
            arrays = {}
            for name, member in members.items():
                with archive.open(member) as packed:
                    array = np.lib.format.read_array(packed, allow_pickle=False)
                    arrays[name] = _checked(array)
            return arrays
    except Exception as error:  # whatever a damaged file makes numpy, zipfile and zlib raise
        raise DataError(f"cannot read '{path}': {error or type(error).__name__}") from None


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The arrays of an .npz; ValueError unless each is as long as its header says."""
    members = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        with archive.open(member) as packed:
            _check_header(packed, member.file_size, f"'{name}'")
        members[name] = member
    return members


def _check_header(file: IO[bytes], size: int, what: str) -> None:
    """ValueError unless a file in numpy's format, `size` bytes long, holds all its elements."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):  # the others are for records
        raise ValueError(f"{what} is no plain array")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    needs = file.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError(f"{what} holds Python objects")
    if needs > size or min(shape, default=0) < 0:
        raise ValueError(f"{what} has {size:,} bytes, its header speaks of {needs:,}")


def _checked(array: Array) -> Array:
    """The array; ValueError when it is of texts with characters that do not exist."""
    if array.dtype.kind == "U" and array.dtype.itemsize:
        codes = np.array(array, array.dtype.newbyteorder("=")).reshape(-1).view(np.uint32)
        if (codes > sys.maxunicode).any():
            raise ValueError("a text in it is damaged")
    return array


def read_protos(folder: Path) -> Any:
    """The arrays of input_0.pb, input_1.pb ... (serialized `onnx.TensorProto`), a tuple."""
    files = ExternalFiles(folder)
    arrays: list[Array] = []
    for k in itertools.count():
        path = folder / f"input_{k}.pb"
        if not path.is_file():
            return tuple(arrays)
        try:
            proto = onnx.TensorProto.FromString(path.read_bytes())
            external = proto.data_location == onnx.TensorProto.EXTERNAL
            arrays.append(tensor_from_proto(proto, files.read(proto) if external else None).numpy())
        except Exception as error:  # ours, protobuf's, and numpy's
            raise DataError(f"cannot read the tensor in '{path}': {error}") from None
    raise AssertionError("unreachable")


def call(reference: str) -> Any:
    """What the function named by "module:function" returns."""
    return named(reference, "calibration data")()


def named(reference: str, what: str) -> Any:
    """The function named by "module:function"; modules of the current folder count.

    Raises `UsageError`, which says that it was to give `what`.
    """
    module_name, _, function = reference.partition(":")
    try:
        with importable():
            return getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"cannot get {what} from '{reference}': {error}; modules are looked for in the current "
            "folder and on PYTHONPATH"
        ) from None


@contextmanager
def importable() -> Iterator[None]:
    """Let modules of the current folder be imported."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")


def stream(data: Iterable[Any]) -> Iterator[Any]:
    """Samples of an iterable, or of an onnxruntime `CalibrationDataReader` from its beginning."""
    get_next = getattr(data, "get_next", None)
    if get_next is None:
        yield from data
        return
    rewind = getattr(data, "rewind", None)
    if rewind is not None:
        rewind()
    while (feeds := get_next()) is not None:
        yield feeds


def unpack(path: Path) -> tuple[dict[str, Array], TemporaryFolder]:
    """The arrays of an .npz as mapped files, to be read row by row, and the files' folder."""
    folder = TemporaryFolder()
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive)
            needed = sum(member.file_size for member in members.values())
            if needed > (free := shutil.disk_usage(folder.path).free):
                raise OSError(f"unpacked it has {needed:,} bytes, {folder.path} has {free:,} left")
            for k, (name, member) in enumerate(members.items()):
                file = folder.path / f"{k}.npy"
                with archive.open(member) as packed, file.open("wb") as out:
                    shutil.copyfileobj(packed, out)
                arrays[name] = load_numpy(file)
    except Exception as error:  # see load_numpy
        folder.remove()
        raise DataError(f"cannot read '{path}': {error}") from None
    return arrays, folder
