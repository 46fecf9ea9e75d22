"""Searches for the best parameters of anything that can be tried, within a budget."""

from __future__ import annotations

import datetime
import hashlib
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..ir import DataError
from ..ir.tensor import Array

if TYPE_CHECKING:
    import optuna

Method = Literal["lapq", "coordinate", "tpe", "genetic"]
STEPS = (0.2, 0.1, 0.05, 0.025)
"""Parts of a parameter's interval by which coordinate search moves, sweep by sweep."""
NEXT = 16
"""Of the parameters that come next so many are looked at for one that no other run is trying."""
PAUSE = 0.02
"""Seconds between looks at what another run is trying."""
POWERS = np.linspace(2.0, 4.0, 10)
"""Norms of the rounding error that LAPQ starts from."""


@dataclass(frozen=True)
class Real:
    """A number between two others, and where to start."""

    low: float
    high: float
    start: float


@dataclass(frozen=True)
class Choice:
    """One of several words, and where to start."""

    options: tuple[str, ...]
    start: str


Space = Mapping[str, Real | Choice]
Params = dict[str, Any]
"""Name -> float of a `Real`, str of a `Choice`."""
_Key = tuple[tuple[str, Any], ...]


class Spent(Exception):
    """The budget is used up."""


@dataclass(frozen=True)
class Budget:
    """How long to search.

    Attributes:
        trials: all in all, those of an earlier run with the same storage too.
        seconds: of this run; 0 for no limit.
    """

    trials: int
    seconds: float = 0.0


