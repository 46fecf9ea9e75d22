"""Executors give each item's result in order, whoever dies; work folders keep them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

import numpy as np
import pytest
from disk import full_disk
from jobs import OPENED, Deadly, Squares

from ptq_opt.ir import DataError, PtqError, UsageError
from ptq_opt.ir.execution import WORK, InProcess, keeper, start
from ptq_opt.ir.processes import Processes, wrap
from ptq_opt.ir.work_folder import WorkFolder


@pytest.fixture(scope="module")
def pool() -> Iterator[Processes]:
    with Processes(2) as processes:
        yield processes


def test_in_process_a_job_is_opened_once_and_only_for_items() -> None:
    OPENED.clear()
    each = InProcess().start(Squares(np.zeros(1)))
    assert list(each([])) == [] and OPENED == []
    assert [int(square) for square, _ in each([1, 2, 3])] == [1, 4, 9]
    assert [int(square) for square, _ in each([4])] == [16]
    assert len(OPENED) == 1


def test_workers_open_a_job_once_and_results_come_in_order(pool: Processes) -> None:
    each = pool.start(Squares(np.ones(1 << 16, np.float32)))
    found = [*each(range(40)), *each(range(40, 60))]
    assert [int(square) for square, _ in found] == [k * k + (1 << 16) for k in range(60)]
    assert {int(opened) for _, (opened, _) in found} == {1}
    assert os.getpid() not in {int(pid) for _, (_, pid) in found}


def test_large_arrays_travel_once_whatever_they_are_part_of() -> None:
    weights, sent = np.ones(1 << 16, np.float32), list[str]()

    def send(name: str, data: object) -> None:
        sent.append(name)

    first, second = (wrap(job, send) for job in (Squares(weights), Squares(weights.copy())))
    assert first == second and len(set(sent)) == 2, "the job, and its array beside it"
    assert len(first.arrays) == 1
    assert wrap(Squares(weights[1:]), send).arrays != first.arrays
    assert not wrap(Squares(np.zeros(4)), send).arrays, "small ones go along"


def test_an_error_in_a_worker_is_the_error_here(pool: Processes) -> None:
    with pytest.raises(DataError, match="no number"):
        list(pool.start(Squares(np.zeros(1)))([1, "wrong", 2]))


def test_what_cannot_travel_is_told(pool: Processes) -> None:
    class Local:
        def open(self) -> None: ...

    with pytest.raises(UsageError, match="at the top of a module"):
        list(pool.start(Local())([1]))  # type: ignore[arg-type]


def test_what_a_dead_worker_had_is_done_again(pool: Processes, tmp_path: Path) -> None:
    each = pool.start(Deadly(tmp_path, deadly=(0, 7, 19)))
    assert [int(item) for (item,) in each(range(20))] == list(range(20))
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [0, 7, 19]


def test_work_that_kills_every_worker_ends_in_an_error(tmp_path: Path) -> None:
    with Processes(1) as pool:
        with pytest.raises(PtqError, match="workers died 4 times over one piece of work"):
            list(pool.start(Deadly(tmp_path, deadly=(1,), always=True))(range(3)))
        assert [int(item) for (item,) in pool.start(Deadly(tmp_path, ()))([5])] == [5]


HOST = """
import sys
from jobs import Squares
import numpy as np
from ptq_opt.ir.processes import Processes, wrap
if __name__ == "__main__":
    pool = Processes(1)
    ((_, (_, pid)),) = pool.start(Squares(np.zeros(1)))([2])
    print(pid, flush=True)
    sys.stdin.read()
"""


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    (tmp_path / "host.py").write_text(HOST)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, tmp_path / "host.py"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as host:
        assert host.stdout is not None
        pid = int(host.stdout.readline())
        os.kill(host.pid, signal.SIGKILL)
    for _ in range(300):
        if not Path(f"/proc/{pid}").exists():
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"worker {pid} is still there")


# -- work folders ----------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path: Path) -> Iterator[WorkFolder]:
    folder = WorkFolder(tmp_path / "work")
    token = WORK.set(folder)
    yield folder
    WORK.reset(token)


def squares(offset: float, items: list[int]) -> list[int]:
    return [int(square) for square, _ in start(Squares(np.array([offset])))(items)]


def files(work: WorkFolder) -> list[Path]:
    return sorted(path for path in work.path.rglob("*") if path.is_file())


def test_what_is_there_is_not_done_again(work: WorkFolder) -> None:
    OPENED.clear()
    assert squares(0, [1, 2]) == [1, 4]
    assert squares(0, [1, 2]) == [1, 4] and len(OPENED) == 1
    assert squares(0, [1, 2, 3]) == [1, 4, 9] and len(OPENED) == 2
    assert squares(1, [1, 2]) == [2, 5], "another job"
    assert len(files(work)) == 5


def test_a_damaged_result_is_made_again(work: WorkFolder) -> None:
    squares(0, [1, 2, 3])
    for file, data in zip(files(work), (b"", b"PK damaged", b"\x80\x04."), strict=True):
        file.write_bytes(data)
    assert squares(0, [1, 2, 3]) == [1, 4, 9]
    whole = [file.read_bytes() for file in files(work)]
    assert all(data.startswith(b"PK\x03\x04") for data in whole) and len(whole) == 3


def test_a_pickle_in_the_folder_is_not_read(work: WorkFolder, tmp_path: Path) -> None:
    squares(0, [1])
    (file,) = files(work)

    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "executed",)

    with file.open("wb") as out:
        np.savez(out, np.array([Evil()], object))
    assert squares(0, [1]) == [1]
    assert not (tmp_path / "executed").exists()


def test_runs_share_a_folder(work: WorkFolder) -> None:
    with ThreadPoolExecutor(4) as threads:  # each a run of its own
        wanted = [list(range(k, k + 30)) for k in range(8)]
        runs = [threads.submit(copy_context().run, squares, 0.0, items) for items in wanted]
        found = [run.result() for run in runs]
    assert found == [[k * k for k in items] for items in wanted]
    assert len(files(work)) == 37 and all(file.suffix == ".npz" for file in files(work))


def test_steps_are_kept_too(work: WorkFolder) -> None:
    made = []

    def make() -> list[np.ndarray]:
        made.append(1)
        return [np.array(5.0)]

    for _ in range(2):
        assert keeper("what")(3, make)[0] == 5
    assert len(made) == 1


def test_a_full_disk_is_told_and_what_is_there_stays(work: WorkFolder) -> None:
    squares(0, [1])
    before = [(file, file.read_bytes()) for file in files(work)]
    with full_disk(100), pytest.raises(UsageError, match="cannot keep results in the work folder"):
        squares(0, [1, 2])
    assert [(file, file.read_bytes()) for file in files(work)] == before
    assert squares(0, [1, 2]) == [1, 4]


def test_no_space_left(work: WorkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UsageError, match="No space left on device; make room or name another"):
        squares(0, [1])
    assert files(work) == []


def test_a_folder_that_cannot_be_used_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot keep results"):
        WorkFolder(tmp_path / "file")
    with pytest.raises(UsageError, match="cannot keep results"):
        WorkFolder("/proc/work")


def test_old_unfinished_files_are_removed_and_new_ones_left(work: WorkFolder) -> None:
    (work.path / "ab").mkdir()
    old, new = work.path / "ab" / "x.partial", work.path / "ab" / "y.partial"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    WorkFolder(work.path)
    assert files(work) == [new]
