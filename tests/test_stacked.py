"""Trainings as one stacked network: what each would compute alone, but for the rounding of sums."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tombola.data.config import Augment
from tombola.data.feed import ResidentFeed, epochs_together, feed
from tombola.data.splits import Splits, Task, make_splits
from tombola.errors import TombolaError
from tombola.hold import held, hold, pause
from tombola.levels.hooks import MaskDecay, Refresh
from tombola.mask import Mask
from tombola.parameters import prunable
from tombola.results.sweep import Stacked
from tombola.supermask.attach import attach
from tombola.supermask.layers import layers
from tombola.supermask.rules import TopK
from tombola.train.checkpoint import CheckpointStore, Snapshot
from tombola.train.hooks import Hook
from tombola.train.loop import Trained, train
from tombola.train.recipe import Recipe
from tombola.train.snapshots import snapshot
from tombola.train.stacked.carry import chosen
from tombola.train.stacked.company import Stretch
from tombola.train.stacked.table import together
from tombola.train.state import Loop

SGD = Recipe(
    length="25it",
    batch_size=8,
    lr=0.05,
    momentum=0.9,
    weight_decay=1e-3,
    eval_every="7it",
    schedule="cosine",
    warmup="3it",
)
ADAM = replace(SGD, optimizer="adam", lr=0.01)
EXACT = {"rtol": 1e-12, "atol": 1e-12}
"""Of networks in float64."""


def splits(augment: Augment | None = None) -> Splits:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(90, 1, 6, 6, generator=draw), torch.randint(3, (90,), generator=draw)
    return make_splits((x[:50], y[:50]), (x[50:70], y[50:70]), (x[70:], y[70:]), classes=3, augment=augment)


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3)).double()


def convolutional(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    ).double()


def mask_of(model: nn.Module, density: float, seed: int) -> Mask:
    draw = torch.Generator().manual_seed(seed)
    return Mask({name: torch.rand(w.shape, generator=draw) < density for name, w in prunable(model).items()})


Job = Callable[[Any], Trained]


def each(jobs: Sequence[Job]) -> tuple[list[Trained], list[Stacked]]:
    """What jobs give together, in their order."""
    done = {number: (result, how) for number, result, how in together(jobs)}
    return [done[number][0] for number in range(len(jobs))], [done[number][1] for number in range(len(jobs))]


def assert_same(one: Trained, other: Trained, tolerance: Mapping[str, float]) -> None:
    assert [row.step for row in one.history] == [row.step for row in other.history]
    for row, there in zip(one.history, other.history, strict=True):
        assert row.lr == there.lr
        for name in ("train_loss", "val_loss", "train_accuracy", "val_accuracy"):
            assert getattr(row, name) == pytest.approx(getattr(there, name), rel=1e-9, nan_ok=True)
    for name, value in one.state.items():
        torch.testing.assert_close(value, other.state[name], **tolerance)


@pytest.mark.parametrize(
    ("build", "recipe", "density"),
    [
        (linear, SGD, 0.3),
        (linear, replace(ADAM, optimizer="adamw"), None),
        (convolutional, SGD, None),
        (convolutional, ADAM, 0.3),
        (linear, replace(SGD, momentum=0.0), 0.3),
    ],
)
def test_a_stack_computes_what_each_computes_alone(
    build: Callable[[int], nn.Module], recipe: Recipe, density: float | None
) -> None:
    data = splits()

    def job(seed: int) -> Job:
        def run(company: Any) -> Trained:
            model = build(seed)
            held_there = nullcontext() if density is None else hold(model, mask_of(model, density * (1 + seed), seed))
            with held_there:
                return train(model, data, recipe, seed=seed, capture=10, company=company)

        return run

    stacked, how = each([job(seed) for seed in range(3)])
    assert [(one.steps, one.runs, one.alone) for one in how] == [(25, 3, None)] * 3
    for seed, result in enumerate(stacked):
        alone = job(seed)(None)
        assert_same(result, alone, EXACT)
        assert result.captured is not None
        assert alone.captured is not None
        for one, other in zip(_tensors(result.captured), _tensors(alone.captured), strict=True):
            torch.testing.assert_close(one, other, **EXACT)


def _tensors(point: Snapshot) -> list[Tensor]:
    state = [value for values in point.optimizer["state"].values() for value in values.values()]
    return [*point.model.values(), *(value for value in state if isinstance(value, Tensor))]


def test_two_weights_by_hand() -> None:
    """One weight each, one example x = 1 with target 0 and mean squared error: w falls by lr·2w."""
    one = torch.ones(2, 1), torch.zeros(2, 1)
    task = Task(nn.functional.mse_loss, lambda output, y: (output - y).squeeze(1), name="distance")
    data = make_splits(one, one, None, task)
    recipe = Recipe(length="2it", batch_size=2, lr=0.25, momentum=0.0, eval_every="2it")

    def job(weight: float) -> Job:
        def run(company: Any) -> Trained:
            model = nn.Linear(1, 1, bias=False)
            nn.init.constant_(model.weight, weight)
            return train(model, data, recipe, company=company)

        return run

    stacked, how = each([job(4.0), job(-8.0)])
    assert how[0].steps == 2
    assert [float(result.state["weight"]) for result in stacked] == [1.0, -2.0]
    assert [result.history[-1].train_loss for result in stacked] == [(16 + 4) / 2, (64 + 16) / 2]


class Looks(Hook):
    """Notes the weights at every evaluation."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def after_eval(self, loop: Loop) -> None:
        self.seen.append(loop.model.get_parameter("1.weight").detach().clone())


