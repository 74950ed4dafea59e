"""Training, validation and test figures are of one network, evaluated in one way, whatever the method."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from supermask_models import inputs
from supermask_models import network as masked_network
from supermask_searches import levels_of, network, splits, start_for
from tombola.data.config import Augment
from tombola.data.splits import Splits, Streamed, make_splits
from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.methods import METHODS
from tombola.methods.learned_mask import LearnedMask
from tombola.search.find import run_find, search
from tombola.search.request import make_request
from tombola.supermask import Bernoulli, Identity, TopK, attach, final_masks, refresh
from tombola.supermask.layers import layers
from tombola.supermask.masks import read
from tombola.train import trial as trial_module
from tombola.train.evaluate import evaluate
from tombola.train.fabric import make_fabric
from tombola.train.feeds import evaluated_part, evaluation_feed
from tombola.train.history import early_stop, read_csv
from tombola.train.hooks import Hook
from tombola.train.loop import train
from tombola.train.recipe import Recipe
from tombola.train.state import Loop
from tombola.train.trial import TrainingSetup, run_trial

RECIPE = Recipe(length="9it", batch_size=8, lr=0.3, momentum=0.9, eval_every="2it", train_eval="all")
OPTIONS: dict[str, dict[str, Any]] = {
    "imp": {"density": 0.3, "rounds": 1, "rewind": "2it"},
    "learned-mask": {"rescale": True, "train_norms": True, "samples": 3},
    "multi-prize": {"norms": "tuned", "tune": "4it", "density": 0.3, "anneal": "9it"},
    "continuous": {"rewind": "2it", "rounds": 2, "logit": 0.02},
    "concrete": {"density": 0.3, "rewind": "2it", "search": "5it"},
    "gem-miner": {"freeze_every": "2it"},
    **{name: {"examples": 20, "budget": 400} for name in ("anneal", "evolve", "random-search")},
    "iterand": {"every": "2it", "probability": 0.5, "train_norms": True},
    "edge-popup": {"density": 0.3, "anneal": "9it", "train_norms": True},
}


def same_everywhere() -> Splits:
    """All three splits hold the same examples."""
    part = splits().train
    return make_splits(*[(part.x, part.y)] * 3)


@pytest.mark.parametrize("name", METHODS)
def test_on_the_same_examples_all_figures_of_a_level_agree(name: str, tmp_path: Path) -> None:
    method = METHODS[name](**OPTIONS.get(name, {}))
    start = start_for(name, network(), splits())
    found = run_find(make_request(network(), same_everywhere(), method, recipe=RECIPE, start=start), tmp_path)
    for level in found.replicates[0].levels:
        assert level.val_loss == level.test_loss == level.train_loss_eval
        assert level.val_accuracy == level.test_accuracy == level.train_accuracy_eval
        assert level.val_accuracy_sampled == level.test_accuracy_sampled
        stop = early_stop(read_csv(Path(found.run) / level.metrics))
        assert stop is not None
        if level.steps:  # an early stop is one of a training
            assert level.test_accuracy_early_stop == stop.val_accuracy
        else:
            assert level.test_accuracy_early_stop is level.early_stop_iteration is None
        assert level.val_loss_min == stop.val_loss


# -- stochastic masks


@pytest.mark.parametrize("weights", ["identity", "signed_constant"])
@pytest.mark.parametrize("rescale", [False, True])
def test_a_drawn_masks_validation_is_of_the_ticket(weights: str, rescale: bool) -> None:
    method = LearnedMask(weights=weights, rescale=rescale, train_norms=True, samples=4)
    (level,) = levels_of(method, recipe=RECIPE)
    data = splits()
    built = level.ticket.build("final", model=network())
    for where, split in (("val", data.val), ("test", data.test)):
        score = evaluate(built, evaluation_feed(data, split, torch.device("cpu"), False), data.task)
        assert getattr(level.result, f"{where}_loss") == pytest.approx(score.loss, rel=1e-5)
        assert getattr(level.result, f"{where}_accuracy") == score.metric
        assert 0 <= getattr(level.result, f"{where}_accuracy_sampled") <= 1
    counts = level.ticket.mask.counts()
    assert level.result.utilisation[-1].densities == {name: k / n for name, (k, n) in counts.items()}


def test_the_sampled_figures_are_means_over_the_same_masks() -> None:
    part = splits().train
    same = make_splits((part.x, part.y), (part.x, part.y), (part.x, part.y))
    method = LearnedMask(samples=5)
    (level,) = search(make_request(network(), same, method, recipe=RECIPE))
    assert level.result.val_accuracy_sampled == level.result.test_accuracy_sampled
    assert level.result.samples == 5
    (untested,) = search(make_request(network(), replace(same, test=None), method, recipe=RECIPE))
    assert untested.result.val_accuracy_sampled == level.result.val_accuracy_sampled
    assert untested.result.test_accuracy_sampled is None


def test_what_is_sampled_are_fresh_draws_and_then_the_ticket_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Mask] = []
    real = trial_module.evaluate
    monkeypatch.setattr(trial_module, "evaluate", lambda model, *rest: seen.append(read(model)) or real(model, *rest))
    (level,) = levels_of(LearnedMask(samples=4), recipe=RECIPE)
    drawn = seen[-8:]
    assert drawn[::2] == drawn[1::2]  # validation and test of each
    assert all(a != b for a, b in combinations([*drawn[::2], level.ticket.mask], 2))
    assert seen[:-8][-1] == level.ticket.mask


class Watch(Hook):
    """Every mask and scale that training works with."""

    def __init__(self) -> None:
        self.seen: list[list[Tensor]] = []

    def before_step(self, loop: Loop) -> None:
        buffers = [buffer for layer in layers(loop.model) for buffer in layer.supermask.buffers()]
        self.seen.append([buffer.flatten().float() for buffer in buffers])


@pytest.mark.parametrize("rescale", [False, True])
def test_evaluating_often_changes_no_mask_that_is_trained_with(rescale: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from tombola.levels import learn as mask_loop

    real, watches = mask_loop.train_trial, []
    for every in ("1it", "9it"):
        watch = Watch()
        watches.append(watch)
        with monkeypatch.context() as patched:
            patched.setattr(
                mask_loop,
                "train_trial",
                lambda *args, hooks=(), watch=watch, **more: real(*args, hooks=(*hooks, watch), **more),
            )
            levels_of(LearnedMask(rescale=rescale), recipe=replace(RECIPE, eval_every=every))
    often, seldom = ([torch.cat(step) for step in watch.seen] for watch in watches)
    assert len(often) == 9
    assert all(torch.equal(a, b) for a, b in zip(often, seldom, strict=True))
    assert not any(torch.equal(a, b) for a, b in pairwise(often))


@pytest.mark.parametrize("rescale", [False, True])
def test_final_masks_stand_for_a_while(rescale: bool) -> None:
    model, twin = masked_network(), masked_network()
    for net in (model, twin):
        attach(net, Bernoulli(), represent=Identity(rescale), seed=3)
        with torch.no_grad():
            for layer in layers(net):
                layer.supermask.scores.copy_(torch.linspace(-1, 1, layer.weight.numel()).view_as(layer.weight))
        refresh(net)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with final_masks(model):
        for layer in layers(model):
            keep = layer.supermask.scores > 0
            assert torch.equal(layer.supermask.mask, keep)
            scale = keep.numel() / keep.sum() if rescale else 1.0
            torch.testing.assert_close(layer.supermask(layer.weight), layer.weight * keep * scale)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    refresh(model)
    refresh(twin)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True))


def test_final_masks_come_back_after_an_error_and_others_stand() -> None:
    model = masked_network()
    attach(model, Bernoulli())
    before = [layer.supermask.mask.clone() for layer in layers(model)]
    with pytest.raises(ZeroDivisionError), final_masks(model):
        raise ZeroDivisionError
    assert all(torch.equal(a, layer.supermask.mask) for a, layer in zip(before, layers(model), strict=True))
    other = masked_network()
    attach(other, TopK(0.5))
    with torch.no_grad():
        for layer in layers(other):
            layer.supermask.scores.neg_().add_(layer.supermask.scores.abs().max())
    stale = other(inputs())
    with final_masks(other):
        assert torch.equal(other(inputs()), stale)  # no refresh has been asked for


# -- the hook that reports another network


class Average(Hook):
    """Reports the mean of the weights so far instead of the last ones, as an exponential moving average would."""

    def __init__(self) -> None:
        self.sum: list[Tensor] = []
        self.count = 0

    def after_step(self, loop: Loop) -> None:
        self.sum = self.sum or [torch.zeros_like(p) for p in loop.model.parameters()]
        self.count += 1
        for total, p in zip(self.sum, loop.model.parameters(), strict=True):
            total += p.detach()

    @torch.no_grad()
    def before_eval(self, loop: Loop) -> Any:
        parameters = list(loop.model.parameters())
        before = [p.clone() for p in parameters]
        for p, total in zip(parameters, self.sum, strict=False):
            p.copy_(total / self.count)

        @torch.no_grad()
        def put_back() -> None:
            for p, old in zip(parameters, before, strict=True):
                p.copy_(old)

        return put_back


def test_what_a_hook_reports_is_validated_tested_and_kept() -> None:
    data = same_everywhere()
    recipe = replace(RECIPE, length="8it")
    averaged, plain = network(), network()
    setup = TrainingSetup(data, recipe, make_fabric("cpu"))
    trial = run_trial(setup, averaged, seed=0, label="", hooks=[Average()])
    run_trial(setup, plain, seed=0, label="")
    assert trial.result.val_loss == trial.result.test_loss == trial.result.train_loss_eval
    assert trial.trained is not None
    states = [train_alone(replace(recipe, length=f"{n}it"), data) for n in range(1, 9)]
    mean = sum(state["6.weight"] for state in states) / 8
    torch.testing.assert_close(trial.trained.state["6.weight"], mean)
    assert not torch.equal(averaged[6].weight, plain[6].weight)


def train_alone(recipe: Recipe, data: Splits) -> dict[str, Tensor]:
    return train(network(), data, recipe, seed=0).state


# -- the training split in evaluation mode


def noisy() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.BatchNorm1d(16), nn.Dropout(0.9), nn.Linear(16, 2))


def trial_of(data: Splits, recipe: Recipe = RECIPE) -> Any:
    return run_trial(TrainingSetup(data, recipe, make_fabric("cpu")), noisy(), seed=0, label="")


@pytest.mark.parametrize(("size", "count"), [("val", 12), ("all", 40), (7, 7), ("9", 9), (40, 40), (1000, 40)])
def test_training_figures_in_evaluation_mode_are_of_a_fixed_part_of_the_split(size: Any, count: int) -> None:
    data, recipe = splits(), replace(RECIPE, train_eval=size)
    trial = trial_of(data, recipe)
    part = evaluated_part(data, recipe.train_eval)
    assert len(part) == trial.result.train_examples_eval == count
    model = noisy()
    model.load_state_dict(trial.trained.state)
    score = evaluate(model, evaluation_feed(data, part, torch.device("cpu"), False), data.task)
    assert (trial.result.train_loss_eval, trial.result.train_accuracy_eval) == (score.loss, score.metric)
    assert torch.equal(part.x, evaluated_part(data, recipe.train_eval).x)
    assert len(part.x.unique(dim=0)) == count  # no example twice
    examples = {tuple(x.flatten().tolist()) for x in data.train.x}
    assert all(tuple(x.flatten().tolist()) in examples for x in part.x)


def test_the_running_mean_and_the_training_stay_as_they_are() -> None:
    first, other = (trial_of(splits(), replace(RECIPE, lr=0.02, train_eval=size)) for size in ("val", "all"))
    assert [repr(replace(row, seconds=0)) for row in first.history] == [
        repr(replace(row, seconds=0)) for row in other.history
    ]
    assert first.result.train_loss == first.history[-1].train_loss
    assert first.result.train_loss > 1.1 * first.result.train_loss_eval  # nine tenths dropped out
    for name, value in first.trained.state.items():
        assert torch.equal(value, other.trained.state[name])


def test_the_evaluated_part_is_not_augmented() -> None:
    plain = splits()
    shifted = replace(plain, augment=Augment(crop=2, flip=True))
    setup = [TrainingSetup(data, replace(RECIPE, lr=0.0), make_fabric("cpu")) for data in (plain, shifted)]
    first, other = (run_trial(b, network(), seed=0, label="").result for b in setup)
    assert first.train_loss != other.train_loss
    torch.manual_seed(0)
    dataset = Fickle(plain.train)
    streamed = replace(plain, train=Streamed(dataset, Fickle(plain.train, noise=0.0)))
    for size in ("all", 9):
        a, b = evaluated_part(plain, size), evaluated_part(streamed, size)
        x, y = next(evaluation_feed(streamed, b, torch.device("cpu"), False).sweep())
        assert torch.equal(x, a.x)
        assert torch.equal(y, a.y)


class Fickle(Dataset[Any]):
    """The examples of a split, with noise."""

    def __init__(self, split: Any, noise: float = 1.0) -> None:
        self.split, self.noise = split, noise

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Any:
        x = self.split.x[index]
        return x + self.noise * torch.randn(x.shape), self.split.y[index]


@pytest.mark.parametrize("size", [0, -1, "most", True, 2.5, None])
def test_other_sizes_are_refused(size: Any) -> None:
    allowed = '"val", "all" or a number of examples' if isinstance(size, str) or size in (0, -1) else "a whole number"
    with pytest.raises(TombolaError, match=f"train_eval is .*{allowed}"):
        Recipe(train_eval=size)
