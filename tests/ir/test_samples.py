"""Calibration data in every form, checked against the model's inputs."""

import logging
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader

from ptq_opt.ir import DataError, DType, Tensor, UsageError, Value, memory
from ptq_opt.ir.samples import Feeds, Samples, open_samples, random_samples

IMAGE = Value("image", DType.FLOAT, (1, 3, 2, 2))
FRAMES = Value("frames", DType.FLOAT, ("N", 4))
TOKENS = Value("tokens", DType.INT64, ("N", "length"))


def image(k: int) -> np.ndarray:
    return np.full((1, 3, 2, 2), k, np.float32)


def images(n: int) -> list[dict[str, np.ndarray]]:
    return [{"image": image(k)} for k in range(n)]


def marks(samples: Samples) -> list[float]:
    """The number that `image` wrote into each sample."""
    for feeds in samples:
        assert list(feeds) == ["image"]
        assert feeds["image"].shape == (1, 3, 2, 2) and feeds["image"].dtype == np.float32
    return [float(feeds["image"].flat[0]) for feeds in samples]


class Reader:
    """An onnxruntime CalibrationDataReader."""

    def __init__(self, n: int) -> None:
        self.feeds = iter(images(n))

    def get_next(self) -> Any:
        return next(self.feeds, None)


class DerivedReader(CalibrationDataReader):
    """As onnxruntime's users write theirs: the base class has a length that raises."""

    def __init__(self, n: int) -> None:
        self.feeds = iter(images(n))

    def get_next(self) -> Any:
        return next(self.feeds, None)


class RewindingReader(Reader):
    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.n = n

    def rewind(self) -> None:
        self.feeds = iter(images(self.n))


def npz_folder(path: Path) -> Path:
    for k in (2, 0, 1):
        np.savez(path / f"{k}.npz", image=image(k))
    return path


def npy_folder(path: Path) -> Path:
    for k in range(3):
        np.save(path / f"{k}.npy", image(k))
    return path


def onnx_test_data(path: Path) -> Path:
    for k in range(3):
        folder = path / f"test_data_set_{k}"
        folder.mkdir()
        tensor = onnx.numpy_helper.from_array(image(k))
        (folder / "input_0.pb").write_bytes(tensor.SerializeToString())
        (folder / "output_0.pb").write_bytes(tensor.SerializeToString())
    return path


def one_test_data_set(path: Path) -> Path:
    return onnx_test_data(path) / "test_data_set_0"


def stacked_npy(path: Path) -> Path:
    np.save(path / "all.npy", np.concatenate([image(k) for k in range(3)]))
    return path / "all.npy"


def stacked_npz(path: Path) -> Path:
    np.savez_compressed(path / "all.npz", image=np.stack([image(k) for k in range(3)]), top=3)
    return path / "all.npz"


def one_npz(path: Path) -> Path:
    np.savez(path / "one.npz", image=image(0))
    return path / "one.npz"


def large_npy(path: Path) -> Path:
    """Beyond the size from which files are mapped."""
    np.save(path / "all.npy", np.stack([image(k) for k in range(30000)]))
    return path / "all.npy"


MEMORY = {
    "dicts": lambda: images(3),
    "arrays": lambda: [image(k) for k in range(3)],
    "tuples": lambda: [(image(k),) for k in range(3)],
    "without batch axis": lambda: [image(k)[0] for k in range(3)],
    "generator of dicts": lambda: iter(images(3)),
    "generator of arrays": lambda: (image(k) for k in range(3)),
    "generator of tuples": lambda: ((image(k),) for k in range(3)),
    "reader": lambda: Reader(3),
    "rewinding reader": lambda: RewindingReader(3),
    "derived reader": lambda: DerivedReader(3),
    "stacked array": lambda: np.stack([image(k) for k in range(3)]),
    "array stacked along the batch": lambda: np.concatenate([image(k) for k in range(3)]),
    "dict of stacked arrays": lambda: {"image": np.stack([image(k) for k in range(3)])},
    "other byte order": lambda: [image(k).astype(">f4") for k in range(3)],
}
FILES = [npz_folder, npy_folder, onnx_test_data, stacked_npy, stacked_npz]