def test_pruned_weights_stay_at_their_values_to_the_bit() -> None:
    data, values = splits(), torch.full((12, 36), -0.5, dtype=torch.float64)

    def job(seed: int, looks: Looks) -> Job:
        def run(company: Any) -> Trained:
            model = linear(seed)
            with hold(model, mask_of(model, 0.4, seed), {"1.weight": values * seed}):
                return train(model, data, SGD, seed=seed, hooks=[looks], company=company)

        return run

    seen = [Looks(), Looks()]
    _, how = each([job(seed, looks) for seed, looks in enumerate(seen)])
    assert how[0].steps == 25
    for seed, looks in enumerate(seen):
        pruned = ~mask_of(linear(seed), 0.4, seed)["1.weight"]
        assert len(looks.seen) == 5
        for weight in looks.seen:
            assert weight[pruned].tolist() == [-0.5 * seed] * int(pruned.sum())
        assert not torch.equal(looks.seen[0], looks.seen[-1])


def test_learned_masks_are_refreshed_in_a_stack_and_hooks_see_gradients() -> None:
    data = splits()

    def job(seed: int) -> tuple[Job, list[nn.Module]]:
        models: list[nn.Module] = []

        def run(company: Any) -> Trained:
            model = linear(seed)
            attach(model, TopK(density=0.2 + 0.2 * seed), seed=seed)
            models.append(model)
            return train(
                model, data, replace(SGD, lr=0.1), seed=seed, hooks=[MaskDecay(0.01), Refresh()], company=company
            )

        return run, models

    jobs = [job(seed) for seed in range(3)]
    stacked, how = each([run for run, _ in jobs])
    assert how[0] == Stacked(steps=25, runs=3)
    for seed, (result, (_, models)) in enumerate(zip(stacked, jobs, strict=True)):
        run, separate = job(seed)
        assert_same(result, run(None), EXACT)
        for one, other in zip(layers(models[0]), layers(separate[0]), strict=True):
            assert torch.equal(one.supermask.mask, other.supermask.mask)


class Steps(Hook):
    def after_step(self, loop: Loop) -> None:
        pass


class Fails(Hook):
    stacks = True

    def after_step(self, loop: Loop) -> None:
        if loop.step == 5:
            raise TombolaError("the hook's own error")


def dropping(seed: int) -> nn.Module:
    return nn.Sequential(linear(seed), nn.Dropout(0.5))


@pytest.mark.parametrize(
    ("build", "recipe", "hooks", "why"),
    [
        (linear, replace(SGD, clip_norm=1.0), [], "clip_norm"),
        (linear, replace(SGD, accumulate=2), [], "accumulate"),
        (linear, replace(SGD, schedule="plateau"), [], "plateau"),
        (linear, replace(SGD, optimizer="torch.optim.RMSprop"), [], "RMSprop"),
        (linear, replace(SGD, penalty="l1", strength=1e-4), [], "hook Penalty"),
        (linear, SGD, [Steps()], "hook Steps"),
        (dropping, SGD, [], "cannot be stacked .*random"),
    ],
)
def test_what_cannot_be_stacked_trains_as_ever_and_says_why(
    build: Callable[[int], nn.Module], recipe: Recipe, hooks: Sequence[Hook], why: str
) -> None:
    data = splits()

    def job(seed: int) -> Job:
        return lambda company: train(build(seed), data, recipe, seed=seed, hooks=hooks, company=company)

    results, how = each([job(0), job(1)])
    for seed, (result, one) in enumerate(zip(results, how, strict=True)):
        assert one.steps == 0
        assert one.alone is not None
        assert re.search(why, one.alone)
        assert_same(result, job(seed)(None), {"rtol": 0.0, "atol": 0.0})


