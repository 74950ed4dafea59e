"""The loop on tiny data: resume, rewind, accumulation, hooks, divergence, all bit for bit or by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tombola.data.config import Augment
from tombola.data.splits import Splits, make_splits
from tombola.errors import TombolaError
from tombola.train.checkpoint import CheckpointStore, load_snapshot, save_snapshot
from tombola.train.fabric import make_fabric
from tombola.train.history import Row, early_stop, read_csv, steps_to_loss
from tombola.train.hooks import Hook
from tombola.train.loop import train
from tombola.train.recipe import Recipe
from tombola.train.recorder import Diverged
from tombola.train.state import Loop

RECIPE = Recipe(length="3ep", batch_size=8, lr=0.05, weight_decay=1e-3, schedule="cosine", eval_every="4it")


def splits() -> Splits:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(96, 1, 6, 6, generator=draw)
    y = (x.mean((1, 2, 3)) > 0).long()
    found = make_splits((x[:64], y[:64]), (x[64:80], y[64:80]), (x[80:], y[80:]))
    return replace(found, augment=Augment(flip=True, crop=1))


def network() -> nn.Module:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 4, 3, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, 2))


class Killed(Exception):
    pass


class KillAt(Hook):
    """Ends the process, as it were, after a step; and counts, to see that hook state is carried on."""

    def __init__(self, step: int | None) -> None:
        self.step, self.calls = step, 0

    def after_step(self, loop: Loop) -> None:
        self.calls += 1
        if loop.step == self.step:
            raise Killed

    def state_dict(self) -> Mapping[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.calls = state["calls"]


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def untimed(history: tuple[Row, ...]) -> list[str]:
    return [str(replace(row, seconds=0)) for row in history]  # as text: the first row's training figures are NaN


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_killed_run_ends_bit_for_bit_as_if_never_killed(tmp_path: Path, accumulate: int) -> None:
    recipe = replace(RECIPE, optimizer="adam", accumulate=accumulate)
    whole = train(network(), splits(), recipe, seed=3)
    store = CheckpointStore(tmp_path / "stage", every_seconds=0.0)
    for step in (17, 21):
        with pytest.raises(Killed):
            train(network(), splits(), recipe, seed=3, hooks=[KillAt(step)], store=store)
    last = KillAt(None)
    resumed = train(network(), splits(), recipe, seed=3, hooks=[last], store=store)
    assert same(whole.state, resumed.state)
    assert untimed(whole.history) == untimed(resumed.history)
    assert last.calls == 24
    assert len(read_csv(store.metrics)) == len(resumed.history)
    assert whole.best is not None
    assert resumed.best is not None
    assert same(whole.best, resumed.best)


def test_the_same_seed_gives_the_same_bytes_and_another_one_others() -> None:
    first, again, other = (train(network(), splits(), RECIPE, seed=seed).state for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


def test_the_callers_random_state_is_left_alone() -> None:
    model, before = network(), torch.get_rng_state()
    train(model, splits(), RECIPE, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_a_rewound_run_repeats_the_run_it_was_taken_from(tmp_path: Path) -> None:
    """Weights, norms, buffers, optimiser, schedule, data order and dropout all return to the step."""
    whole = train(network(), splits(), RECIPE, seed=5, capture=7)
    assert whole.captured is not None
    save_snapshot(tmp_path / "rewind.pt", whole.captured)
    again = train(network(), splits(), RECIPE, seed=5, start=load_snapshot(tmp_path / "rewind.pt"))
    assert same(whole.state, again.state)
    assert again.history[0].step == 7


def test_capture_at_the_beginning_is_the_beginning() -> None:
    model = network()
    first = {name: value.clone() for name, value in model.state_dict().items()}
    captured = train(model, splits(), RECIPE, seed=5, capture=0).captured
    assert captured is not None
    assert captured.step == 0
    assert same(captured.model, first)


def test_accumulation_gives_the_whole_batchs_gradient() -> None:
    def plain() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 2))

    once = train(plain(), splits(), RECIPE, seed=0).state
    parts = train(plain(), splits(), replace(RECIPE, accumulate=3), seed=0).state
    assert all(torch.allclose(once[name], parts[name], atol=1e-6) for name in once)


def test_clipping_bounds_the_first_step() -> None:
    recipe = Recipe(length="1it", batch_size=8, lr=1.0, momentum=0.0, clip_norm=0.01)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    after = train(model, splits(), recipe).state
    moved = math.sqrt(sum(float((after[n] - before[n]).square().sum()) for n in before))
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_mixed_precision_trains_too() -> None:
    recipe = replace(RECIPE, precision="bf16-mixed")
    trained = train(network(), splits(), recipe, fabric=make_fabric("cpu", "bf16-mixed"))
    assert all(value.dtype != torch.bfloat16 for value in trained.state.values())
    assert trained.history[-1].val_loss < trained.history[0].val_loss


def test_a_diverging_run_stops_with_the_reason_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    class Poison(Hook):
        def after_backward(self, loop: Loop) -> None:
            if loop.step == 20:
                for parameter in loop.model.parameters():
                    parameter.grad = torch.full_like(parameter, math.nan)

    store = CheckpointStore(tmp_path, every_seconds=0.0)
    with pytest.raises(Diverged, match=r"became NaN or infinite by iteration 2\d.*last good checkpoint"):
        train(network(), splits(), RECIPE, hooks=[Poison()], store=store)
    kept = store.load()
    assert kept is not None
    assert kept.snapshot.step <= 20
    assert all(bool(torch.isfinite(value).all()) for value in kept.snapshot.model.values())


def test_a_hook_can_stop_training_and_the_history_says_why() -> None:
    class Stop(Hook):
        def after_eval(self, loop: Loop) -> None:
            if loop.step >= 8:
                loop.stop("stable")

    trained = train(network(), splits(), RECIPE, hooks=[Stop()])
    assert (trained.steps, trained.stopped) == (8, "stable")


def test_a_stop_survives_a_kill(tmp_path: Path) -> None:
    class StopAt16(Hook):
        def after_step(self, loop: Loop) -> None:
            if loop.step == 16:
                loop.stop("enough")

    store = CheckpointStore(tmp_path, every_seconds=0.0)
    first = train(network(), splits(), RECIPE, hooks=[StopAt16()], store=store)
    again = train(network(), splits(), RECIPE, hooks=[StopAt16()], store=store)  # as if killed before it was used
    assert (again.steps, again.stopped) == (first.steps, first.stopped) == (16, "enough")
    assert same(first.state, again.state)


def test_evaluations_happen_when_asked_and_at_the_end() -> None:
    trained = train(network(), splits(), replace(RECIPE, length="10it"))
    assert [row.step for row in trained.history] == [0, 4, 8, 10]
    assert trained.history[-1].epoch == 10 / 8


def row(step: int, loss: float) -> Row:
    return Row(step, 0.0, 0.1, 0.0, 0.0, loss, 0.5, 0.0)


def test_early_stop_is_the_first_minimum_and_knows_when_it_cannot_be_known() -> None:
    history = [row(0, 2.0), row(1, 1.0), row(2, 1.0), row(3, 1.5)]
    stop = early_stop(history)
    assert stop is not None
    assert (stop.step, stop.observed) == (1, True)
    ended = early_stop([*history, row(4, 0.5)])
    assert ended is not None
    assert not ended.observed
    assert early_stop([row(0, math.nan)]) is None
    assert steps_to_loss(history, 1.2) == 1
    assert steps_to_loss(history, 1.0) == 1  # at it is there
    assert steps_to_loss(history, 2.0) == 0
    assert steps_to_loss(history, 0.1) is None


def test_an_unknown_device_or_optimizer_is_one_clear_line() -> None:
    with pytest.raises(TombolaError, match="allowed: auto, cpu, cuda"):
        make_fabric("tpu")
    with pytest.raises(TombolaError, match=r"unknown optimizer 'adamx'.*allowed: sgd, adam, adamw"):
        train(network(), splits(), replace(RECIPE, optimizer="adamx"))


def test_the_best_state_is_that_of_the_first_of_equal_minima(tmp_path: Path) -> None:
    """With a validation loss that is 0 whatever the network does, nothing that comes later is better."""
    constant = replace(splits().task, eval_loss=lambda output, target: output.sum() * 0)
    data = replace(splits(), task=constant)
    model = network()
    first = {name: value.clone() for name, value in model.state_dict().items()}
    trained = train(model, data, RECIPE, store=CheckpointStore(tmp_path, 0.0))
    assert [row.val_loss for row in trained.history] == [0.0] * len(trained.history)
    assert trained.best is not None
    assert same(trained.best, first)
    assert not same(trained.state, first)
    stop = early_stop(trained.history)
    assert stop is not None
    assert stop.step == 0


def test_the_best_state_is_that_of_the_first_of_equal_minima_after_a_worse_start() -> None:
    """Losses 3, 1, 2, 1, 1: the state at the second evaluation, of which the early stop speaks too."""
    losses = iter([3.0, 1.0, 2.0, 1.0, 1.0])
    falling = replace(splits().task, eval_loss=lambda output, target: torch.tensor(next(losses)))
    states: list[Mapping[str, Tensor]] = []

    class Keep(Hook):
        def after_eval(self, loop: Loop) -> None:
            states.append({name: value.clone() for name, value in loop.model.state_dict().items()})

    recipe = replace(RECIPE, length="8it", eval_every="2it")
    trained = train(network(), replace(splits(), task=falling), recipe, hooks=[Keep()])
    assert trained.best is not None
    assert [same(trained.best, state) for state in states] == [False, True, False, False, False]
    stop = early_stop(trained.history)
    assert stop is not None
    assert stop.step == 2
