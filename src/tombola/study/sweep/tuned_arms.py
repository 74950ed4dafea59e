"""Every arm of a comparison gets its own tuned number of the recipe, such as its learning rate.

It is chosen on the validation split, on seeds apart from those that are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from tombola.data.config import DataSpec
from tombola.errors import TombolaError
from tombola.fields import check_counts
from tombola.formats import plural
from tombola.models.spec import ModelSpec
from tombola.names import check_known
from tombola.rng.seeds import derive
from tombola.search.request import Request
from tombola.study.setting import Arm
from tombola.study.sweep.engine import Engine
from tombola.study.sweep.plan import Search
from tombola.study.sweep.ranges import Range
from tombola.study.sweep.run import Told
from tombola.study.sweep.tuning import Tunable, carry_out_trials, imported
from tombola.train.options import Options
from tombola.train.recipe import Recipe

NUMBERS = tuple(field.name for field in fields(Recipe) if field.type in ("float", "float | None"))
"""Fields of a recipe that can be tuned."""
AROUND = 10.0
"""Without a range, from a tenth of the arm's own value to ten times it."""


@dataclass(frozen=True)
class Tuning:
    """What is tuned, and how.

    Args:
        what: a number of the recipe, lr for one, from a tenth of each arm's own to ten times it; or with a range, as
            "lr: 1e-3..1e-1", which is searched logarithmically if it begins above 0
        trials: values that are tried for each arm
        tune_seeds: seeds of every trial, apart from those that are compared
    """

    what: str
    trials: int = 20
    tune_seeds: int = 1

    def __post_init__(self) -> None:
        check_counts(trials=self.trials, tune_seeds=self.tune_seeds)
        check_known("number to tune", self.field, NUMBERS)
        _ = self.range

    @property
    def field(self) -> str:
        """The recipe's field."""
        return self.what.partition(":")[0].strip().removeprefix("recipe.")

    @property
    def range(self) -> Range | None:
        """The range that is given, or None."""
        text = self.what.partition(":")[2].strip()
        if not text:
            return None
        try:
            low, high = (float(end) for end in text.split(".."))
        except ValueError:
            raise TombolaError(
                f"tune is {self.what!r}; give a number's name, or one with a range: lr: 1e-3..1e-1"
            ) from None
        return Range(low, high, log=low > 0)

    def range_of(self, arm: Arm) -> Range:
        """The range of one arm's number."""
        own = getattr(arm.recipe, self.field)
        if self.range is not None:
            return self.range
        if not own:
            raise TombolaError(
                f"{self.field} of arm {arm.name!r} is {own}, around which there is nothing to try; give a range, as in "
                f"{self.field}: 1e-4..1e-2"
            )
        return Range(own / AROUND, own * AROUND, log=True)


@dataclass(frozen=True)
class TunedArms:
    """The arms with their tuned numbers, and in words how these were chosen."""

    arms: tuple[Arm, ...]
    note: str


def tune_arms(
    arms: Sequence[Arm],
    model: ModelSpec,
    data: DataSpec,
    tuning: Tuning,
    out: str | Path,
    *,
    engine: Engine,
    seed: int = 0,
    options: Options | None = None,
    told: Told | None = None,
) -> TunedArms:
    """Tune a number of every arm's recipe, by the mean validation metric; trials are runs under `out`.

    An arm that prunes another's dense network takes that one's value over.

    Raises:
        TombolaError: an arm's number cannot be tuned, or none of its trials could be carried out.
    """
    machine = options or Options()
    own = [arm for arm in arms if arm.dense is None]
    seeds = [derive(seed, "tune", number) for number in range(tuning.tune_seeds)]
    tunables = [_tunable(arm, model, data, tuning, seeds, machine) for arm in own]
    imported()
    with engine.session() as crew:
        found = carry_out_trials(tunables, tuning.trials, crew, Path(out), machine, told).tuned
    values = {arm.name: tuned.values[tuning.field] for arm, tuned in zip(own, found, strict=True)}
    made = tuple(_with(arm, tuning.field, values[arm.dense or arm.name]) for arm in arms)
    return TunedArms(made, _note(tuning, values, found[0].metric))


def _tunable(
    arm: Arm, model: ModelSpec, data: DataSpec, tuning: Tuning, seeds: Sequence[int], options: Options
) -> Tunable:
    wanted = tuning.range_of(arm)

    def searches(values: Mapping[str, float]) -> list[Search]:
        recipe = replace(arm.recipe, **{tuning.field: values[tuning.field]})  # type: ignore[arg-type]
        return [
            Search(
                {"arm": arm.name, **values, "seed": seed}, Request(model, data, arm.method, recipe, seed, 1, options)
            )
            for seed in seeds
        ]

    for end in (wanted.low, wanted.high):  # before anything is trained
        searches({tuning.field: end})
    return Tunable({"arm": arm.name}, {tuning.field: wanted}, searches, seeds[0])


def _with(arm: Arm, field: str, value: float) -> Arm:
    return replace(arm, recipe=replace(arm.recipe, **{field: value}))  # type: ignore[arg-type]


def _note(tuning: Tuning, values: Mapping[str, float], metric: str) -> str:
    where = f"from {tuning.range}" if tuning.range else "from a tenth of each arm's own to ten times it"
    chosen = ", ".join(f"{name} {value:g}" for name, value in values.items())
    return (
        f"Every arm has its own tuned {tuning.field}: the best of {plural(tuning.trials, 'trial')} {where}, by the "
        f"mean validation {metric} over {plural(tuning.tune_seeds, 'seed')} apart from those compared. Chosen: "
        f"{chosen}."
    )