def test_networks_of_other_forms_are_stacked_with_their_own_kind() -> None:
    data = splits()

    def job(build: Callable[[int], nn.Module], seed: int) -> Job:
        return lambda company: train(build(seed), data, SGD, seed=seed, company=company)

    _, how = each([job(linear, 0), job(convolutional, 0), job(linear, 1), job(convolutional, 1), job(dropping, 0)])
    assert [(one.steps, one.runs) for one in how[:4]] == [(25, 2)] * 4
    assert how[4].alone == "no other run was at the same steps"


@pytest.mark.parametrize("hooks", [[Fails()], []])
def test_one_that_fails_leaves_the_others(hooks: Sequence[Hook]) -> None:
    data, recipe = splits(), replace(SGD, weight_decay=0.0)

    def job(seed: int) -> Callable[[Any], Trained | str]:
        def run(company: Any) -> Trained | str:
            model = linear(seed)
            fails = seed == 1
            if fails and not hooks:
                with torch.no_grad():
                    model.get_parameter("1.weight")[0, 0] = 1e300  # diverges, and alone does so
            try:
                return train(
                    model, data, recipe, seed=seed, hooks=[Fails()] if fails and hooks else [], company=company
                )
            except TombolaError as error:
                return str(error)

        return run

    done = {number: result for number, result, _ in together([job(seed) for seed in range(3)])}
    assert isinstance(done[1], str)
    assert "own error" in done[1] or "NaN or infinite" in done[1]
    for seed in (0, 2):
        alone, stacked = job(seed)(None), done[seed]
        assert isinstance(alone, Trained)
        assert isinstance(stacked, Trained)
        assert_same(stacked, alone, EXACT)


def test_a_training_that_is_ahead_waits_until_the_others_catch_up() -> None:
    data, starts = splits(), list[Snapshot]()

    class Keeps(Hook):
        def after_eval(self, loop: Loop) -> None:
            if loop.step == 14:
                starts.append(snapshot(loop, ()))

    train(linear(0), data, SGD, seed=0, hooks=[Keeps()])

    def job(seed: int, start: Snapshot | None) -> Job:
        return lambda company: train(linear(seed), data, SGD, seed=seed, start=start, company=company)

    _, how = each([job(0, starts[0]), job(1, None), job(2, None)])
    assert [(one.steps, one.runs) for one in how] == [(11, 3), (25, 3), (25, 3)]


def test_those_behind_go_first_up_to_the_next_ones() -> None:
    class At:
        def __init__(self, step: int) -> None:
            self.loop = self
            self.step = step

    def stretch(step: int, until: int, kind: str = "a") -> Stretch:
        return Stretch(At(step), until, kind)  # type: ignore[arg-type]

    waiting = [stretch(5, 20), stretch(0, 10), stretch(0, 7), stretch(3, 9, "b")]
    first, second = chosen(waiting)
    assert ([one.step for one in first.stretches], first.until) == ([0, 0], 5)
    assert (second.stretches, second.until) == ((waiting[3],), 9)


def test_checkpoints_of_a_stack_are_each_ones_own_and_are_resumed_alone(tmp_path: Any) -> None:
    data = splits()

    class Ends(Exception):
        pass

    def job(seed: int, ends: bool) -> Callable[[Any], Trained | None]:
        def update(done: int, figures: Any = None) -> None:
            if ends and done > 16:
                raise Ends

        def run(company: Any) -> Trained | None:
            store = CheckpointStore(tmp_path / str(seed), every_seconds=0.0)
            try:
                return train(linear(seed), data, SGD, seed=seed, store=store, update=update, company=company)
            except Ends:
                return None

        return run

    assert [result for _, result, _ in together([job(seed, True) for seed in range(2)])] == [None, None]
    for seed in range(2):
        resumed = job(seed, False)(None)
        assert isinstance(resumed, Trained)
        assert_same(resumed, train(linear(seed), data, SGD, seed=seed), EXACT)


