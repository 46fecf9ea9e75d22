"""Searches for the best parameters of anything that can be tried, within a budget."""

from __future__ import annotations

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

    A study in a file is continued by whoever opens it again with the same space and label: what is
    known is not tried again. The first trial is the start.
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
        self._expected: set[tuple[tuple[str, Any], ...]] = set()
        self._until = time.monotonic() + budget.seconds if budget.seconds else np.inf
        self._distributions: dict[str, kinds.BaseDistribution] = {
            name: kinds.FloatDistribution(part.low, part.high)
            if isinstance(part, Real)
            else kinds.CategoricalDistribution(part.options)
            for name, part in space.items()
        }
        text = repr((label, method, sorted(space.items())))
        self.study = optuna.create_study(
            storage=_file(storage) if storage else None,
            study_name=f"ptq-opt {hashlib.sha256(text.encode()).hexdigest()[:16]}",
            direction="maximize",
            load_if_exists=True,
        )
        done = self.study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
        self.count = len(done)
        self._known = {_key(trial.params): float(trial.value or 0.0) for trial in done}
        self.study.sampler = _sampler(method, seed + self.count, budget.trials)
        self.start = {name: part.start for name, part in space.items()}
        if not done:
            self.study.enqueue_trial(self.start)
            self.suggest()

    def value(self, params: Params) -> float:
        """Try `params`, unless it was done before; `Spent` when there is no budget left."""
        import optuna

        if (known := self._known.get(_key(params))) is not None:
            return known
        self._check_budget()
        found = self._objective(params)
        self.study.add_trial(
            optuna.trial.create_trial(params=params, distributions=self._distributions, value=found)
        )
        return self._done(params, found)

    def expect(self, candidates: Iterable[Params]) -> None:
        """Let the next of `candidates` be tried at the same time, where there are workers for it.

        None is a trial before its `value` is asked for, so that the search stays what it is.
        """
        most = min(self._ahead, self._budget.trials - self.count)
        unknown = (params for params in candidates if _key(params) not in self._known)
        chosen = list(itertools.islice(unknown, most)) if self._ahead > 1 else []
        if chosen and _key(chosen[0]) not in self._expected:
            self._expected.update(map(_key, chosen))
            self._prepare(chosen)

    def suggest(self) -> float:
        """Try what the study's sampler suggests; `Spent` when there is no budget left."""
        self._check_budget()
        trial = self.study.ask(self._distributions)
        known = self._known.get(_key(trial.params))
        found = self._objective(trial.params) if known is None else known
        self.study.tell(trial, found)
        return self._done(trial.params, found)

    @property
    def best(self) -> tuple[Params, float]:
        """The best so far; of equals the first."""
        trial = self.study.best_trial
        return dict(trial.params), float(trial.value or 0.0)

    def _check_budget(self) -> None:
        if self.count >= self._budget.trials or time.monotonic() > self._until:
            raise Spent

    def _done(self, params: Params, value: float) -> float:
        self._known[_key(params)] = value
        self.count += 1
        self._advance(1)
        return value


def _key(params: Params) -> tuple[tuple[str, Any], ...]:
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
    best, value = trials.best
    names = list(space)
    for step in STEPS:
        for at, name in enumerate(names):
            trials.expect(one for later in names[at:] for one in _changes(space, best, later, step))
            for changed in _changes(space, best, name, step):
                if (found := trials.value(changed)) > value:
                    best, value = changed, found
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
