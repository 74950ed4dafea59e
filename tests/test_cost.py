"""What a training run costs: FLOPs and memory against counts by hand, and that counting changes nothing."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tombola.data.splits import Splits, make_splits
from tombola.mask import Mask
from tombola.models.lenet import lenet_300_100
from tombola.nn.flops import flops, flops_of_call
from tombola.results.trial import TrainingCost
from tombola.train.checkpoint import CheckpointStore
from tombola.train.fabric import make_fabric
from tombola.train.hooks import Hook
from tombola.train.loop import Trained, train
from tombola.train.options import Options
from tombola.train.recipe import Recipe
from tombola.train.state import Loop
from tombola.train.trial import TrainingSetup, train_trial

RECIPE = Recipe(length="5it", batch_size=8, optimizer="sgd", momentum=0.9, lr=0.05)
FLOAT = 4
"""Bytes of a number."""


def splits(train: int = 32) -> Splits:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(train + 32, 1, 6, 6, generator=draw)
    y = (x.mean((1, 2, 3)) > 0).long()
    return make_splits((x[:train], y[:train]), (x[train : train + 16], y[train : train + 16]), (x[-16:], y[-16:]))


def cost(model: nn.Module, recipe: Recipe = RECIPE) -> TrainingCost:
    return known(train(model, splits(), recipe, count_cost=True))


def known(trained: Trained) -> TrainingCost:
    assert trained.cost is not None
    return trained.cost


def memory(model: nn.Module, recipe: Recipe = RECIPE) -> int:
    """Bytes, which must be known."""
    found = cost(model, recipe).memory_bytes
    assert found is not None
    return found


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 2))


def convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


# -- FLOPs, by hand: 2 for a multiplication with its addition, forward x 3, 5 iterations of 8 examples


def test_flops_of_a_linear_layer() -> None:
    assert cost(linear()).flops == 3 * (5 * 8) * 2 * 36 * 2


def test_flops_of_a_convolution() -> None:
    per_example = 2 * (6 * 6) * 4 * (3 * 3) + 2 * 4 * 2
    assert cost(convolution()).flops == 3 * (5 * 8) * per_example


def test_flops_do_not_depend_on_how_a_batch_is_cut() -> None:
    assert cost(linear(), replace(RECIPE, accumulate=4)).flops == cost(linear()).flops


def test_a_split_smaller_than_a_batch_counts_its_examples() -> None:
    found = known(train(linear(), splits(train=6), RECIPE, count_cost=True))
    assert found.flops == 3 * (5 * 6) * 2 * 36 * 2


def test_a_held_mask_computes_dense_flops_and_a_smaller_network_fewer() -> None:
    def trial(model: nn.Module, mask: Mask | None = None) -> TrainingCost:
        setup = TrainingSetup(splits(), RECIPE, make_fabric("cpu", "32"), Options(progress=False))
        found = train_trial(setup, model, seed=0, label="", mask=mask)
        assert found.result.cost == known(found.trained)
        return known(found.trained)

    whole = trial(linear())
    assert whole.flops
    assert trial(linear(), Mask({"1.weight": torch.arange(72).reshape(2, 36) < 7})) == whole
    fewer = trial(nn.Sequential(nn.Conv2d(1, 1, 6, stride=6), nn.Flatten(), nn.Linear(1, 2)))
    assert fewer.flops == 3 * (5 * 8) * (2 * 36 + 2 * 2)


def test_attention_is_counted_as_its_parts_are_whatever_torch_fuses() -> None:
    """For inference torch's modules call one operation, and on a processor one for the attention alone."""
    x, layer = torch.ones(3, 5, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    projections, attention = 2 * 3 * 5 * 8 * (3 * 8 + 8), 2 * 3 * 5 * 5 * (8 + 8)
    assert flops(layer.self_attn, [x, x, x])[""] == projections + attention
    assert flops(layer, [x])[""] == projections + attention + 2 * 2 * 3 * 5 * 8 * 16
    heads = x.view(3, 5, 2, 4).transpose(1, 2)
    assert flops_of_call(lambda: F.scaled_dot_product_attention(heads, heads, heads)) == attention


# -- memory


def test_memory_of_a_linear_layer_under_momentum() -> None:
    weights, inputs = 36 * 2 + 2, 8 * 36
    parameters_gradients_momentum = 3 * weights
    assert cost(linear()).memory_bytes == FLOAT * (parameters_gradients_momentum + inputs)


def test_memory_without_momentum_and_with_a_frozen_weight() -> None:
    model = linear()
    model[1].weight.requires_grad_(False)  # type: ignore[index, union-attr]
    weights, bias = 36 * 2, 2
    # no gradient of the weight: the inputs need not be kept
    assert cost(model, replace(RECIPE, momentum=0.0)).memory_bytes == FLOAT * (weights + 2 * bias)


def test_a_part_of_a_batch_keeps_less() -> None:
    assert memory(convolution(), replace(RECIPE, accumulate=2)) < memory(convolution())


def test_tied_weights_count_once() -> None:
    first, second = nn.Linear(36, 36, bias=False), nn.Linear(36, 36, bias=False)
    second.weight = first.weight
    model = nn.Sequential(nn.Flatten(), first, second)
    # its inputs and its outputs, which are the inputs of the second
    assert cost(model).memory_bytes == FLOAT * (3 * 36 * 36 + 2 * 8 * 36)


def test_what_is_computed_again_is_not_kept() -> None:
    class Again(nn.Module):
        def __init__(self, again: bool) -> None:
            super().__init__()
            self.inner, self.again = convolution(), again

        def forward(self, x: Tensor) -> Any:
            return checkpoint(self.inner, x, use_reentrant=False) if self.again else self.inner(x)

    assert memory(Again(True)) < memory(Again(False))


# -- networks that cannot be counted


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.LSTM(6, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(x[:, 0])[0][:, -1])  # type: ignore[no-any-return]


def test_a_fused_recurrent_layer_is_not_taken_for_free() -> None:
    found = cost(Recurrent())
    assert found.flops is None
    assert found.memory_bytes


class Refuses(nn.Module):
    """Takes as many batches as training and its evaluations give, and no more."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.inner, self.left = linear(), calls

    def forward(self, x: Tensor) -> Any:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("no more")
        return self.inner(x)


def test_a_network_that_fails_has_no_count_and_no_error() -> None:
    found = train(Refuses(5 + 3), splits(), RECIPE, count_cost=True)  # three evaluations: at 0, 4 and 5
    assert found.cost == TrainingCost(forward_passes=5 * RECIPE.batch_size)
    assert found.steps == 5


def test_what_computes_no_products_has_no_count() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :2] * self.scale

    assert cost(Scale()).flops is None


# -- counting changes nothing


class Drawing(nn.Module):
    """Draws from every generator, keeps statistics, replaces a buffer, and keeps one norm in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fixed = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.drop, self.out = nn.Dropout(0.3), nn.Linear(64, 2)
        self.own = torch.Generator().manual_seed(1)
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(()))

    def train(self, mode: bool = True) -> Drawing:
        super().train(mode)
        self.fixed.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen = self.seen + 1
            x = x + random.random() * 1e-3 + np.random.rand() * 1e-3
            x = x + 1e-3 * torch.rand(x.shape, generator=self.own)
        return self.out(self.drop(self.fixed(self.norm(self.conv(x))).flatten(1)))  # type: ignore[no-any-return]