def test_the_process_is_left_as_it_was_and_no_thread_remains() -> None:
    data = splits()
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), set(threading.enumerate())
    seen: list[list[float]] = []

    def job(seed: int) -> Callable[[Any], None]:
        def run(company: Any) -> None:
            torch.manual_seed(seed)
            for _ in range(2):
                train(linear(9), data, SGD, seed=seed, company=company)
                torch.manual_seed(seed + 100)
            seen.append(torch.rand(3).tolist())

        return run

    list(together([job(0), job(1)]))
    assert torch.equal(torch.get_rng_state(), before)
    assert set(threading.enumerate()) == threads
    assert seen == [torch.rand(3, generator=torch.Generator().manual_seed(100 + seed)).tolist() for seed in range(2)]
    ending = together([job(0), job(1), lambda company: None])
    assert next(ending)[0] == 2
    ending.close()
    assert set(threading.enumerate()) == threads


def test_an_interrupt_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    data, threads = splits(), set(threading.enumerate())

    def broken(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("tombola.train.stacked.stack.Stack.step", broken)

    def job(seed: int) -> Job:
        return lambda company: train(linear(seed), data, SGD, seed=seed, company=company)

    with pytest.raises(KeyboardInterrupt):
        list(together([job(0), job(1)]))
    assert set(threading.enumerate()) == threads


def test_a_network_has_its_own_memory_afterwards() -> None:
    data, models = splits(), [convolutional(0), convolutional(1)]

    def job(seed: int) -> Job:
        return lambda company: train(models[seed], data, ADAM, seed=seed, company=company, count_cost=True)

    results, _ = each([job(0), job(1)])
    alone = train(convolutional(0), data, ADAM, seed=0, count_cost=True)
    for model in models:
        for tensor in (*model.parameters(), *model.buffers()):
            assert tensor.untyped_storage().nbytes() == tensor.nbytes
    assert results[0].cost is not None
    assert alone.cost is not None
    assert results[0].cost.memory_bytes == alone.cost.memory_bytes
    assert results[0].cost.energy_joules is None


@pytest.mark.parametrize("augment", [None, Augment(flip=True, crop=1)])
def test_batches_of_several_seeds_are_those_of_each(augment: Augment | None) -> None:
    data = splits(augment)
    feeds = [feed(data.train, batch_size=8, augment=augment, channels_last=True) for _ in range(3)]
    assert isinstance(feeds[0], ResidentFeed)
    assert feeds[0].cuts_as(feeds[1])
    seeds = [3, 1, 4]
    expected = [list(one.epoch(seed, 2, 1)) for one, seed in zip(feeds, seeds, strict=True)]
    found = list(epochs_together(feeds, seeds, 2, 1))
    assert len(found) == len(expected[0]) == 5
    for number, (x, y) in enumerate(found):
        assert torch.equal(x, torch.stack([batches[number][0] for batches in expected]))
        assert torch.equal(y, torch.stack([batches[number][1] for batches in expected]))
    other = feed(data.train, batch_size=9, augment=augment)
    assert not feeds[0].cuts_as(other)
    mixed = [feeds[0], feed(splits(augment).train, batch_size=8, augment=augment)]
    for x, _ in islice(epochs_together(mixed, [3, 3], 0), 2):
        assert torch.equal(x[0], x[1])


def test_holds_can_be_read_and_rest_until_the_next_forward_pass() -> None:
    layer = nn.Linear(3, 1, bias=False)
    first = hold(layer, {"weight": torch.tensor([[True, False, True]])}, {"weight": torch.tensor([[0.0, 7.0, 0.0]])})
    hold(layer, {"weight": torch.tensor([[True, True, False]])})
    keep, values = held(layer)["weight"]
    assert keep.tolist() == [[True, False, False]]
    assert values is not None
    assert values[~keep].tolist() == [7.0, 0.0]
    first.release()
    assert held(layer)["weight"][0].tolist() == [[True, True, False]]
    pause(layer)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    layer.weight.grad = torch.ones(1, 3)
    optimizer.step()
    assert layer.weight[0, 2].item() == -1.0
    layer(torch.ones(1, 3)).sum().backward()
    assert layer.weight[0, 2].item() == 0.0
    assert layer.weight.grad[0, 2] == 0.0
    part = nn.Sequential(nn.Linear(2, 2))
    hold(part[0], {"weight": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(TombolaError, match="a part of the model is held by itself"):
        held(part)
