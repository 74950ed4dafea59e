"""The learning rate that is cut where training stalls: by hand, in a real run, and through a kill."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tombola.data.splits import Splits, make_splits
from tombola.errors import TombolaError
from tombola.train.checkpoint import CheckpointStore
from tombola.train.history import Row
from tombola.train.hooks import Hook
from tombola.train.loop import Trained, train
from tombola.train.recipe import Recipe
from tombola.train.schedule import lr_factor, plateau_factor
from tombola.train.state import Loop

PLATEAU = Recipe(schedule="plateau", gamma=0.5)
RECIPE = Recipe(length="20ep", batch_size=8, lr=0.2, schedule="plateau", warmup="6it", eval_every="4it")


def rows(*metrics: float) -> list[Row]:
    return [Row(step, 0.0, 0.1, 0.0, metric, 0.0, 0.0, 0.0) for step, metric in enumerate(metrics)]


@pytest.mark.parametrize(
    ("metrics", "plateaus"),
    [
        ([], 0),
        ([math.nan], 0),
        ([math.nan, 0.5, 0.4], 0),
        ([math.nan, 0.5, 0.4, 0.3], 1),
        ([0.5, math.nan, 0.4, math.nan], 0),
        ([0.5, 0.4, 0.6, 0.5], 0),
        ([0.5, 0.50005, 0.5001], 1),  # never better by more than 0.0001
        ([0.5, 0.50011, 0.5], 0),
        ([0.5, 0.5, 0.5, 0.5], 1),
        ([0.5, 0.5, 0.5, 0.5, 0.5], 2),
        ([0.5, 0.4, 0.3, 0.4, 0.45], 2),  # the best stays the best after a cut
        ([0.5, 0.4, 0.3, 0.6, 0.5], 1),
    ],
)
def test_a_plateau_is_patience_rows_without_a_better_one(metrics: list[float], plateaus: int) -> None:
    assert plateau_factor(rows(*metrics), PLATEAU, True) == 0.5**plateaus


@given(st.lists(st.sampled_from([0.1, 0.2, 0.20005, 0.3, 0.30005, 0.5]), max_size=30), st.integers(1, 4), st.booleans())
def test_torchs_own_scheduler_cuts_as_often(metrics: list[float], patience: int, higher: bool) -> None:
    """Its patience is one shorter: it cuts when more rows than that have passed, Keras when as many have."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "max" if higher else "min", 0.5, patience - 1, 1e-4, "abs", eps=0.0
    )
    for metric in metrics:
        scheduler.step(metric)
    recipe = Recipe(schedule="plateau", gamma=0.5, patience=patience)
    assert plateau_factor(rows(*metrics), recipe, higher) == optimizer.param_groups[0]["lr"]


def test_patience_and_direction() -> None:
    falling = rows(0.5, 0.4, 0.3, 0.2)
    assert plateau_factor(falling, PLATEAU, False) == 1.0
    assert plateau_factor(falling, Recipe(schedule="plateau", gamma=0.5, patience=1), True) == 0.125
    assert plateau_factor(falling, Recipe(schedule="plateau", gamma=0.5, patience=3), True) == 0.5
    assert plateau_factor(rows(0.2, 0.3, 0.3, 0.3), PLATEAU, False) == 0.5


def test_other_schedules_know_no_plateau_and_a_plateau_still_warms_up() -> None:
    assert plateau_factor(rows(0.5, 0.1, 0.1, 0.1), Recipe(schedule="cosine"), True) == 1.0
    factor = lr_factor(Recipe(length="9it", schedule="plateau", warmup="4it"), steps_per_epoch=3)
    assert [factor(step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"patience": 0}, "patience is 0, but it must be at least 1"),
        ({"schedule": "plateau", "gamma": 1.0}, "gamma is 1.0, but it must be between 0 and 1 when"),
        ({"schedule": "plateau", "gamma": 0.0}, "gamma is 0.0"),
        ({"schedule": "plateaus"}, "did you mean plateau.*allowed: constant, step, cosine, plateau"),
    ],
)
def test_a_recipe_that_cannot_cut_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(TombolaError, match=says):
        Recipe(**fields)  # type: ignore[arg-type]
    assert Recipe(gamma=1.0).gamma == 1.0


def noise() -> Splits:
    """Labels that have nothing to do with the inputs: training soon stalls."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(80, 3, generator=draw), torch.randint(2, (80,), generator=draw)
    return make_splits((x[:64], y[:64]), (x[64:], y[64:]))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.2))


class Watch(Hook):
    """Notes the rate of every step, and ends the process, as it were, after one."""

    def __init__(self, kill: int | None = None) -> None:
        self.kill, self.rates = kill, dict[int, float]()

    def before_step(self, loop: Loop) -> None:
        self.rates[loop.step] = loop.optimizer.param_groups[0]["lr"]

    def after_step(self, loop: Loop) -> None:
        if loop.step == self.kill:
            raise KeyboardInterrupt


def figures(trained: Trained) -> list[tuple[float, ...]]:
    return [(row.step, row.lr, row.train_loss, row.train_accuracy, row.val_loss) for row in trained.history[1:]]


def test_training_cuts_the_rate_after_the_row_that_makes_the_plateau() -> None:
    watch = Watch()
    trained = train(network(), noise(), RECIPE, hooks=[watch])
    warm = [min(1.0, (step + 1) / 6) for step in range(160)]
    cuts = [plateau_factor([row for row in trained.history if row.step <= step], RECIPE, True) for step in range(160)]
    assert list(watch.rates.values()) == [0.2 * (cut * part) for cut, part in zip(cuts, warm, strict=True)]
    assert len(set(cuts)) > 2


@pytest.mark.parametrize("kills", [(17,), (40, 41), (49, 100, 113)])
def test_a_killed_run_cuts_where_an_uninterrupted_one_does(tmp_path: Path, kills: tuple[int, ...]) -> None:
    watch = Watch()
    whole = train(network(), noise(), RECIPE, hooks=[watch])
    store = CheckpointStore(tmp_path, every_seconds=0.0)
    for kill in kills:
        with pytest.raises(KeyboardInterrupt):
            train(network(), noise(), RECIPE, hooks=[Watch(kill)], store=store)
    last = Watch()
    resumed = train(network(), noise(), RECIPE, hooks=[last], store=store)
    assert 0 < min(last.rates) <= kills[-1]
    assert last.rates == {step: rate for step, rate in watch.rates.items() if step in last.rates}
    assert figures(whole) == figures(resumed)
    assert all(torch.equal(whole.state[name], resumed.state[name]) for name in whole.state)
