"""A run that is killed goes on where it was, and ends with the file of one that was left alone.

PTQ_OPT_KILLS=1000 kills it more often.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from small_model import make_samples, small_model

from ptq_opt import UsageError, quantize
from ptq_opt.ir import processes

KILLS = int(os.environ.get("PTQ_OPT_KILLS", "24"))
PASSES = "calibrate,tune{trials=6,samples=3},sensitivity{samples=4},round{places=512},quant"
HOST = Path(__file__).parents[1] / "killing.py"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.onnx and 16 samples in calib/."""
    folder, rng = tmp_path_factory.mktemp("tiny"), np.random.default_rng(3)
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "w3": (8, 5)}
    weights = {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    onnx.save(small_model(**weights), folder / "tiny.onnx")
    (folder / "calib").mkdir()
    for k, feeds in enumerate(make_samples(16)):
        np.savez(folder / "calib" / f"{k:03}.npz", **feeds)
    return folder


@pytest.fixture(scope="module")
def runs(tiny: Path) -> list[dict[str, Any]]:
    """One left alone, one killed again and again; the same without `tune`, and interrupted.

    `tune` takes Ctrl-C as the end of its search.
    """
    command = ["tiny.onnx", "--data=calib", "-o", "out.onnx", "--threads=1"]
    every = {"command": [*command, f"--passes={PASSES}"], "output": "out.onnx", "seed": 5}
    others = every | {"command": [*command, f"--passes={re.sub('tune{.*?},', '', PASSES)}"]}
    jobs: list[dict[str, Any]] = [
        every | {"kills": 0, "longest": 0, "work": "alone"},
        every | {"kills": KILLS, "longest": 0.5, "work": "killed"},
        others | {"kills": 0, "longest": 0, "work": "untuned"},
        others | {"kills": 3, "longest": 0.4, "work": "interrupted", "signal": "SIGINT"},
    ]
    done = subprocess.run(
        [sys.executable, HOST, json.dumps(jobs)],
        cwd=tiny,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_killed_again_and_again_it_ends_with_the_same_bytes(
    runs: list[dict[str, Any]], tiny: Path
) -> None:
    alone, killed, *_ = runs
    assert alone["last"] is not None
    assert killed["kills"] == KILLS
    assert killed["codes"] == [-9] * KILLS + [0]
    assert killed["last"] == alone["last"]
    assert set(killed["found"]) <= {None, alone["last"]}, "whole or not at all"
    kept = list((tiny / "killed0").rglob("*.npz"))
    assert len(kept) > 20, "calibration, sensitivity, tuning and rounding keep what they did"


def test_ctrl_c_leaves_nothing_half_written(runs: list[dict[str, Any]], tiny: Path) -> None:
    *_, alone, interrupted = runs
    assert 0 not in interrupted["codes"][:-1] and interrupted["codes"][-1] == 0
    assert interrupted["last"] == alone["last"]
    assert set(interrupted["found"]) <= {None, alone["last"]}
    assert not list(tiny.rglob("interrupted*/*.partial"))


def file_of(folder: Path, **options: Any) -> str:
    result = quantize(folder / "tiny.onnx", folder / "calib", passes=PASSES, threads=1, **options)
    return hashlib.sha256(result.model.SerializeToString(deterministic=True)).hexdigest()


@pytest.fixture(scope="module")
def alone(tiny: Path) -> str:
    """The file of one process."""
    return file_of(tiny)


def test_any_number_of_workers_gives_the_same_bytes(tiny: Path, alone: str) -> None:
    assert file_of(tiny, workers=2) == alone
    assert file_of(tiny, workers=4, work=tiny / "shared") == alone
    assert file_of(tiny, work=tiny / "shared") == alone, "what four made serves one"


def test_two_runs_at_the_same_time_share_a_work_folder(tiny: Path, alone: str) -> None:
    """Neither harms the other: both end with the bytes of one without a folder."""
    code = (
        "import hashlib, sys; from ptq_opt import quantize; result = quantize('tiny.onnx', 'calib',"
        " passes=sys.argv[1], threads=1, work='both'); print(hashlib.sha256("
        "result.model.SerializeToString(deterministic=True)).hexdigest())"
    )
    command = [sys.executable, "-c", code, PASSES]
    both = [subprocess.Popen(command, cwd=tiny, stdout=subprocess.PIPE, text=True) for _ in "ab"]
    assert [run.communicate()[0].strip() for run in both] == [alone, alone]
    assert not list(tiny.rglob("both/*.partial"))


def test_a_cluster_gives_the_same_bytes_and_survives_its_workers(
    tiny: Path, alone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    killed: list[int] = []
    in_order = processes.in_order

    def killing(items: Any, submit: Any, *rest: Any) -> Any:
        for number, result in enumerate(in_order(items, submit, *rest)):
            if number == 2 and not killed:
                client = distributed.get_client()
                pid, *_ = client.run(os.getpid).values()
                killed.append(pid)
                os.kill(pid, 9)
            yield result

    monkeypatch.setattr("ptq_opt.tools.cluster.in_order", killing)
    assert file_of(tiny, cluster="local:2") == alone
    assert len(killed) == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"workers": 0}, "workers must be at least 1"),
        ({"workers": 2, "cluster": "local:2"}, "not both"),
        ({"cluster": "nowhere"}, "give tcp://host:port or local:N"),
        ({"work": "/proc/work"}, "cannot keep results in the work folder"),
    ],
)
def test_what_makes_no_sense_is_told(tiny: Path, options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        file_of(tiny, **options)
