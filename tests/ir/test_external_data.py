"""Weights in files beside the model: found, checked, and written whole or not at all."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ptq_opt.ir import ModelError, Tensor, load, onnx_io, save

WEIGHTS = np.arange(4096, dtype=np.float32)


def model_with(**external: str) -> ModelProto:
    """y = x * w with the elements of w elsewhere."""
    w = TensorProto(name="w", dims=[4096], data_type=TensorProto.FLOAT)
    w.data_location = TensorProto.EXTERNAL
    for key, value in external.items():
        w.external_data.add(key=key, value=value)
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [4096]) for n in "xy")
    return helper.make_model(helper.make_graph([node], "g", [x], [y], [w]), ir_version=10)


def write(folder: Path, **external: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "w.bin").write_bytes(b"\0" * 8 + WEIGHTS.tobytes())
    path = folder / "model.onnx"
    path.write_bytes(model_with(**external).SerializeToString())
    return path


def weights_in(path: Path) -> np.ndarray:
    """The weights as onnx's own loader sees them."""
    (tensor,) = onnx.load(path).graph.initializer
    return numpy_helper.to_array(tensor)


def test_data_files_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, location="w.bin", offset="8", length=str(WEIGHTS.nbytes))
    assert np.array_equal(load(path).find("w").numpy(), WEIGHTS)


def test_offset_and_length_may_be_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, location="w.bin")
    assert np.array_equal(load(path).find("w").numpy()[2:], WEIGHTS[:-2])


def test_there_may_be_several_data_files(tmp_path: Path) -> None:
    path = write(tmp_path, location="w.bin", offset="8")
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer.append(model_with(location="data/v.bin").graph.initializer[0])
    model.graph.initializer[1].name = model.graph.node[0].input[0] = "v"
    path.write_bytes(model.SerializeToString())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "v.bin").write_bytes((-WEIGHTS).tobytes())
    graph = load(path)
    assert np.array_equal(graph.find("w").numpy(), WEIGHTS)
    assert np.array_equal(graph.find("v").numpy(), -WEIGHTS)


def test_a_relative_path_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, location="w.bin", offset="8")
    monkeypatch.chdir(tmp_path)
    assert load("model.onnx").find("w").numpy()[1] == 1


def test_folders_and_links_inside_the_folder_are_followed(tmp_path: Path) -> None:
    path = write(tmp_path, location="data/link.bin", offset="8")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link.bin").symlink_to(tmp_path / "w.bin")
    assert np.array_equal(load(path).find("w").numpy(), WEIGHTS)


@pytest.mark.parametrize(
    "location", ["../w.bin", "data/../../w.bin", "{outside}/w.bin", "link", ""]
)
def test_nothing_outside_the_folder_is_read(tmp_path: Path, location: str) -> None:
    write(tmp_path)
    path = write(tmp_path / "inner", location=location.format(outside=tmp_path))
    (tmp_path / "inner" / "link").symlink_to(tmp_path / "w.bin")
    with pytest.raises(ModelError, match=r"'w'.*not inside the model's folder"):
        load(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": "16"}, "beyond the 16392 bytes of 'w.bin'"),
        ({"offset": "-8"}, "beyond"),
        ({"length": "8"}, "needs 16384 bytes, its external data has 8"),
        ({"offset": "eight"}, "must be integers"),
        ({"location": "gone.bin"}, "cannot read data file .*gone.bin"),
        ({"location": "."}, "not inside the model's folder"),
        ({"location": "w.bin\0"}, "not inside the model's folder"),
        ({"location": "w" * 5000}, "cannot read data file .*name too long"),
        ({"offset": "9" * 5000}, "must be integers"),
    ],
)
def test_bad_references_are_errors(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    path = write(tmp_path, **{"location": "w.bin", **entries})
    with pytest.raises(ModelError, match=f"'w'.*{message}"):
        load(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = write(tmp_path, location="pipe")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match=r"'w': cannot read .*: it is not a regular file"):
        load(path)
    with pytest.raises(ModelError, match="pipe': it is not a regular file"):
        load(tmp_path / "pipe")


def test_a_declared_size_of_terabytes_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, location="w.bin")
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].dims[:] = [10**13]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="'w': bytes 0 to 40000000000000 are beyond the 16392"):
        load(path)


