"""The methods of learned masks end to end: what learns, what rests, what is recorded; killed and resumed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from supermask_searches import RECIPE, SMALL, levels_of, network, splits, state_of
from tombola.errors import TombolaError
from tombola.levels import learn as mask_loop
from tombola.mask import Mask
from tombola.methods.edge_popup import EdgePopup
from tombola.methods.joint import Joint
from tombola.methods.learned_mask import LearnedMask
from tombola.models.spec import ModelSpec
from tombola.search.find import run_find
from tombola.search.request import make_request
from tombola.supermask import rules
from tombola.supermask.layers import layers, plain_state
from tombola.supermask.masks import read
from tombola.train import trial
from tombola.train.hooks import Hook
from tombola.train.recipe import Recipe
from tombola.train.state import Loop


class Watch(Hook):
    """The plain state and the scores before every step and at the end."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def before_step(self, loop: Loop) -> None:
        own = {f"score of {layer.name}": layer.supermask.scores for layer in layers(loop.model)}
        self.seen.append({name: value.detach().clone() for name, value in {**plain_state(loop.model), **own}.items()})

    def after_step(self, loop: Loop) -> None:
        if loop.step == loop.total:
            self.before_step(loop)

    def moved(self) -> list[tuple[bool, bool]]:
        """For every step: whether any score, and any parameter besides, moved."""
        names = [name for name in self.seen[0] if "running" not in name and "tracked" not in name]
        steps = []
        for before, after in zip(self.seen, self.seen[1:], strict=False):
            changed = {name for name in names if not torch.equal(before[name], after[name])}
            scores = {name for name in changed if name.startswith("score")}
            assert scores in (set(), {name for name in names if name.startswith("score")})
            steps.append((bool(scores), bool(changed - scores)))
        return steps


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Watches the next search."""
    watching = Watch()
    real = mask_loop.train_trial

    def spied(*args: Any, hooks: Any = (), **more: Any) -> Any:
        return real(*args, hooks=(*hooks, watching), **more)

    monkeypatch.setattr(mask_loop, "train_trial", spied)
    return watching


# -- edge-popup


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_edge_popup_learns_scores_and_nothing_else(scope: str, watch: Watch) -> None:
    (level,) = levels_of(EdgePopup(density=0.4, scope=scope))
    assert watch.moved() == [(True, False)] * 8
    assert (level.level, level.result.steps) == (1, 8)
    counts = level.ticket.mask.counts()
    if scope == "layer":
        assert counts == {"0.weight": (14, 36), "4.weight": (461, 1152), "6.weight": (6, 16)}
    assert level.ticket.mask.kept == (round(0.4 * 1204) if scope == "global" else 481)
    start, state = network().state_dict(), state_of(level.ticket)
    for name in ("0.bias", "1.weight", "1.bias", "4.bias", "6.bias"):
        assert torch.equal(state[name], start[name])
    for name, kept in level.ticket.mask.items():
        assert torch.equal(state[name], start[name] * kept)
    rows = level.result.utilisation
    assert [row.step for row in rows] == [0, 4, 8]
    assert rows[-1].densities == pytest.approx(level.ticket.mask.densities())


def test_networks_by_name_are_signed_constants_and_tiny_tickets() -> None:
    (level,) = levels_of(EdgePopup(density=0.5), SMALL)
    ticket = level.ticket
    assert (ticket.origin.kind, ticket.origin.init, ticket.trained, dict(ticket.state)) == (
        "seeded",
        "signed_constant",
        None,
        {},
    )
    weight = ticket.origin.state_dict()["fc1.weight"]
    assert weight.abs().unique().tolist() == pytest.approx([math.sqrt(2 / 36)])
    (other,) = levels_of(EdgePopup(density=0.5), ModelSpec("mlp", {"hidden": [12, 8]}, init="kaiming_normal"))
    assert other.ticket.origin.init == "kaiming_normal"


@pytest.mark.parametrize(("pattern", "density"), [("element", 0.25), ("1:4", 0.25), ("1:4", 0.5)])
def test_scale_fan_makes_sparse_layers_weights_larger(pattern: str, density: float) -> None:
    (level,) = levels_of(EdgePopup(density=density, pattern=pattern, scale_fan=True), SMALL)
    weight = level.ticket.origin.state_dict()["fc1.weight"]
    assert weight.abs().unique().tolist() == pytest.approx([math.sqrt(2 / (36 * 0.25))])
    assert level.ticket.mask["fc1.weight"].float().mean() == pytest.approx(0.25)


def test_norms_are_trained_on_request_and_biases_are_not() -> None:
    (level,) = levels_of(EdgePopup(density=0.4, train_norms=True))
    assert {"1.weight", "1.bias"} <= set(level.ticket.state)
    assert not {"0.bias", "4.bias", "6.bias"} & set(level.ticket.state)


def test_the_density_falls_and_ends_exactly() -> None:
    recipe = Recipe(length="8it", batch_size=8, eval_every="2it")
    (level,) = levels_of(EdgePopup(density=0.1, anneal="8it"), recipe=recipe)
    falling = [row.densities["4.weight"] for row in level.result.utilisation]
    expected = [round(1152 * (0.1 + 0.4 * (1 - step / 8) ** 3)) / 1152 for step in (0, 2, 4, 6, 8)]
    assert falling == expected
    assert level.ticket.mask.counts()["4.weight"] == (115, 1152)


def test_the_best_state_is_tested_under_its_own_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    tested: list[dict[str, float]] = []
    real = trial.evaluate

    def spied(model: nn.Module, *rest: Any) -> Any:
        tested.append(read(model).densities())
        return real(model, *rest)

    monkeypatch.setattr(trial, "evaluate", spied)
    worse = Recipe(length="8it", batch_size=8, lr=1e4, eval_every="4it")
    (level,) = levels_of(EdgePopup(density=0.1, anneal="8it"), recipe=worse)
    rows = {row.step: row.densities for row in level.result.utilisation}
    assert tested == [rows[8], rows[level.result.early_stop_iteration], rows[8]]  # training, best and final test
    assert tested[0] != tested[1]


def test_whole_layers_are_kept() -> None:
    (level,) = levels_of(EdgePopup(density=0.2, scope="global", whole=["6.*"]))
    counts = level.ticket.mask.counts()
    assert counts["6.weight"] == (16, 16)
    assert counts["0.weight"][0] + counts["4.weight"][0] == round(0.2 * 1188)


@pytest.mark.parametrize("more", [{"precision": "bf16-mixed"}, {"accumulate": 4}, {"clip_norm": 0.1}], ids=str)
def test_other_recipes_refresh_once_per_step(more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = rules.select
    monkeypatch.setattr(rules, "select", lambda *args, **rest: calls.append(1) or real(*args, **rest))
    (level,) = levels_of(EdgePopup(density=0.4, scope="global"), recipe=replace(RECIPE, **more))
    assert len(calls) == 1 + 8  # when attached, and after each step; none for the evaluations
    assert level.ticket.trained is None


# -- learned masks


@pytest.mark.parametrize("weights", ["identity", "signed_constant"])
@pytest.mark.parametrize("rescale", [False, True])
def test_drawn_masks(weights: str, rescale: bool, watch: Watch) -> None:
    (level,) = levels_of(LearnedMask(weights=weights, rescale=rescale, samples=3))
    assert watch.moved() == [(True, False)] * 8
    assert level.result.samples == 3
    assert 0 <= level.result.test_accuracy_sampled <= 1
    kept = {n: watch.seen[-1][f"score of {n}"] > 0 for n in level.ticket.mask}
    assert level.ticket.mask == Mask(kept)  # the p > 0.5 mask, not a drawn one
    state, start = state_of(level.ticket), network().state_dict()
    for name, keep in level.ticket.mask.items():
        base = start[name] if weights == "identity" else start[name].sign() * start[name].std(correction=0)
        expected = base * keep * (keep.numel() / keep.sum() if rescale else 1)
        torch.testing.assert_close(state[name], expected)


def test_the_mean_over_drawn_masks_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    (level,) = levels_of(LearnedMask(logit=50.0, samples=2), recipe=Recipe(length="1it", batch_size=8, lr=0.0))
    assert level.ticket.density == 1.0
    assert level.result.test_accuracy_sampled == level.result.test_accuracy
    (other,) = levels_of(LearnedMask(rule="threshold"))
    assert other.result.test_accuracy_sampled is None


def test_thresholded_masks_cover_biases() -> None:
    (level,) = levels_of(LearnedMask(rule="threshold", biases=True, train_norms=True, mask_decay=0.05))
    assert list(level.ticket.mask) == ["0.weight", "0.bias", "4.weight", "4.bias", "6.weight", "6.bias"]
    assert level.result.utilisation[0].densities["0.bias"] == 1.0
    assert {"1.weight", "1.bias"} <= set(level.ticket.state)


def test_mask_decay_makes_masks_sparser() -> None:
    fast = Recipe(length="8it", batch_size=8, lr=100.0, momentum=0.0)
    (sparse,) = levels_of(LearnedMask(rule="threshold", mask_decay=0.003), recipe=fast)
    (dense,) = levels_of(LearnedMask(rule="threshold"), recipe=fast)
    assert 0 < sparse.ticket.density < dense.ticket.density < 1


@pytest.mark.parametrize("weights", ["identity", "signed_constant"])
def test_finetuning_is_a_second_level_under_the_frozen_mask(weights: str) -> None:
    method = LearnedMask(rule="threshold", weights=weights, mask_decay=0.3, finetune="4it", finetune_lr=0.01)
    first, second = levels_of(method)
    assert (first.level, second.level, first.result.steps, second.result.steps) == (1, 2, 8, 4)
    assert second.ticket.mask == first.ticket.mask
    assert first.ticket.trained is None
    before, after = state_of(first.ticket), state_of(second.ticket)
    for name, kept in second.ticket.mask.items():
        assert bool((after[name][~kept] == 0).all())
        assert not torch.equal(after[name], before[name])
    assert not torch.equal(after["4.bias"], before["4.bias"])
    assert all(
        torch.equal(v, before[n]) for n, v in state_of(second.ticket, "origin").items() if n in first.ticket.mask
    )


def test_finetuning_leaves_what_the_user_has_frozen() -> None:
    model = network()
    model[4].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _, second = levels_of(LearnedMask(rule="threshold", finetune="4it", finetune_lr=0.1), model)
    after = state_of(second.ticket)
    assert torch.equal(after["4.bias"], before["4.bias"])
    assert torch.equal(after["4.weight"], before["4.weight"] * second.ticket.mask["4.weight"])
    assert not torch.equal(after["6.bias"], before["6.bias"])


# -- joint


PHASES: list[tuple[dict[str, Any], list[tuple[bool, bool]]]] = [
    ({}, [(True, True)] * 8),
    ({"scores_first": "3it"}, [(True, False)] * 3 + [(True, True)] * 5),
    ({"weights_first": "3it"}, [(False, True)] * 3 + [(True, True)] * 5),
    ({"freeze_scores": 0.25}, [(True, True)] * 6 + [(False, True)] * 2),
    ({"freeze_scores": 1.0}, [(False, True)] * 8),
    ({"scores_first": "2it", "freeze_scores": 0.5}, [(True, False)] * 2 + [(True, True)] * 2 + [(False, True)] * 4),
    ({"scores_first": "4it", "freeze_scores": 0.5}, [(True, False)] * 4 + [(False, True)] * 4),
]


@pytest.mark.parametrize(("more", "expected"), PHASES, ids=[str(more) for more, _ in PHASES])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_rests_does_not_move(
    more: dict[str, Any], expected: list[tuple[bool, bool]], optimizer: str, watch: Watch
) -> None:
    recipe = Recipe(length="8it", batch_size=8, lr=0.01, optimizer=optimizer, momentum=0.9, weight_decay=0.1)
    (level,) = levels_of(Joint(density=0.4, **more), recipe=recipe)
    assert watch.moved() == expected
    assert level.ticket.mask.counts() == {"0.weight": (14, 36), "4.weight": (461, 1152), "6.weight": (6, 16)}
    assert Mask.from_zeros(level.ticket.build(model=network())) == level.ticket.mask


@pytest.mark.parametrize("rule", ["masked", "dense", "sr-ste"])
def test_pruned_weights_learn_by_their_rule(rule: str, watch: Watch) -> None:
    recipe = Recipe(length="8it", batch_size=8, lr=0.1, eval_every="4it")
    levels_of(Joint(density=0.4, weight_gradient=rule, freeze_scores=1.0, sr_ste_decay=0.1), recipe=recipe)
    (level,) = levels_of(Joint(density=0.4, weight_gradient=rule, freeze_scores=1.0), recipe=recipe)
    pruned = ~level.ticket.mask["4.weight"]
    first, last = watch.seen[0]["4.weight"][pruned], watch.seen[8]["4.weight"][pruned]
    assert torch.equal(first, last) == (rule == "masked")


def test_scores_have_settings_of_their_own(watch: Watch) -> None:
    levels_of(Joint(score_lr=0.0))
    assert watch.moved() == [(False, True)] * 8
    watch.seen.clear()
    still = Recipe(length="4it", batch_size=8, lr=0.0)
    levels_of(Joint(score_lr=0.1, score_weight_decay=0.0, score_momentum=0.5), recipe=still)
    assert watch.moved() == [(True, False)] * 4


# -- settings that cannot be


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EdgePopup(density=0.0), "0, 1"),
        (lambda: EdgePopup(density=1.5), "0, 1"),
        (lambda: EdgePopup(density=0.5, anneal="2it"), "falls from 0.5"),
        (lambda: EdgePopup(density=0.25, pattern="1:4", anneal="2it"), "1:4"),
        (lambda: LearnedMask(rule="round"), "allowed: bernoulli, threshold"),
        (lambda: LearnedMask(weights="binary"), "allowed: identity, signed_constant"),
        (lambda: LearnedMask(rule="threshold", logit=0.0), "above 0"),
        (lambda: LearnedMask(logit=math.nan), "finite"),
        (lambda: LearnedMask(samples=0), "between 1 and"),
        (lambda: LearnedMask(mask_decay=-1.0), "at least 0"),
        (lambda: Joint(weight_gradient="true"), "masked, dense, sr-ste"),
        (lambda: Joint(freeze_scores=1.5), "[0, 1]"),
        (lambda: Joint(scores_first="1it", weights_first="1it"), "only one"),
        (lambda: Joint(score_lr=math.inf), "at least 0"),
        (lambda: EdgePopup(scope="everywhere"), "allowed: layer, global"),
    ],
)
def test_wrong_settings_are_one_clear_line(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(TombolaError) as caught:
        make()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (EdgePopup(density=0.01), "6.weight"),
        (EdgePopup(scores="gaussian"), "allowed"),
        (EdgePopup(pattern="2:5", density=0.3), "0.4"),
        (EdgePopup(include=["*.gamma"]), "gamma"),
        (EdgePopup(exclude=["*"]), "no prunable weight"),
        (Joint(scores_first="8it"), "leaves nothing"),
        (Joint(weights_first="1ep4it"), "leaves nothing"),
        (Joint(scores_first="5it", freeze_scores=0.5), "freeze_scores"),
        (Joint(scores_first="2it", freeze_scores=1.0), "freeze_scores"),
        (Joint(weights_first="4it", freeze_scores=0.5), "freeze_scores"),
        (LearnedMask(exclude=["*"]), "no prunable weight"),
    ],
)
def test_mistakes_are_met_before_a_run_is_made(method: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(TombolaError) as caught:
        run_find(make_request(network(), splits(), method, recipe=RECIPE), tmp_path / "runs")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("runs/*"))


def test_a_mask_without_a_path_is_refused_when_it_is_found() -> None:
    with pytest.raises(TombolaError, match="no path leads") as caught:
        levels_of(LearnedMask(rule="threshold", mask_decay=1e4))
    assert "\n" not in str(caught.value)
