"""The models of the benchmark: trained ones with a score, the others for speed and placement."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from . import noise
from .architectures import ARCHITECTURES

Feeds = dict[str, NDArray[Any]]

SYNTHETIC_SAMPLES = {"resnet50": 300}  # its quantization is timed
FEW_SAMPLES = 4
ELEMENT_TYPES = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.INT64: np.int64}


@dataclass(frozen=True)
class Case:
    """One FP32 model, its samples on disk and, when it is trained, the way to score it."""

    name: str
    kind: str  # trained, topology, architecture or light
    model: Path
    folder: Path  # what is made for this model, kept between runs
    entry: Any = None  # the model zoo's entry of a trained model
    session: Any = None  # the model zoo's way to run a file

    @property
    def calibration(self) -> Path:
        """Folder with one ``.npz`` per sample, keyed by input name."""
        return self.folder / "calib"

    def sample(self) -> Feeds:
        """Load the first calibration sample."""
        return load(min(self.calibration.glob("*.npz")))


def load(file: Path) -> Feeds:
    """Read one sample."""
    with np.load(file) as arrays:
        return dict(arrays)


def find_cases(zoo: Path | None, cache: Path, pattern: str) -> Iterator[Case]:
    """Prepare, one by one, the models whose ``kind/name`` matches a regular expression.

    Args:
        zoo: Folder with ``zoo.py``, ``materialize.py``, ``trained`` and ``topologies``; without
            it, only the ``light`` models of the onnx package are there.
        cache: Folder for weights and samples that are made here.
        pattern: Searched for in ``trained/NAME``, ``topology/NAME`` and ``light/NAME``.
    """
    wanted, cache = re.compile(pattern), cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    if zoo is not None:
        models = import_file(zoo / "zoo.py")
        for name, entry in models.ZOO.items():
            if wanted.search(f"trained/{name}"):
                yield trained(name, entry, models.session, cache)
        fill = import_file(zoo / "materialize.py").fill
        for file in sorted((zoo / "topologies").glob("*.onnx")):
            if wanted.search(f"topology/{file.stem}"):
                yield synthetic("topology", file.stem, partial(_filled, file, fill), cache)
    for file in sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx")):
        name = file.stem.removeprefix("light_")
        if wanted.search(f"light/{name}"):
            yield synthetic("light", name, partial(_filled, file, noise.fill), cache)


def find_architectures(cache: Path, pattern: str) -> Iterator[Case]:
    """The same of what `architectures` builds, called ``architecture/NAME``."""
    for name, build in ARCHITECTURES.items():
        if re.search(pattern, f"architecture/{name}"):
            yield synthetic("architecture", name, build, cache.resolve())


def _filled(file: Path, fill: Any) -> onnx.ModelProto:
    model: onnx.ModelProto = fill(onnx.load(file))
    return model


def import_file(file: Path) -> ModuleType:
    """Import a Python file that belongs to no package."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{file.stem}", file)
    if spec is None or spec.loader is None or not file.exists():
        raise FileNotFoundError(f"{file} is not there; --zoo names a folder that holds it")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def trained(name: str, entry: Any, session: Any, cache: Path) -> Case:
    """A model of the zoo with its calibration samples."""
    case = Case(name, "trained", entry.path, cache / name, entry, session)
    if not case.calibration.exists():
        store(case.calibration, entry.calibration())
    return case


def synthetic(kind: str, name: str, build: Callable[[], onnx.ModelProto], cache: Path) -> Case:
    """An architecture with weights and samples of noise."""
    folder = cache / f"{kind}-{name}"
    case = Case(name, kind, folder / "fp32.onnx", folder)
    if not case.model.exists():
        folder.mkdir(parents=True, exist_ok=True)
        begun = folder / "partial.onnx"
        onnx.save(build(), begun)
        begun.rename(case.model)
    if not case.calibration.exists():
        inputs = onnx.load(case.model, load_external_data=False).graph.input
        count = SYNTHETIC_SAMPLES.get(name, FEW_SAMPLES) if kind == "topology" else FEW_SAMPLES
        store(case.calibration, (noise_feeds(inputs, index) for index in range(count)))
    return case


def noise_feeds(inputs: Any, index: int) -> Feeds:
    """Normal noise for every graph input; a dimension without a number is 1."""
    random = np.random.default_rng(index)
    feeds: Feeds = {}
    for value in inputs:
        tensor = value.type.tensor_type
        shape = [dim.dim_value or 1 for dim in tensor.shape.dim]
        feeds[value.name] = random.standard_normal(shape).astype(ELEMENT_TYPES[tensor.elem_type])
    return feeds


def store(folder: Path, samples: Any) -> None:
    """Write samples as ``0000.npz``, ``0001.npz``...; the folder appears when it is complete."""
    begun = folder.with_name("calib.partial")
    begun.mkdir(parents=True, exist_ok=True)
    for index, feeds in enumerate(samples):
        np.savez(begun / f"{index:04}.npz", allow_pickle=False, **feeds)
    begun.rename(folder)
