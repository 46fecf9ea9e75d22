"""External data: weights in files beside the model."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import onnx

from .dtypes import DType
from .errors import ModelError
from .temporary import keeping
from .tensor import PUT_ASIDE, Tensor
from .tensor_io import (
    LARGE,
    Extent,
    ExternalSource,
    describe,
    stored_bytes,
    stored_size,
    tensor_to_proto,
)

_PAGE = 4096
"""Tensors from this size on go to the data file, each at a multiple of it, so that readers can
map them (as the ONNX standard recommends)."""
_SEGMENT = 1 << 30
"""Bytes of a file of tensors put aside."""


@dataclass
class ExternalFiles:
    """The data files beside a model; each is mapped once, on first mention.

    Attributes:
        folder: the model's folder, None when the model did not come from a file.
    """

    folder: Path | None
    _maps: dict[str, mmap.mmap | None] = field(default_factory=dict)

    def read(self, proto: onnx.TensorProto) -> Extent:
        """Where the bytes of a tensor are; `ModelError` when the reference to them is bad."""
        entries = {entry.key: entry.value for entry in proto.external_data}
        location = entries.get("location", "")
        if location not in self._maps:
            self._maps[location] = self._map(proto.name, location)
        data = self._maps[location]
        available = 0 if data is None else len(data)
        size = stored_size(proto)
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
        except ValueError:
            raise ModelError(
                f"tensor '{proto.name}': offset and length of external data must be integers"
            ) from None
        if length != size:
            raise ModelError(
                f"tensor '{proto.name}' needs {size} bytes, its external data has {length}"
            )
        if offset < 0 or offset + length > available:
            raise ModelError(
                f"tensor '{proto.name}': bytes {offset} to {offset + length} are beyond the "
                f"{available} bytes of '{location}'; the data file is truncated or another model's"
            )
        return Extent(data, offset, offset + length)

    def _map(self, tensor: str, location: str) -> mmap.mmap | None:
        if self.folder is None:
            raise ModelError(
                f"tensor '{tensor}' lies in the data file '{location}': load the model by its "
                "path, or load the data into the ModelProto first"
            )
        folder = Path(os.path.realpath(self.folder))
        path = folder if "\0" in location else Path(os.path.realpath(folder / location))
        is_inside = path != folder and path.is_relative_to(folder)
        if Path(location).is_absolute() or not is_inside:
            raise ModelError(
                f"tensor '{tensor}': data file '{location}' is not inside the model's folder; "
                "copy it there"
            )
        try:
            return map_file(path)
        except OSError as error:
            raise ModelError(
                f"tensor '{tensor}': cannot read data file '{path}': {error.strerror}"
            ) from None


@dataclass
class DataWriter:
    """Writes weights to a data file in the order they come.

    Attributes:
        file: where they go, at its end.
        location: name of the file that the model mentions.
    """

    file: BinaryIO
    location: str

    def store(self, tensor: Tensor, name: str | None) -> onnx.TensorProto:
        """The proto of a tensor; an initializer's data is in the file unless it is small."""
        if name is None or tensor.nbytes < _PAGE:
            return tensor_to_proto(tensor, name)
        self.file.write(bytes(-self.file.tell() % _PAGE))
        offset = self.file.tell()
        self.file.write(stored_bytes(tensor))
        proto = describe(tensor, name)
        proto.data_location = onnx.TensorProto.EXTERNAL
        where = {"location": self.location, "offset": offset, "length": tensor.nbytes}
        for key, value in where.items():
            proto.external_data.add(key=key, value=str(value))
        return proto


@contextmanager
def spilling() -> Iterator[None]:
    """Keep the elements of large tensors that are made meanwhile on disk, not in memory.

    They go to files without a name in the folder for temporary files (TMPDIR), which vanish when
    nobody holds a tensor in them.
    """
    before = PUT_ASIDE.set(_Spill().put)
    try:
        yield
    finally:
        PUT_ASIDE.reset(before)


class _Spill:
    """Files that tensors are appended to, each mapped once; sparse until they are filled."""

    def __init__(self) -> None:
        self.file: BinaryIO | None = None
        self.map: mmap.mmap | None = None

    def put(self, tensor: Tensor) -> ExternalSource | None:
        """Where the elements of a new tensor are now; None when it is not large."""
        if tensor.nbytes < LARGE or tensor.dtype is DType.STRING:
            return None
        with keeping("weights"):
            start = self.room(tensor.nbytes)
            assert self.file is not None
            self.file.write(stored_bytes(tensor))
            self.file.flush()
        return ExternalSource(describe(tensor), Extent(self.map, start, start + tensor.nbytes))

    def room(self, size: int) -> int:
        """Where in `file` there is room for `size` bytes, at its end or in a new one."""
        if self.file is not None and self.map is not None:
            start = self.file.seek(-self.file.tell() % _PAGE, os.SEEK_CUR)
            if start + size <= len(self.map):
                return start
            self.file.close()
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 (the next in line closes it)
        self.file.truncate(max(size, _SEGMENT))
        self.map = mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ)
        return 0


def map_file(path: Path) -> mmap.mmap | None:
    """A file, read when looked at; its bytes stay when it is replaced. None when it is empty."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would be to wait
        raise OSError(errno.EINVAL, "it is not a regular file")
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:  # nothing to map is an error to mmap
            return None
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