def trained(count: bool) -> tuple[Trained, nn.Module, list[Any]]:
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    model = Drawing()
    found = train(model, splits(), replace(RECIPE, eval_every="2it"), seed=4, count_cost=count)
    left = [torch.get_rng_state().tolist(), np.random.rand(), random.random(), model.own.get_state().tolist()]
    return found, model, [*left, [module.training for module in model.modules()]]


def test_training_is_to_the_bit_the_same_with_and_without_counting() -> None:
    (with_, model, after), (without, other, expected) = trained(True), trained(False)
    assert known(with_).flops
    assert without.cost is None
    assert after == expected
    for ours, theirs in ((with_.state, without.state), (model.state_dict(), other.state_dict())):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert model.get_buffer("seen").item() == 5
    assert [row.val_loss for row in with_.history] == [row.val_loss for row in without.history]
    assert all(p.grad is None for p in model.parameters())


# -- in parts


class Killed(Exception):
    pass


class KillAt(Hook):
    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, loop: Loop) -> None:
        if loop.step == self.step:
            raise Killed


def in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: tuple[int, ...]) -> Trained:
    """40 iterations, killed after some of them, on a machine that draws 3 J from one reading to the next."""
    from tombola.machine.energy import Counter
    from tombola.train import loop

    class Meter:
        def __init__(self) -> None:
            self.now = 0.0

        def __call__(self) -> float:
            self.now += 3
            return self.now

    monkeypatch.setattr(loop, "counters", lambda device: [Counter(Meter())])
    store = CheckpointStore(tmp_path, every_seconds=0.0)
    recipe = replace(RECIPE, length="40it")
    for step in kills:
        with pytest.raises(Killed):
            train(linear(), splits(), recipe, count_cost=True, store=store, hooks=[KillAt(step)])
    return train(linear(), splits(), recipe, count_cost=True, store=store)