@pytest.mark.parametrize("form", MEMORY)
def test_data_in_memory(form: str) -> None:
    with open_samples(MEMORY[form](), [IMAGE]) as samples:
        assert marks(samples) == [0, 1, 2]
        assert len(samples) == 3


@pytest.mark.parametrize("write", FILES)
def test_data_in_files(write: Any, tmp_path: Path) -> None:
    for data in (path := write(tmp_path), str(path)):
        with open_samples(data, [IMAGE]) as samples:
            assert len(samples) == 3
            assert marks(samples) == [0, 1, 2]


@pytest.mark.parametrize("write", [one_npz, one_test_data_set])
def test_a_single_sample(write: Any, tmp_path: Path) -> None:
    assert marks(open_samples(write(tmp_path), [IMAGE])) == [0]


def test_a_large_file_is_mapped_not_read(tmp_path: Path) -> None:
    samples = open_samples(large_npy(tmp_path), [IMAGE], limit=3)
    assert marks(samples) == [0, 10000, 20000]
    base = next(iter(samples))["image"]
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def test_function_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data.py").write_text(
        "import numpy as np\n"
        "def samples():\n"
        "    yield from (np.full((1, 3, 2, 2), k, np.float32) for k in range(3))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_data", raising=False)
    path_before = list(sys.path)
    assert marks(open_samples("own_data:samples", [IMAGE])) == [0, 1, 2]
    assert sys.path == path_before
    with pytest.raises(UsageError, match="'own_data:nothing'"):
        open_samples("own_data:nothing", [IMAGE])


def test_samples_of_an_open_first_axis_are_rows_of_a_file_but_batches_of_a_folder(
    tmp_path: Path,
) -> None:
    frames = np.arange(20, dtype=np.float32).reshape(5, 4)
    np.savez(tmp_path / "f.npz", frames=frames)
    rows = list(open_samples(tmp_path / "f.npz", [FRAMES]))
    assert [feeds["frames"].shape for feeds in rows] == [(1, 4)] * 5
    np.testing.assert_array_equal(np.concatenate([f["frames"] for f in rows]), frames)
    (batch,) = open_samples(tmp_path, [FRAMES])
    np.testing.assert_array_equal(batch["frames"], frames)


def test_several_inputs_by_name_or_position() -> None:
    ids = np.array([[1, 2]])
    frames = np.ones((1, 4), np.float32)
    for sample in ({"tokens": ids, "frames": frames}, (frames, ids), [frames, ids]):
        for data in ([sample], iter([sample])):
            (feeds,) = open_samples(data, [FRAMES, TOKENS])
            np.testing.assert_array_equal(feeds["frames"], frames)
            np.testing.assert_array_equal(feeds["tokens"], ids)


def test_initializers_among_the_inputs_may_be_given_or_not() -> None:
    bias = Value("bias", const=Tensor(np.zeros(2, np.float32)))
    bias.overridable = True
    (without,) = open_samples([{"image": image(0)}], [IMAGE, bias])
    assert list(without) == ["image"]
    (given,) = open_samples([{"image": image(0), "bias": np.ones(2, np.float32)}], [IMAGE, bias])
    np.testing.assert_array_equal(given["bias"], 1)


# -- reading again and again -----------------------------------------------------------------------


def test_a_stream_is_read_once_and_kept_on_disk_as_it_is_read() -> None:
    read: list[int] = []

    def stream() -> Iterator[np.ndarray]:
        for k in range(4):
            read.append(k)
            yield image(k)

    samples = open_samples(stream(), [IMAGE])
    assert read == []
    first = iter(samples)
    next(first)
    next(first)
    assert read == [0, 1]
    assert marks(samples.head(3)) == [0, 1, 2] and read == [0, 1, 2]
    assert len(samples) == 4
    assert marks(samples) == [0, 1, 2, 3] == read
    samples.close()


