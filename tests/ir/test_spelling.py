"""Names that are not there, and what was perhaps meant."""

from pathlib import Path

from ptq_opt.ir.spelling import closest, near, nearest

NODES = ["/features/conv1/Conv", "/features/relu1/Relu", "/head/Gemm"]


def test_the_nearest_name_is_asked_for() -> None:
    assert closest("algin", ["align", "bias"]) == "; did you mean 'align'?"
    assert closest("xyz", ["align", "bias"]) == ""


def test_part_of_a_long_name_is_enough() -> None:
    assert closest("conv1", NODES) == "; did you mean '/features/conv1/Conv'?"
    assert closest("gem", NODES) == "; did you mean '/head/Gemm'?"


def test_all_names_are_listed_where_none_is_near() -> None:
    assert nearest("xyz", ["align", "bias"]) == "; known: align, bias"
    assert nearest("xyz", map(str, range(100))).endswith("22, 23, ...")


def test_paths_are_compared_by_their_last_part(tmp_path: Path) -> None:
    (tmp_path / "calib").touch()
    assert near(tmp_path / "calb") == f"; did you mean '{tmp_path}/calib'?"
    assert near(tmp_path / "weights.npz") == ""
    assert near(tmp_path / "nowhere" / "calib") == ""