class Trials:
    """Parameters that were tried, with their value (higher is better), in an Optuna study.

    A study in a file is shared by all who open it with the same space and label, one after the
    other or at the same time: what one has found the others know before their next trial, and what
    one is trying the others leave to it where they have something else to try. The first trial is
    the start. The trials that count are the first to be done, as many as the budget has, so that
    runs which spend it agree on the best.
    """

    def __init__(
        self,
        space: Space,
        objective: Callable[[Params], float],
        budget: Budget,
        *,
        method: Method = "coordinate",
        seed: int = 0,
        storage: str = "",
        label: str = "",
        advance: Callable[[int], None] = lambda _: None,
        prepare: Callable[[Sequence[Params]], None] = lambda _: None,
        ahead: int = 1,
    ) -> None:
        """Open the study and try the start.

        Args:
            space: what to search.
            objective: tries parameters.
            budget: see there.
            method: decides who suggests parameters in `suggest`.
            seed: of random choices.
            storage: file for the study, made when it is not there; empty for memory.
            label: what is tuned: studies of other things in the same file stay apart.
            advance: told of every trial.
            prepare: told of parameters that the objective may be asked about next.
            ahead: of so many of them at a time; of none when it is 1.
        """
        import optuna
        from optuna import distributions as kinds

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._objective, self._budget, self._advance = objective, budget, advance
        self._prepare, self._ahead = prepare, ahead
        self._expected: set[_Key] = set()
        self._next: list[Params] = []
        self._slowest = 0.0
        self._until = time.monotonic() + budget.seconds if budget.seconds else np.inf
        self._distributions: dict[str, kinds.BaseDistribution] = {
            name: kinds.FloatDistribution(part.low, part.high)
            if isinstance(part, Real)
            else kinds.CategoricalDistribution(part.options)
            for name, part in space.items()
        }
        self._space, self._method, self._seed = space, method, seed
        text = repr((label, method, sorted(space.items())))
        self._storage = _file(storage) if storage else optuna.storages.InMemoryStorage()
        self.study = optuna.create_study(
            storage=self._storage,
            study_name=f"ptq-opt {hashlib.sha256(text.encode()).hexdigest()[:16]}",
            sampler=_sampler(method, seed, budget.trials),
            direction="maximize",
            load_if_exists=True,
        )
        self._done: list[optuna.trial.FrozenTrial] = []
        self._known: dict[_Key, float] = {}
        self._running: dict[_Key, int] = {}
        self.start = {name: part.start for name, part in space.items()}
        self._refresh()
        self.value(self.start)

    @property
    def count(self) -> int:
        """Of the trials that count, whoever made them."""
        return len(self._done)

    @property
    def best(self) -> tuple[Params, float]:
        """The best so far; of equals the first."""
        trial = max(self._done, key=_value)
        return dict(trial.params), _value(trial)

    def value(self, params: Params) -> float:
        """Try `params`, unless that was done before; `Spent` when there is no budget left.

        While another run tries them, this one tries what comes next, then waits for as long as two
        trials take; a run that died must not hold up others.
        """
        key = _key(params)
        if key not in self._known:
            self._refresh()
        if key not in self._known and not self._try(params):
            any(self._try(each) for each in self._next if _key(each) not in self._known)
            until = time.monotonic() + 2 * self._slowest
            while self._refresh().get(key) is not None and time.monotonic() < until:
                time.sleep(PAUSE)
            if key not in self._known:
                self._try(params, again=True)
        return self._known[key]

    def expect(self, candidates: Iterable[Params]) -> None:
        """Let the next of `candidates` be tried at the same time, where there are workers for it.

        None is a trial before its `value` is asked for, so that the search stays what it is.
        """
        unknown = (params for params in candidates if _key(params) not in self._known)
        self._next = list(itertools.islice(unknown, max(self._ahead, NEXT)))
        chosen = self._next[: min(self._ahead, self._budget.trials - self.count)]
        if self._ahead > 1 and chosen and _key(chosen[0]) not in self._expected:
            self._expected.update(map(_key, chosen))
            self._prepare(chosen)

    def suggest(self) -> None:
        """Try what the study's sampler suggests; `Spent` when there is no budget left."""
        self._refresh()
        self._check_budget()
        trial = self.study.ask()
        # By the trial's number, which no other run has: runs that start together part ways.
        self.study.sampler = _sampler(self._method, self._seed + trial.number, self._budget.trials)
        for name, part in self._space.items():
            if isinstance(part, Real):
                trial.suggest_float(name, part.low, part.high)
            else:
                trial.suggest_categorical(name, part.options)
        self._finish(trial.number, trial.params)

    def _try(self, params: Params, again: bool = False) -> bool:
        """Announce a trial and do it; False if another run was first, unless that is no matter."""
        import optuna

        key = _key(params)
        if key in self._running and not again:
            return False
        self._check_budget()
        announced = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            params=params,
            distributions=self._distributions,
        )
        study = self._storage.get_study_id_from_name(self.study.study_name)
        trial = self._storage.create_new_trial(study, announced)
        number = self._storage.get_trial_number_from_id(trial)
        first = self._refresh()[key]
        if (first < number or key in self._known) and not again:
            self.study.tell(number, state=optuna.trial.TrialState.FAIL)
            return False
        self._finish(number, params)
        return True

    def _finish(self, number: int, params: Params) -> None:
        """Do a trial that was announced."""
        import optuna

        start = time.monotonic()
        try:
            known = self._known.get(_key(params))
            found = self._objective(params) if known is None else known
        except BaseException:
            self.study.tell(number, state=optuna.trial.TrialState.FAIL)
            raise
        self.study.tell(number, found)
        self._slowest = max(self._slowest, time.monotonic() - start)
        self._refresh()
        self._advance(1)
        self._known.setdefault(_key(params), found)

    def _refresh(self) -> dict[_Key, int]:
        """Learn what all runs have found so far; what they are trying, and the first to do so."""
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        # Others may end trials after this run has spent the budget: these come last.
        done.sort(key=lambda trial: trial.datetime_complete or datetime.datetime.max)
        self._done = done[: self._budget.trials]
        for trial in done:
            self._known.setdefault(_key(trial.params), _value(trial))
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        self._running = {_key(trial.params): trial.number for trial in reversed(running)}
        return self._running

    def _check_budget(self) -> None:
        if self.count >= self._budget.trials or time.monotonic() > self._until:
            raise Spent