def test_closing_removes_the_files_of_a_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_samples(iter(images(3)), [IMAGE]) as samples:
        assert len(samples) == 3
        assert list(tmp_path.iterdir()) != []
    assert list(tmp_path.iterdir()) == []


def test_a_limited_stream_is_not_read_beyond_the_limit() -> None:
    def endless() -> Iterator[np.ndarray]:
        k = 0
        while True:
            yield image(k)
            k += 1

    assert marks(open_samples(endless(), [IMAGE], limit=3)) == [0, 1, 2]


class Loader:
    """Can be read from the start only, but tells its length, as torch's DataLoader does."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[np.ndarray]:
        return (image(k) for k in range(self.n))


def test_a_limit_takes_samples_of_a_loader_evenly_spread() -> None:
    assert marks(open_samples(Loader(10), [IMAGE], limit=4)) == [0, 2, 5, 7]
    assert marks(open_samples(Loader(3), [IMAGE], limit=4)) == [0, 1, 2]
    assert marks(open_samples(Loader(3), [IMAGE])) == [0, 1, 2]


def test_errors_of_the_users_generator_come_through() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield image(0)
        raise IndexError("in the user's code")

    with pytest.raises(IndexError, match="in the user's code"):
        list(open_samples(broken(), [IMAGE]))


def test_a_limit_takes_samples_evenly_spread() -> None:
    samples = open_samples(images(10), [IMAGE], limit=4)
    assert len(samples) == 4
    assert marks(samples) == [0, 2, 5, 7]
    assert marks(open_samples(samples, [IMAGE], limit=2)) == [0, 5]
    assert marks(open_samples(images(3), [IMAGE], limit=4)) == [0, 1, 2]
    assert marks(open_samples(open_samples(iter(images(4)), [IMAGE]), [IMAGE], limit=2)) == [0, 2]


@pytest.mark.parametrize(("n", "held"), [(10, [4, 9]), (5, [4]), (3, [2]), (1, [0])])
def test_split_holds_back_every_nth_sample(n: int, held: list[int]) -> None:
    learn, judge = open_samples(images(n), [IMAGE]).split(5)
    assert marks(judge) == held
    assert marks(learn) == [k for k in range(n) if k not in held or n == 1]


# -- what does not fit -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"picture": image(0)}, "sample 0 has no input 'image': it holds 'picture'"),
        ({"image": image(0)[:, :2]}, r"shape \[1, 2, 2, 2\], the model takes \[1, 3, 2, 2\]"),
        ({"image": image(0)[0, 0]}, r"shape \[2, 2\]"),
        ({"image": image(0).astype(np.uint8)}, "is uint8, the model takes float"),
        ({"image": image(0).astype(bool)}, "is bool, the model takes float"),
        ({"image": image(0).astype("M8[s]")}, "numpy type datetime64"),
        ({"image": np.where(image(0) == 0, np.nan, 0)}, "sample 0: input 'image' holds NaN"),
        ({"image": image(0) + np.inf}, "infinity"),
        ({"image": image(0).astype(np.float64) + 1e300}, "infinity"),
        ({"image": [[1], [1, 2]]}, "sample 0: input 'image' is not an array"),
        ((image(0), image(0)), "2 array.* takes 1 "),
    ],
)
def test_a_sample_that_does_not_fit_is_named(sample: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(open_samples([sample], [IMAGE]))


@pytest.mark.parametrize("wide", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_reals_of_another_width_are_converted(wide: Any) -> None:
    assert marks(open_samples([image(1).astype(wide)], [IMAGE])) == [1]


def test_integers_of_another_width_are_converted_when_they_fit() -> None:
    byte = Value("byte", DType.UINT8, (2,))
    (feeds,) = open_samples([np.array([0, 255])], [byte])
    assert feeds["byte"].dtype == np.uint8
    with pytest.raises(DataError, match=r"'byte' holds integers beyond uint8 \(0..255\)"):
        list(open_samples([np.array([0, 256])], [byte]))


def test_text_passes_through_streams() -> None:
    words = Value("words", DType.STRING, (2,))
    for data in ([np.array(["a", "b"])], iter([np.array(["a", "b"], object)])):
        (feeds,) = open_samples(data, [words])
        assert feeds["words"].tolist() == ["a", "b"]


def test_bfloat16_passes_through_files() -> None:
    half = Value("half", DType.BFLOAT16, (2,))
    (feeds,) = open_samples(iter([np.array([1, 2], ml_dtypes.bfloat16)]), [half])
    assert feeds["half"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(feeds["half"].astype(np.float32), [1, 2])


def test_an_unknown_name_is_ignored_and_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    data = [{"image": image(k), "label": np.array(k)} for k in range(3)]
    with caplog.at_level(logging.WARNING, "ptq_opt"):
        samples = open_samples(data, [IMAGE])
        assert marks(samples) == [0, 1, 2] == marks(samples.head(3))
    assert [record.getMessage() for record in caplog.records] == [
        "sample 0: 'label' is no input of the model and is ignored"
    ]


@pytest.mark.parametrize("name", ["all.npy", "all.npz"])
def test_the_file_of_stacked_samples_is_named(name: str, tmp_path: Path) -> None:
    images = np.stack([image(0), image(1) * np.nan])
    if name == "all.npy":
        np.save(tmp_path / name, images)
    else:
        np.savez(tmp_path / name, image=images)
    with pytest.raises(DataError, match=rf"sample 1 \({name}\): input 'image' holds NaN"):
        list(open_samples(tmp_path / name, [IMAGE]))


def header(shape: str, kind: str = "<f4") -> bytes:
    """The beginning of an .npy."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize("form", ["npy", "npz", "folder"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header("(10000000000000,)") + b"\0" * 8, "its header speaks of 40,000,000,000,"),
        (header("(-1,)") + b"\0" * 8, "its header speaks of"),
        (header("(2,)", "|O") + b"\x80\x04K\x01.", "holds Python objects"),
        (b"\x93NUMPY\2\0\xff\xff\xff\xff", "is no plain array"),
        (b"\x93NUMPY\1\0\xff\xff", "EOF"),
        (header("(1,)", "<U1") + b"\0\0\xff\0", "a text in it is damaged"),
        (b"", "EOF"),
    ],
)
def test_what_a_header_declares_must_be_there(
    form: str, data: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / f"bad.{'npy' if form == 'npy' else 'npz'}"
    path.write_bytes(data)
    if form != "npy":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("image.npy", data)
    with pytest.raises(DataError, match=f"cannot read '.*bad.np.': .*{message}"):
        list(open_samples(tmp_path if form == "folder" else path, [IMAGE]))


def test_an_archive_that_grows_beyond_the_disk_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", image=np.zeros((300, 3, 10, 10), np.float32))
    assert (tmp_path / "bomb.npz").stat().st_size < 2000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    with pytest.raises(DataError, match=r"npz': unpacked it has 360,128 bytes, .* 100,000 left"):
        open_samples(tmp_path / "bomb.npz", [IMAGE])


def test_an_archive_that_grows_beyond_memory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", image=np.zeros((300, 3, 10, 10), np.float32))
    token = memory.LIMIT.set(100_000)
    try:
        with pytest.raises(DataError, match=r"it needs 360,128 bytes, more than the limit"):
            list(open_samples(tmp_path, [IMAGE]))
    finally:
        memory.LIMIT.reset(token)


def test_tensors_in_files_read_nothing_outside_their_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 4)
    proto = onnx.TensorProto(data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    proto.external_data.add(key="location", value="../secret")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "input_0.pb").write_bytes(proto.SerializeToString())
    with pytest.raises(DataError, match=r"input_0.pb': .*'../secret' is not inside"):
        list(open_samples(tmp_path / "set", [Value("x", DType.FLOAT, (1,))]))


