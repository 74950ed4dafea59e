"""The best value of a few numbers, by the mean validation metric over seeds: trials are runs as any other.

Optuna proposes (TPE, Bergstra et al. 2011), from a seed; a trial's value is read from its runs. So a search that is
begun again proposes the same, finds its runs finished, and goes on: there is no other record of it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from tombola.errors import TombolaError, not_installed
from tombola.results.codec import read
from tombola.results.search import SearchResult
from tombola.results.sweep import TunedSetting
from tombola.rng.seeds import derive
from tombola.runs.stage import RESULT
from tombola.study.sweep.engine import Crew, Ended
from tombola.study.sweep.plan import Planned, Search
from tombola.study.sweep.ranges import Range
from tombola.study.sweep.run import Told, carry_out_runs, plan_sweep
from tombola.train.options import Options


@dataclass(frozen=True)
class Tunable:
    """What is tuned by itself: a setting of a sweep, or an arm of a comparison.

    Args:
        setting: what it is called by.
        ranges: of the numbers that are searched, by name.
        searches: one for every seed, where the numbers have these values.
        seed: that the proposals derive from.
    """

    setting: Mapping[str, Any]
    ranges: Mapping[str, Range]
    searches: Callable[[Mapping[str, float]], Sequence[Search]]
    seed: int


@dataclass
class Trials:
    """What a search over numbers did: its runs, how they ended, and the best of every tunable."""

    planned: list[Planned] = field(default_factory=list)
    ended: dict[Path, Ended] = field(default_factory=dict)
    tuned: list[TunedSetting] = field(default_factory=list)


def carry_out_trials(
    tunables: Sequence[Tunable], trials: int, crew: Crew, out: Path, options: Options, told: Told | None = None
) -> Trials:
    """Try `trials` values for every tunable, one after the other, those of all tunables at once.

    Raises:
        TombolaError: no trial of a tunable could be carried out, or Optuna is not installed.
    """
    proposers = [_Proposer(one.ranges, one.seed) for one in tunables]
    tried: list[list[_Trial]] = [[] for _ in tunables]
    done = Trials()
    for _ in range(trials):
        asked = [proposer.ask() for proposer in proposers]
        groups = [list(one.searches(values)) for one, values in zip(tunables, asked, strict=True)]
        planned = plan_sweep([search for group in groups for search in group], out, options)
        ended = carry_out_runs(planned, crew, out, options, told)
        done.planned += planned
        done.ended |= ended
        rest = iter(planned)
        for place, (group, values) in enumerate(zip(groups, asked, strict=True)):
            trial = _judged(values, [next(rest) for _ in group], ended)
            proposers[place].tell(trial.loss)
            tried[place].append(trial)
    done.tuned = [_best(one, of_it) for one, of_it in zip(tunables, tried, strict=True)]
    return done


@dataclass(frozen=True)
class _Trial:
    """Values that were tried, and the mean validation metric over seeds; None: a run failed, for that reason."""

    values: Mapping[str, float]
    score: float | None
    metric: str = ""
    higher_is_better: bool = True
    error: str = ""

    @property
    def loss(self) -> float | None:
        """The lower the better."""
        return None if self.score is None else -self.score if self.higher_is_better else self.score


def _judged(values: Mapping[str, float], runs: Sequence[Planned], ended: Mapping[Path, Ended]) -> _Trial:
    errors = [ended[run.directory].error for run in runs if run.directory in ended]
    failed = next((error for error in errors if error is not None), None)
    if failed is not None:
        return _Trial(values, None, error=failed)
    results = [read(SearchResult, run.directory / RESULT) for run in runs]
    found = [
        replicate.levels[-1].val_accuracy for result in results if result is not None for replicate in result.replicates
    ]
    known = [value for value in found if value is not None]
    first = results[0]
    if first is None or len(known) < len(found) or not known:
        return _Trial(values, None, error="its last level has no validation metric")
    return _Trial(values, fmean(known), first.metric, first.higher_is_better)


def _best(tunable: Tunable, tried: Sequence[_Trial]) -> TunedSetting:
    known = [trial for trial in tried if trial.loss is not None]
    if not known:
        raise TombolaError(f"none of {len(tried)} trials could be carried out; the last: {tried[-1].error}")
    top = min(known, key=lambda trial: trial.loss or 0.0)
    assert top.score is not None
    return TunedSetting(
        setting=dict(tunable.setting),
        values=dict(top.values),
        metric=top.metric,
        val_accuracy=top.score,
        trials=len(tried),
        failed=len(tried) - len(known),
    )


class _Proposer:
    """Optuna's TPE over ranges: the same seed and answers give the same proposals."""

    def __init__(self, ranges: Mapping[str, Range], seed: int) -> None:
        optuna = imported()
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            sampler = optuna.samplers.TPESampler(seed=derive(seed, "optuna") % 2**32)
            self._study = optuna.create_study(sampler=sampler, direction="minimize")
        finally:
            optuna.logging.set_verbosity(before)
        self._ranges, self._failed = ranges, optuna.trial.TrialState.FAIL
        of = optuna.distributions.FloatDistribution
        self._distributions = {name: of(one.low, one.high, log=one.log) for name, one in ranges.items()}
        self._trial: Any = None

    def ask(self) -> dict[str, float]:
        """The next values to try."""
        self._trial = self._study.ask(self._distributions)
        return {name: one.rounded(self._trial.params[name]) for name, one in self._ranges.items()}

    def tell(self, loss: float | None) -> None:
        """What they gave; None: they could not be tried."""
        if loss is None:
            self._study.tell(self._trial, state=self._failed)
        else:
            self._study.tell(self._trial, loss)


def imported() -> Any:
    """Optuna; TombolaError where it is not installed."""
    try:
        return importlib.import_module("optuna")
    except ImportError:
        raise not_installed("Optuna", "tombola[optuna]") from None