def _value(trial: optuna.trial.FrozenTrial) -> float:
    return float(trial.value or 0.0)


def _key(params: Params) -> _Key:
    return tuple(sorted(params.items()))


def _file(path: str) -> optuna.storages.BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    try:
        return JournalStorage(JournalFileBackend(path))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"'{Path(path)}' cannot be used to store trials: {error}") from None


def _sampler(method: Method, seed: int, trials: int) -> optuna.samplers.BaseSampler:
    import optuna

    if method == "genetic":
        size = min(50, max(4, trials // 8))
        return optuna.samplers.NSGAIISampler(population_size=size, seed=seed)
    return optuna.samplers.TPESampler(seed=seed)


# -- methods ---------------------------------------------------------------------------------------


def search(
    trials: Trials, space: Space, method: Method, start_of: Callable[[float], Params]
) -> None:
    """Search until the method is done or the budget spent; the best is in `trials`.

    Args:
        trials: opened for the same space and method.
        space: what to search.
        method: see `Tune`.
        start_of: the parameters with the least error of the p-th power, for "lapq".
    """
    try:
        if method == "coordinate":
            coordinate(trials, space)
        elif method == "lapq":
            lapq(trials, space, start_of)
        else:
            while True:
                trials.suggest()
    except Spent:
        pass


def coordinate(trials: Trials, space: Space) -> None:
    """Change one parameter after the other, keep what is better, with smaller and smaller steps."""
    names = list(space)
    for step in STEPS:
        for at, name in enumerate(names):
            best, value = trials.best
            trials.expect(one for later in names[at:] for one in _changes(space, best, later, step))
            for changed in _changes(space, best, name, step):
                if trials.value(changed) > value:
                    break


def _changes(space: Space, best: Params, name: str, step: float) -> list[Params]:
    """`best` with one parameter moved, either way."""
    return [{**best, name: other} for other in _neighbours(space[name], best[name], step)]


def _neighbours(part: Real | Choice, at: Any, step: float) -> list[Any]:
    if isinstance(part, Choice):
        return [option for option in part.options if option != at]
    width = step * (part.high - part.low)
    return [x for x in (at - width, at + width) if part.low <= x <= part.high]


def lapq(trials: Trials, space: Space, start_of: Callable[[float], Params]) -> None:
    """Start at the best p-norm of the rounding error, then Powell's method.

    Source: Nahshan et al. 2019, Loss Aware Post-training Quantization, arXiv:1911.07190.
    """
    from scipy.optimize import Bounds, minimize

    starts = [{**trials.start, **start_of(float(p))} for p in POWERS]
    trials.expect(starts)
    values = [trials.value(params) for params in starts]
    trials.value({**trials.start, **start_of(vertex(POWERS, -np.array(values)))})
    best, _ = trials.best
    reals = {name: part for name, part in space.items() if isinstance(part, Real)}

    def loss(x: Any) -> float:
        return -trials.value({**best, **dict(zip(reals, map(float, x), strict=True))})

    if reals:
        minimize(
            loss,
            np.array([best[name] for name in reals]),
            method="Powell",
            bounds=Bounds([p.low for p in reals.values()], [p.high for p in reals.values()]),
            options={"xtol": 1e-2, "ftol": 1e-4, "maxiter": 2},
        )


def vertex(powers: Array, losses: Array) -> float:
    """Where the parabola through the losses is least, within the powers.

    Where it opens downward its vertex is the worst place: the best of the powers is taken.
    """
    a, b, _ = np.polyfit(powers, losses, 2)
    if a <= 0:
        return float(powers[int(np.argmin(losses))])
    return float(np.clip(-b / (2 * a), powers.min(), powers.max()))
