"""What an engine or chip can do in integers; the data is in `targets/*.toml`.

Third parties add targets through the entry points `ptq_opt.targets`, each naming a function that
returns the path of such a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from .dtypes import DType
from .engines import PACKAGES
from .errors import UsageError
from .grid_rule import ACTIVATIONS, WEIGHTS, GridRule, activation_rule, layer_rule, weight_rule
from .spelling import nearest
from .timings import Timings
from .toml_file import read_toml

FOLDER = Path(__file__).parent / "targets"
GROUP = "ptq_opt.targets"
DEFAULT = "ort-cpu"
NO_TIMINGS = Timings()

USUAL_ACTIVATIONS = GridRule(DType.UINT8)
USUAL_WEIGHTS = GridRule(DType.INT8, symmetric=True, per_channel=True)

Kind = Literal["compute", "light", "agnostic"]


@dataclass(frozen=True)
class Costs:
    """Rough speed of the engine, nanoseconds per element unless said otherwise.

    Attributes:
        gops: giga-operations per second of Conv, Gemm and MatMul, in float and in integers.
        volume_gops: the same of convolutions over three dimensions.
        volume_gather: an integer convolution over three dimensions copies its patches.
        light: any other operator.
        operators: operator -> (float, integer), where they differ from `light`; a key like
            "MaxPool3D" is about windows over three dimensions.
        weights: reading one weight, in float and in integers.
        quantize, dequantize: the conversions.
    """

    gops: tuple[float, float] = (100.0, 300.0)
    volume_gops: tuple[float, float] = (100.0, 300.0)
    volume_gather: float = 0.0
    light: float = 0.25
    operators: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    quantize: float = 0.25
    dequantize: float = 0.16
    weights: tuple[float, float] = (0.2, 0.05)


@dataclass(frozen=True)
class Target:
    """An engine or chip.

    Attributes:
        name, summary: for people.
        opset: lowest version of the standard operators the quantized file uses.
        activations, weights: their grids, None where they stay in float.
        layers: (pattern, rule) of layers that store their weights otherwise; the first that selects
            a layer counts, see `passes/select.py`.
        bias: integer type of biases, None where they stay float.
        compute: operators that integers make faster, with constant weights (MatMul also without).
        light: operators that run in integers where that saves conversions.
        agnostic: operators that move data only: one grid for input and output.
        same_scale: operators whose inputs and output must share one grid.
        float_output: operators with integer inputs that may return float.
        fused: producer -> operators that melt into its integer kernel when it alone feeds them.
        requantize: rounding of the int32 sum to the output grid, see docs/kernels.md.
        saturating_pairs: products of neighbouring weights are summed in saturating int16 (x86
            before VNNI), so weights that can overflow it lose a bit.
        rounds_float_weights: the engine makes int8 of the weights of a float product between
            quantized tensors, unless it is kept from that.
        quantizes_early: where a data mover's only reader is quantized, so is its operand.
        joins_sums: the engine makes one float operator of a MatMul and its bias before it looks for
            products of stored tensors, unless it is kept from that.
        costs: see `Costs`.
        engine: what runs its files on this machine: a key of `engines.PACKAGES`, or nothing.
        timings: times that were measured; they have precedence over `costs`.
    """

    name: str
    summary: str = ""
    opset: int = 13
    activations: GridRule | None = USUAL_ACTIVATIONS
    weights: GridRule | None = USUAL_WEIGHTS
    layers: tuple[tuple[str, GridRule], ...] = ()
    bias: DType | None = DType.INT32
    compute: frozenset[str] = frozenset({"Conv", "Gemm", "MatMul"})
    light: frozenset[str] = frozenset()
    agnostic: frozenset[str] = frozenset()
    same_scale: frozenset[str] = frozenset()
    float_output: frozenset[str] = frozenset()
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    requantize: Literal["float", "fixed", "gemmlowp"] = "float"
    saturating_pairs: bool = False
    rounds_float_weights: bool = False
    quantizes_early: bool = False
    joins_sums: bool = False
    costs: Costs = Costs()
    engine: str = ""
    timings: Timings = NO_TIMINGS

    def __post_init__(self) -> None:
        """Refuse what ONNX Runtime does not load, which has to run every result once."""
        if self.activations is None or self.activations.dtype.bits != 8:
            return
        cure = "give activations 16 bits, or none"
        for weights in (self.weights, *(rule for _, rule in self.layers)):
            if weights is not None and weights.dtype.bits == 2:
                raise UsageError(f"weights of 2 bits do not go with activations of 8: {cure}")
            if weights is not None and weights.dtype.bits == 8 and weights.block:
                raise UsageError(f"blocks of 8-bit weights do not go with activations of 8: {cure}")

    def storing(
        self,
        weights: str | None = None,
        activations: str | None = None,
        layers: Sequence[str] = (),
    ) -> Target:
        """The target with other grids, spelled as in `grid_rule`; None keeps what it has.

        Args:
            weights: type with options.
            activations: likewise.
            layers: `PATTERN=TYPE:OPTIONS`, how the layers selected store their weights instead.
                What is not said is as for other weights, but 8 bits have no blocks.

        Raises:
            UsageError: one of them spells no grid, or they do not go together.
        """
        new_weights, new_activations = self.weights, self.activations
        if weights is not None:
            new_weights = weight_rule(weights, self.weights)
        if activations is not None:
            new_activations = activation_rule(activations, self.activations)
        found = tuple(layer_rule(text, self.weights, new_weights) for text in layers)
        return replace(
            self, weights=new_weights, activations=new_activations, layers=(*found, *self.layers)
        )

    def per_tensor(self) -> Target:
        """The target with one scale per tensor of weights."""
        rule = self.weights and replace(self.weights, per_channel=False)
        layers = tuple((name, replace(each, per_channel=False)) for name, each in self.layers)
        return replace(self, weights=rule, layers=layers)

    @property
    def scales_per_channel(self) -> bool:
        """True unless the weights of one output channel are rounded by another's scale."""
        rule = self.weights
        return rule is None or rule.per_channel or rule.block > 0

    def kind(self, op: str) -> Kind | None:
        """The class of a standard operator, None when it stays float."""
        if op in self.compute:
            return "compute"
        if op in self.light:
            return "light"
        return "agnostic" if op in self.agnostic else None


