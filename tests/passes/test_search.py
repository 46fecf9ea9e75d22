"""Searches find the best of simple functions, within a budget, and go on where they stopped."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ptq_opt.ir import DType, QuantInfo
from ptq_opt.passes.pnorm import least_power
from ptq_opt.passes.search import (
    POWERS,
    Budget,
    Choice,
    Params,
    Real,
    Trials,
    coordinate,
    lapq,
    search,
    vertex,
)

SPACE = {"a": Real(0, 2, 1), "b": Real(0, 2, 1), "c": Choice(("x", "y", "z"), "x")}
METHODS = ["lapq", "coordinate", "tpe", "genetic"]


class Bowl:
    """Best, 0, at a = 0.5, b = 1.5, c = "y"; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, params: Params) -> float:
        self.asked += 1
        far = (params["a"] - 0.5) ** 2 + (params["b"] - 1.5) ** 2
        return -far - 0.5 * (params["c"] != "y")


def start_of(_power: float) -> Params:
    return {}


def run(method: str, trials: int, storage: str = "", seed: int = 0) -> tuple[Trials, Bowl]:
    bowl = Bowl()
    found = Trials(SPACE, bowl, Budget(trials), method=method, seed=seed, storage=storage)
    search(found, SPACE, method, start_of)
    return found, bowl


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_better_than_the_start_within_its_budget(method: str) -> None:
    found, bowl = run(method, 40)
    params, value = found.best
    assert value > Bowl()(found.start)
    assert value == Bowl()(params)
    assert bowl.asked <= found.count <= 40