def test_the_file_of_a_bad_sample_is_named(tmp_path: Path) -> None:
    np.savez(npz_folder(tmp_path) / "1.npz", picture=image(1))
    with pytest.raises(DataError, match=r"sample 1 \(1.npz\) has no input 'image'"):
        list(open_samples(tmp_path, [IMAGE]))


def empty_folder(path: Path) -> Path:
    return path


def truncated_npz(path: Path) -> Path:
    whole = one_npz(path).read_bytes()
    (path / "one.npz").write_bytes(whole[: len(whole) // 2])
    return path / "one.npz"


def truncated_npz_in_folder(path: Path) -> Path:
    truncated_npz(path)
    return path


def pickled_npy(path: Path) -> Path:
    np.save(path / "p.npy", np.array([{"image": 1}], object), allow_pickle=True)
    return path / "p.npy"


def pickled_npz(path: Path) -> Path:
    np.savez(path / "p.npz", image=np.array([{"image": 1}], object))
    return path / "p.npz"


def text(path: Path) -> Path:
    (path / "samples.csv").write_text("1,2,3")
    return path / "samples.csv"


def damaged_proto(path: Path) -> Path:
    (path / "input_0.pb").write_bytes(b"not a tensor")
    return path


def missing(path: Path) -> Path:
    return path / "missing.npz"


@pytest.mark.parametrize(
    "write",
    [
        empty_folder,
        truncated_npz,
        truncated_npz_in_folder,
        pickled_npy,
        pickled_npz,
        text,
        damaged_proto,
        missing,
    ],
)
def test_damaged_or_missing_files_are_named(write: Any, tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises((DataError, UsageError)) as caught:
        list(open_samples(path, [IMAGE]))
    assert str(path if path.is_file() else tmp_path) in str(caught.value)


def test_no_samples_at_all() -> None:
    for data in ([], iter([]), np.zeros((0, 1, 3, 2, 2), np.float32)):
        with pytest.raises(DataError, match="no calibration samples"):
            list(open_samples(data, [IMAGE]))


def test_data_of_no_known_form() -> None:
    with pytest.raises(UsageError, match="int"):
        open_samples(3, [IMAGE])
    with pytest.raises(DataError, match="not an array"):
        list(open_samples(iter([{"image": object()}]), [IMAGE]))


# -- made-up data ----------------------------------------------------------------------------------


def test_random_samples_fit_and_repeat() -> None:
    flag = Value("flag", DType.BOOL, ())
    inputs = [IMAGE, TOKENS, flag]
    one, two = (list(random_samples(inputs, 3, seed=7)) for _ in range(2))
    assert len(one) == 3
    for a, b in zip(one, two, strict=True):
        assert a["tokens"].shape == (1, 1) and set(a["tokens"].flat) <= {0, 1}
        assert a["flag"].dtype == bool
        for name in ("image", "tokens", "flag"):
            np.testing.assert_array_equal(a[name], b[name])
    assert not np.array_equal(one[0]["image"], one[1]["image"])
    other: Feeds = next(iter(random_samples(inputs, 1, seed=8)))
    assert not np.array_equal(one[0]["image"], other["image"])


def test_a_stream_may_be_shorter_than_any_limit() -> None:
    assert marks(open_samples(iter(images(2)), [IMAGE], 1 << 40)) == [0, 1]


def test_a_sequence_passes_as_it_is() -> None:
    feeds = {"list": [np.ones(2, np.float32), np.ones(3, np.float32)], "x": np.ones(4, np.float32)}
    inputs = [Value("list"), Value("x", DType.FLOAT, (4,))]
    (found,) = open_samples([feeds], inputs)
    assert found["list"] is feeds["list"]
    with pytest.raises(DataError, match="no input 'list'"):
        list(open_samples([{"x": feeds["x"]}], inputs))