def names() -> list[str]:
    """Targets that can be named: our own, then third parties'."""
    ours = sorted(path.stem for path in FOLDER.glob("*.toml"))
    return [*ours, *sorted(e.name for e in entry_points(group=GROUP) if e.name not in ours)]


def find_target(name: str | PathLike[str] | Target = DEFAULT) -> Target:
    """The target called `name`, or described by the TOML file at that path.

    Raises:
        UsageError: there is none (the message has the nearest name), two packages register it,
            or the file is malformed (the message has the key).
    """
    if isinstance(name, Target):
        return name
    text = str(name)
    if text.endswith(".toml"):
        return read_target(Path(text))
    ours = FOLDER / f"{text}.toml"
    others = list(entry_points(group=GROUP, name=text))
    owners = ["ptq-opt"] * ours.is_file() + [e.dist.name if e.dist else e.value for e in others]
    if len(owners) > 1:
        raise UsageError(f"target '{text}' is registered by {' and by '.join(owners)}")
    if not owners:
        raise UsageError(f"there is no target '{text}'{nearest(text, names())}")
    return read_target(ours if not others else Path(others[0].load()()))


def read_target(path: Path) -> Target:
    """Read a target file; `UsageError` names the key that is wrong.

    A file with `base = "name"` says only what differs from that target of ours.
    """
    reader = _Reader(path, _tables(path))
    operators = reader.section("operators")
    arithmetic = reader.section("arithmetic")
    target = Target(
        name=reader.take("name", str, path.stem),
        summary=reader.take("summary", str, ""),
        opset=reader.take("opset", int, 13),
        activations=_activations(reader.section("activations")),
        weights=_weights(reader.section("weights")),
        bias=_dtype(reader.section("bias"), DType.INT32),
        compute=operators.names("compute"),
        light=operators.names("light"),
        agnostic=operators.names("agnostic"),
        same_scale=operators.names("same-scale"),
        float_output=operators.names("float-output"),
        fused={k: tuple(v) for k, v in reader.section("fused").rest(list).items()},
        requantize=arithmetic.take("requantize", str, "float", ("float", "fixed", "gemmlowp")),
        saturating_pairs=arithmetic.take("saturating-pairs", bool, False),
        rounds_float_weights=arithmetic.take("rounds-float-weights", bool, False),
        quantizes_early=arithmetic.take("quantizes-early", bool, False),
        joins_sums=arithmetic.take("joins-sums", bool, False),
        costs=_costs(reader.section("costs")),
        engine=reader.take("engine", str, "", ("", *PACKAGES)),
    )
    for part in (operators, arithmetic, reader):
        part.finish()
    return target


