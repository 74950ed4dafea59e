"""A sweep: its settings, the runs that are of them, and which of these failed."""

from __future__ import annotations

from tombola.formats import setting_in_words
from tombola.results.record import Count, Record, Settings
from tombola.results.settings import ComparedSetting


class Stacked(Record, frozen=True, kw_only=True):
    """How engine stacked trained a run: `steps` iterations in stacks of up to `runs` runs, itself included.

    `alone`: why others of its iterations were not stacked; None where all could be.
    """

    steps: Count = 0
    runs: Count = 1
    alone: str | None = None

    @property
    def in_words(self) -> str:
        """One line of it."""
        others = self.runs - 1
        stacked = f"stacked with {others} other{'s' if others > 1 else ''}" if self.steps else "trained alone"
        return (
            stacked if self.alone is None else f"{stacked}; {'' if not self.steps else 'in part alone: '}{self.alone}"
        )


class SweptRun(Record, frozen=True, kw_only=True):
    """One search of a sweep. `setting`: what the sweep's grid says of it; `run`: the directory's name, beside the
    sweep's own; `error`: why it failed, in one line; `stacked`: how engine stacked trained it."""

    setting: Settings
    run: str
    error: str | None = None
    stacked: Stacked | None = None

    @property
    def name(self) -> str:
        """The setting as it is written: "density 0.1, seed 0"."""
        return setting_in_words(self.setting)

    @property
    def unseeded(self) -> Settings:
        """The setting without its seed."""
        return {key: value for key, value in self.setting.items() if key != "seed"}


class TunedSetting(Record, frozen=True, kw_only=True):
    """The best values of what was searched for one setting, by the mean validation metric over its seeds.

    `failed`: trials that could not be carried out, of `trials`.
    """

    setting: Settings
    values: dict[str, float]
    metric: str
    val_accuracy: float
    trials: Count
    failed: Count = 0

    @property
    def name(self) -> str:
        """The setting with its values, as it is written."""
        return setting_in_words({**self.setting, **self.values})


class SweepResult(Record, frozen=True, kw_only=True, tag_field="kind", tag="sweep"):
    """What a sweep gave. `searches`: in the order of the grid; settings that come to the same have the same run.

    `settings`: every setting over its seeds, as far as its runs are finished, compared with the first or a named one.
    `tuned`: the best values of every setting, of a sweep that searches some.
    `found`, `trained`: how many runs were finished before, and how many are now; not part of a finished result.
    """

    searches: tuple[SweptRun, ...]
    method: str | None = None
    model: str | None = None
    data: str | None = None
    settings: tuple[ComparedSetting, ...] = ()
    tuned: tuple[TunedSetting, ...] = ()
    found: Count | None = None
    trained: Count | None = None
    run: str | None = None

    @property
    def runs(self) -> tuple[str, ...]:
        """The directories' names, each once."""
        return tuple(dict.fromkeys(search.run for search in self.searches))

    @property
    def failed(self) -> tuple[SweptRun, ...]:
        """The searches that failed, one of each run."""
        return tuple({search.run: search for search in self.searches if search.error is not None}.values())