def test_a_model_without_a_folder_needs_its_data_inside() -> None:
    with pytest.raises(ModelError, match=r"'w' lies in the data file 'w.bin': load .* by its path"):
        load(model_with(location="w.bin"))


def test_such_a_model_is_saved_with_a_data_file(tmp_path: Path) -> None:
    graph = load(write(tmp_path, location="w.bin", offset="8"))
    out = tmp_path / "out" / "new.onnx"
    out.parent.mkdir()
    save(graph, out)
    assert sorted(os.listdir(out.parent)) == ["new.onnx", "new.onnx.data"]
    assert out.stat().st_size < 1000
    assert np.array_equal(weights_in(out), WEIGHTS)
    assert np.array_equal(load(out).find("w").numpy(), WEIGHTS)


def test_without_a_path_the_weights_are_inside(tmp_path: Path) -> None:
    model = save(load(write(tmp_path, location="w.bin", offset="8")))
    assert np.array_equal(numpy_helper.to_array(model.graph.initializer[0]), WEIGHTS)


def test_a_model_may_replace_itself(tmp_path: Path) -> None:
    first = tmp_path / "model.onnx"
    save(load(write(tmp_path, location="w.bin", offset="8")), first)
    graph = load(first)
    save(graph, first)
    assert np.array_equal(weights_in(first), WEIGHTS)
    assert np.array_equal(graph.find("w").numpy(), WEIGHTS)


def test_a_model_too_large_for_one_file_gets_a_data_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = load(write(tmp_path, location="w.bin", offset="8"))
    graph.find("w").const = Tensor(WEIGHTS + 1)
    save(graph, tmp_path / "small.onnx")
    monkeypatch.setattr(onnx_io, "_LARGEST_INLINE", 10_000)
    save(graph, tmp_path / "large.onnx")
    assert not (tmp_path / "small.onnx.data").exists()
    assert (tmp_path / "large.onnx.data").exists()
    assert np.array_equal(weights_in(tmp_path / "large.onnx"), WEIGHTS + 1)


def test_small_weights_stay_in_the_model(tmp_path: Path) -> None:
    graph = load(write(tmp_path, location="w.bin", offset="8"))
    small = graph.add("Add", [graph.find("y"), graph.constant(np.float32(3), "b")])
    graph.set_outputs([small.output], ["y"])
    model = save(graph, tmp_path / "new.onnx")
    inside = {t.name: t.data_location != TensorProto.EXTERNAL for t in model.graph.initializer}
    assert inside == {"w": False, "b": True}


def test_unused_data_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path, location="w.bin", offset="8")
    graph = load(path)
    model = onnx.load(path, load_external_data=False)
    model.graph.node[0].input[1] = "x"
    path.write_bytes(model.SerializeToString())
    kept = save(load(path)).graph.initializer[0]
    assert np.array_equal(numpy_helper.to_array(kept), graph.find("w").numpy())


def test_a_failed_save_leaves_the_old_files_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path, location="w.bin", offset="8")
    graph = load(path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    graph.order()[0].attrs["bad"] = object()
    with pytest.raises(ModelError, match="'bad' cannot hold"):
        save(graph, path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_an_unwritable_place_is_an_error(tmp_path: Path) -> None:
    graph = load(write(tmp_path, location="w.bin", offset="8"))
    with pytest.raises(ModelError, match=r"cannot write '.*nowhere.new.onnx': No such file"):
        save(graph, tmp_path / "nowhere" / "new.onnx")
    with pytest.raises(ModelError, match=r"cannot write '.*model.onnx.new.onnx': Not a directory"):
        save(graph, tmp_path / "model.onnx" / "new.onnx")
    with pytest.raises(ModelError, match="it is not a file"):
        save(graph, tmp_path)


def test_the_same_graph_gives_the_same_files(tmp_path: Path) -> None:
    graph = load(write(tmp_path, location="w.bin", offset="8"))
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        save(graph, tmp_path / folder / "new.onnx")
    for name in ("new.onnx", "new.onnx.data"):
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert one == two
