"""External data: weights in files beside the model."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import onnx

from .errors import ModelError
from .tensor import Tensor
from .tensor_io import describe, stored_bytes, stored_size, tensor_to_proto

_PAGE = 4096
"""Tensors from this size on go to the data file, each at a multiple of it, so that readers can
map them (as the ONNX standard recommends)."""


@dataclass
class ExternalFiles:
    """The data files beside a model; each is mapped once, on first mention.

    Attributes:
        folder: the model's folder, None when the model did not come from a file.
    """

    folder: Path | None
    _maps: dict[str, memoryview] = field(default_factory=dict)

    def read(self, proto: onnx.TensorProto) -> memoryview:
        """The bytes of a tensor with external data; `ModelError` when the reference is bad."""
        entries = {entry.key: entry.value for entry in proto.external_data}
        location = entries.get("location", "")
        if location not in self._maps:
            self._maps[location] = self._map(proto.name, location)
        data = self._maps[location]
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
        if offset < 0 or offset + length > len(data):
            raise ModelError(
                f"tensor '{proto.name}': bytes {offset} to {offset + length} are beyond the "
                f"{len(data)} bytes of '{location}'; the data file is truncated or another model's"
            )
        return data[offset : offset + length]

    def _map(self, tensor: str, location: str) -> memoryview:
        if self.folder is None:
            raise ModelError(
                f"tensor '{tensor}' lies in the data file '{location}': load the model by its "
                "path, or load the data into the ModelProto first"
            )
        folder = Path(os.path.realpath(self.folder))
        path = Path(os.path.realpath(folder / location))
        if not location or Path(location).is_absolute() or not path.is_relative_to(folder):
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


def map_file(path: Path) -> memoryview:
    """The bytes of a file, read when looked at; they stay when the file is replaced."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:  # nothing to map is an error to mmap
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