def _tables(path: Path) -> dict[str, Any]:
    """The file's keys over those of its base."""
    data = read_toml(path, "target file")
    base = data.pop("base", None)
    if base is None:
        return data
    ours = {file.stem: file for file in FOLDER.glob("*.toml")}
    parent = ours.get(base) if isinstance(base, str) else None
    if parent is None or parent == path:
        raise UsageError(f"target file {path}: 'base' must be a target of ours, not {base!r}")
    tables = _tables(parent)
    for key, value in data.items():
        both = isinstance(value, dict) and isinstance(tables.get(key), dict)
        tables[key] = {**tables[key], **value} if both else value
    return tables


class _Reader:
    """Takes typed keys out of a TOML table; what is left over at the end is an error."""

    def __init__(self, path: Path, data: dict[str, Any], where: str = "") -> None:
        self.path, self.data, self.where = path, dict(data), where

    def error(self, key: str, message: str) -> UsageError:
        return UsageError(f"target file {self.path}: '{self.where}{key}' {message}")

    def take(self, key: str, kind: type, default: Any, allowed: tuple[str, ...] = ()) -> Any:
        value = self.data.pop(key, default)
        if kind is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, kind):
            raise self.error(key, f"must be of type {kind.__name__}, not {value!r}")
        if allowed and value not in allowed:
            raise self.error(key, f"must be one of {', '.join(allowed)}, not '{value}'")
        return value

    def section(self, key: str) -> _Reader:
        return _Reader(self.path, self.take(key, dict, {}), f"{self.where}{key}.")

    def names(self, key: str) -> frozenset[str]:
        return frozenset(self.take(key, list, []))

    def rest(self, kind: type) -> dict[str, Any]:
        found = {key: self.take(key, kind, None) for key in list(self.data)}
        self.finish()
        return found

    def finish(self) -> None:
        if self.data:
            raise self.error(next(iter(self.data)), "is not a key I know")


def _dtype(reader: _Reader, default: DType, allowed: tuple[DType, ...] = ()) -> DType | None:
    """The integer type under `dtype`; None for "float"."""
    name = reader.take("dtype", str, default.name.lower())
    reader.finish()
    if name == "float":
        return None
    try:
        dtype = DType[name.upper()]
    except KeyError:
        raise reader.error("dtype", f"'{name}' is no element type") from None
    if not dtype.is_integer:
        raise reader.error("dtype", f"'{name}' is no integer type")
    if allowed and dtype not in allowed:
        names = ", ".join(one.name.lower() for one in allowed)
        raise reader.error("dtype", f"must be float or one of {names}, not '{name}'")
    return dtype


def _activations(reader: _Reader) -> GridRule | None:
    symmetric = reader.take("symmetric", bool, False)
    dtype = _dtype(reader, DType.UINT8, ACTIVATIONS)
    return None if dtype is None else GridRule(dtype, symmetric)


def _weights(reader: _Reader) -> GridRule | None:
    symmetric = reader.take("symmetric", bool, True)
    per_channel = reader.take("per-channel", bool, False)
    block = reader.take("block", int, 0)
    if block < 0:
        raise reader.error("block", f"must not be negative, it is {block}")
    dtype = _dtype(reader, DType.INT8, WEIGHTS)
    return None if dtype is None else GridRule(dtype, symmetric, per_channel, block)


def _costs(reader: _Reader) -> Costs:
    usual = Costs()
    table = reader.section("operators")
    operators = {key: _two(table, key) for key in list(table.data)}
    gops = _pair(reader, "gops", usual.gops)
    costs = Costs(
        gops=gops,
        volume_gops=_pair(reader, "volume-gops", gops),
        volume_gather=reader.take("volume-gather", float, usual.volume_gather),
        light=reader.take("light", float, usual.light),
        operators=operators,
        quantize=reader.take("quantize", float, usual.quantize),
        dequantize=reader.take("dequantize", float, usual.dequantize),
        weights=_pair(reader, "weights", usual.weights),
    )
    reader.finish()
    return costs


def _pair(reader: _Reader, key: str, usual: tuple[float, float]) -> tuple[float, float]:
    """A table of one number for float and one for integers."""
    part = reader.section(key)
    pair = part.take("float", float, usual[0]), part.take("integer", float, usual[1])
    part.finish()
    return pair


def _two(reader: _Reader, key: str) -> tuple[float, float]:
    """A list of one number for float and one for integers."""
    values = reader.take(key, list, [])
    if len(values) != 2 or not all(isinstance(v, (int, float)) for v in values):
        raise reader.error(key, f"must be two numbers, not {values!r}")
    return float(values[0]), float(values[1])