def test_coordinate_search_and_powell_come_close() -> None:
    assert run("coordinate", 100)[0].best[1] > -0.02
    params, _ = run("lapq", 200)[0].best  # Powell does not change choices
    assert (params["a"], params["b"]) == pytest.approx((0.5, 1.5), abs=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_trials(method: str) -> None:
    first, second = (run(method, 15, seed=3)[0].study.trials for _ in range(2))
    assert [t.params for t in first] == [t.params for t in second]


@pytest.mark.parametrize("method", METHODS)
def test_a_stored_search_goes_on_and_tries_nothing_twice(method: str, tmp_path: Path) -> None:
    file = str(tmp_path / "trials.log")
    first, bowl = run(method, 6, file)
    assert first.count == 6
    assert bowl.asked == len({str(trial.params) for trial in first.study.trials})
    again, bowl = run(method, 6, file)
    assert bowl.asked == 0
    assert again.best == first.best
    more, bowl = run(method, 12, file)
    assert bowl.asked <= 6
    assert more.count == 12
    assert more.best[1] >= first.best[1]


def test_a_stopped_deterministic_search_ends_where_an_unstopped_one_does(tmp_path: Path) -> None:
    file = str(tmp_path / "trials.log")
    run("coordinate", 7, file)
    assert run("coordinate", 30, file)[0].best == run("coordinate", 30)[0].best


def together(method: str, trials: int, file: Path) -> list[dict]:
    """What two processes say that search at the same time."""
    script = Path(__file__).parents[1] / "sharing.py"
    command = [sys.executable, str(script), method, str(trials), str(file)]
    pipe = subprocess.PIPE
    runs = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for run in runs:
        run.stdout.readline()  # it is ready
    for run in runs:
        run.stdin.write("go\n")
        run.stdin.flush()
    return [json.loads(run.communicate()[0]) for run in runs]


@pytest.mark.parametrize("method", METHODS)
def test_two_runs_at_the_same_time_share_their_trials(method: str, tmp_path: Path) -> None:
    """They try different things, know what the other found, and agree on the best."""
    file = tmp_path / "trials.log"
    first, second = together(method, 40, file)
    assert first["count"] == second["count"] == 40
    assert first["best"] == second["best"]
    assert min(len(first["own"]), len(second["own"])) >= 5  # they shared the work
    tried = [str(sorted(params.items())) for run in (first, second) for params in run["own"]]
    assert len(tried) <= 42  # each may end a trial behind the last that counts
    assert len(tried) - len(set(tried)) <= 4


def test_other_spaces_in_one_file_stay_apart(tmp_path: Path) -> None:
    file = str(tmp_path / "trials.log")
    run("tpe", 5, file)
    other = {"a": Real(0, 1, 0.25)}
    trials = Trials(other, lambda params: params["a"], Budget(3), storage=file)
    assert trials.count == 1
    assert trials.best == ({"a": 0.25}, 0.25)


def test_time_is_a_budget_too() -> None:
    bowl = Bowl()
    trials = Trials(SPACE, bowl, Budget(10**6, seconds=0.2))
    search(trials, SPACE, "tpe", start_of)
    assert 1 <= bowl.asked < 10**6


def test_parabola_of_the_losses() -> None:
    """V11; a parabola that opens downward has no least place: the best power; and within them."""
    powers = np.array([2, 2.5, 3, 3.5, 4])
    assert vertex(powers, np.array([0.9, 0.72, 0.66, 0.70, 0.86])) == pytest.approx(3.044872)
    assert vertex(powers, np.array([0.5, 0.8, 0.9, 0.8, 0.6])) == 2
    assert vertex(powers, np.array([5, 4, 3.1, 2.3, 1.6])) == 4


@pytest.mark.parametrize(
    ("power", "step", "integers", "error"),
    [
        (2, 1.0, [1, -1, 0, 1, -2, -1], 0.228333),
        (3, 2.0, [0, 0, 0, 1, -1, 0], 0.1575),
        (4, 1.469, [0, -1, 0, 1, -1, 0], 0.103102),
    ],
)
def test_step_of_least_power(power: int, step: float, integers: list[int], error: float) -> None:
    """V11: a tensor on the grid {-2..1} d, whose best d depends on the norm."""
    data = np.array([0.6, -0.8, -0.1, 2, -2, -0.6], np.float32)

    def grid_of(d: float) -> QuantInfo:
        return QuantInfo(DType.INT2, np.float32(d), np.int32(0))

    _, least = least_power(data, None, grid_of, (0.005, 3.0), power)
    assert least == pytest.approx(error, rel=2e-3)
    info = grid_of(step)  # one of the best: for p = 2 the errors of d = 1 and d = 2 are equal
    assert info.quantize(data).tolist() == integers
    assert np.mean(np.abs(data - info.fake(data)) ** power) == pytest.approx(least, rel=2e-3)


def test_elements_count_as_often_as_they_are_there() -> None:
    data, counts = np.array([0.3, 0.5, 4], np.float32), np.array([7, 2, 1])

    def grid_of(d: float) -> QuantInfo:
        return QuantInfo(DType.INT4, np.float32(d), np.int32(0))

    plain = least_power(np.repeat(data, counts), None, grid_of, (0.01, 1.0), 2.4)
    assert least_power(data, counts, grid_of, (0.01, 1.0), 2.4) == pytest.approx(plain)


def test_lapq_starts_at_the_best_norm() -> None:
    """The loss knows one parameter, and the norm that sets it best is 3."""
    space = {"a": Real(0, 10, 0)}
    trials = Trials(space, lambda params: -((params["a"] - 3) ** 2), Budget(12))
    search(trials, space, "lapq", lambda power: {"a": power})
    tried = [trial.params["a"] for trial in trials.study.trials]
    assert tried[1:11] == pytest.approx(POWERS.tolist())
    assert tried[11] == pytest.approx(3)
    assert trials.best[0]["a"] == pytest.approx(3)


def test_a_search_may_end_before_its_budget() -> None:
    trials = Trials({"c": Choice(("x", "y"), "x")}, lambda _: 0.0, Budget(100))
    coordinate(trials, {"c": Choice(("x", "y"), "x")})
    lapq(trials, {"c": Choice(("x", "y"), "x")}, start_of)
    assert trials.count == 2