def test_the_parts_of_a_killed_run_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = known(in_parts(tmp_path / "whole", monkeypatch, ()))
    parts = known(in_parts(tmp_path / "parts", monkeypatch, (20, 35)))  # what is saved is at 16 and at 32
    assert whole == parts
    assert whole.flops == 3 * (40 * 8) * 2 * 36 * 2
    assert whole.energy_joules == 9  # a reading at 16, at 32 and at the end


def test_energy_is_unknown_if_a_part_of_the_run_was_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path, every_seconds=0.0)
    with pytest.raises(Killed):  # on a machine without a counter
        train(linear(), splits(), replace(RECIPE, length="40it"), count_cost=True, store=store, hooks=[KillAt(20)])
    assert known(in_parts(tmp_path, monkeypatch, ())).energy_joules is None


def test_a_run_that_was_killed_after_its_last_step_is_counted_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, recipe = CheckpointStore(tmp_path, every_seconds=0.0), replace(RECIPE, length="16it")

    class KillAtEnd(Hook):
        def before_eval(self, loop: Loop) -> None:
            if loop.step == 16 and store.exists():
                raise Killed

    with pytest.raises(Killed):
        train(linear(), splits(), recipe, count_cost=True, store=store, hooks=[KillAtEnd()])
    assert train(linear(), splits(), recipe, count_cost=True, store=store).cost == cost(linear(), recipe)


def test_a_run_from_a_rewind_point_costs_what_it_trains() -> None:
    point = train(linear(), splits(), RECIPE, capture=2).captured
    assert point is not None
    for start in (point, 2):
        found = train(linear(), splits(), RECIPE, start=start, count_cost=True)
        assert (found.first, found.steps) == (2, 5)
        assert known(found).flops == 3 * (3 * 8) * 2 * 36 * 2


def test_a_trial_records_where_it_began_and_the_length_of_its_recipe() -> None:
    setup = TrainingSetup(splits(), RECIPE, make_fabric("cpu", "32"), Options(progress=False))

    class Stop(Hook):
        def after_step(self, loop: Loop) -> None:
            if loop.step == 4:
                loop.stop("enough")

    result = train_trial(setup, linear(), seed=0, label="", start=2, hooks=[Stop()]).result
    assert (result.first_step, result.steps, result.whole_steps, result.trained_steps) == (2, 4, 5, 2)
    assert result.cost is not None
    assert result.cost.flops == 3 * (2 * 8) * 2 * 36 * 2


def test_lenet_by_hand() -> None:
    model = lenet_300_100(input_shape=(1, 6, 6), classes=2)
    assert cost(model).flops == 3 * (5 * 8) * 2 * (36 * 300 + 300 * 100 + 100 * 2)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bfp8"])
def test_flops_do_not_depend_on_the_precision(precision: str) -> None:
    recipe = replace(RECIPE, precision=precision)
    found = train(convolution(), splits(), recipe, fabric=make_fabric("cpu", precision), count_cost=True)
    assert known(found).flops == cost(convolution()).flops
    assert known(found).memory_bytes
