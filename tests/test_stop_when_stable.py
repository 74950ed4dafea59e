"""Trainings whose masks are watched: the same to the bit, ended by a stable mask, and resumed within a window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tombola as tb
from supermask_searches import KillAt, Killed, levels_of, network, splits, state_of
from tombola.errors import TombolaError
from tombola.levels import learn, prune
from tombola.levels.detector import Detector, Watching
from tombola.levels.measures import displacement, mean_correlations, mean_gradients, unlikeness
from tombola.methods.base import detector_of
from tombola.methods.binary_weights import BinaryWeights
from tombola.methods.edge_popup import EdgePopup
from tombola.methods.gem_miner import GemMiner
from tombola.methods.imp import IterativePruning
from tombola.methods.joint import Joint
from tombola.methods.learned_mask import LearnedMask
from tombola.search.find import run_find
from tombola.search.request import make_request
from tombola.train import trial
from tombola.train.options import Options
from tombola.train.recipe import Recipe
from trial_results import untimed

RECIPE = Recipe(length="40it", batch_size=8, lr=0.05, momentum=0.9, eval_every="10it")
"""Of epochs of five iterations."""
AT_ONCE = {"stop_when_stable": True, "stable_window": 2, "stable_distance": 1.0}
"""Stops when there are two distances: at iteration 10."""


# -- that a mask is read changes nothing


@pytest.mark.parametrize(
    "method",
    [
        IterativePruning(density=0.3, rounds=2, criterion="random", rewind="3it"),
        IterativePruning(density=0.3, rounds=2, criterion="grad", scope="global", rewind="lr"),
        IterativePruning(density=0.5, rounds=1, pattern="channel"),
        IterativePruning(density=0.3, rounds=2, one_shot=True, pruned_action="freeze", criterion="snip"),
        EdgePopup(density=0.3),
        LearnedMask(rescale=True),
        Joint(density=0.4, weights_first="2it"),
    ],
    ids=lambda method: f"{method.name} {getattr(method, 'criterion', '')}",
)
def test_a_search_that_is_watched_finds_the_same(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(network(), nn.Dropout(0.2))
    watched = levels_of(method, model, RECIPE)
    monkeypatch.setattr(prune, "_watch", lambda *args: None)
    monkeypatch.setattr(learn, "watch_learned_mask", lambda *args: None)
    alone = levels_of(method, model, RECIPE)
    assert [level.ticket.to_bytes() for level in watched] == [level.ticket.to_bytes() for level in alone]
    assert [untimed(level.result).replace(mask_histories=None) for level in watched] == [
        untimed(level.result) for level in alone
    ]


@contextmanager
def last_reads() -> Iterator[list[dict[str, Tensor]]]:
    """For each hook that watches a next mask, the mask that it read last."""
    read: list[dict[str, Tensor]] = []
    real = prune.watch_next_mask

    def spy(*given: Any) -> Any:
        hook, now = real(*given), {}
        read.append(now)
        inner = hook.read
        hook.read = lambda loop: now.update(inner(loop)) or now
        return hook

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(prune, "watch_next_mask", spy)
        yield read


def test_what_is_read_at_the_end_is_the_next_levels_mask() -> None:
    for method in (
        IterativePruning(density=0.3, rounds=2),
        IterativePruning(density=0.3, rounds=2, scope="global", criterion="movement", rewind="3it"),
        IterativePruning(pattern="2:4"),
    ):
        with last_reads() as read:
            levels = levels_of(method, recipe=RECIPE)
        assert len(read) == len(levels) - 1
        for given, level in zip(read, levels[1:], strict=True):
            assert tb.Mask(given) == level.ticket.mask
        for level, following in pairwise(levels):
            (history,) = level.result.mask_histories
            assert history.density == pytest.approx(following.result.density, abs=0.02)
        assert levels[-1].result.mask_histories is None


def test_one_shot_watches_the_last_mask_in_the_dense_network_alone() -> None:
    levels = levels_of(IterativePruning(density=0.3, rounds=2, one_shot=True, **AT_ONCE), recipe=RECIPE)
    assert [level.result.steps for level in levels] == [10, 40, 40]
    (history,) = levels[0].result.mask_histories
    assert history.density == pytest.approx(0.3, abs=1e-3)
    assert [level.result.mask_histories for level in levels[1:]] == [None, None]


@pytest.mark.parametrize("action", ["freeze", "train"])
@pytest.mark.parametrize("criterion", ["snip", "grad", "magnitude"])
def test_what_is_read_at_the_end_is_the_next_mask_under_pruned_values(action: str, criterion: str) -> None:
    with last_reads() as read:
        method = IterativePruning(density=0.2, rounds=3, criterion=criterion, pruned_action=action, rewind="3it")
        levels = levels_of(method, recipe=RECIPE)
    for given, level in zip(read, levels[1:], strict=True):
        assert tb.Mask(given) == level.ticket.mask


def test_every_method_with_masks_records_them() -> None:
    for method in (EdgePopup(density=0.3), LearnedMask(), Joint(), GemMiner(density=0.3, freeze_every="10it")):
        (history,) = levels_of(method, recipe=RECIPE)[0].result.mask_histories
        assert history.steps == tuple(range(0, 41, 5))
        assert (history.unit, history.detector, history.threshold, history.planned) == ("weights", "mask", 0.1, 40)
        assert history.density == method.density_of_masks()
        assert any(history.distances[1:])
    assert levels_of(BinaryWeights(), recipe=RECIPE)[0].result.mask_histories is None


# -- a stable mask ends a training


def test_levels_end_early_and_their_masks_are_exact() -> None:
    levels = levels_of(IterativePruning(density=0.2, rounds=3, rewind="3it", **AT_ONCE), recipe=RECIPE)
    assert [level.result.steps for level in levels] == [15, 10, 10, 40]
    assert [level.result.stopped for level in levels] == [
        "mask stable at iteration 15",
        "mask stable at iteration 10",
        "mask stable at iteration 10",
        None,
    ]
    assert levels[0].result.mask_histories[0].steps == (0, 5, 10, 15)  # nothing counts before the point to rewind to
    assert levels[1].result.mask_histories[0].steps == (3, 5, 10)
    mask = levels[-1].ticket.mask
    assert mask.kept == round(0.2 * mask.total)
    for level, earlier in zip(levels[1:], levels, strict=False):
        assert level.ticket.mask.nested_in(earlier.ticket.mask)
    assert all(bool((state_of(levels[-1].ticket)[name][~keep] == 0).all()) for name, keep in mask.items())


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_search_for_a_mask_ends_early_and_its_density_is_exact(scope: str) -> None:
    (level,) = levels_of(EdgePopup(density=0.3, scope=scope, **AT_ONCE), recipe=RECIPE)
    assert (level.result.steps, level.result.stopped) == (10, "mask stable at iteration 10")
    (history,) = level.result.mask_histories
    assert (history.steps, history.emerged, history.planned) == ((0, 5, 10), 10, 40)
    mask = level.ticket.mask
    wanted = mask.total if scope == "global" else None
    kept = [round(0.3 * total) for _, total in mask.counts().values()]
    assert mask.kept == (round(0.3 * wanted) if wanted else sum(kept))


def test_a_density_that_falls_has_fallen_before_the_mask_counts() -> None:
    (level,) = levels_of(EdgePopup(density=0.1, anneal="20it", **AT_ONCE), recipe=RECIPE)
    assert level.result.steps == 30
    assert level.result.mask_histories[0].emerged == 30
    (level,) = levels_of(Joint(density=0.3, weights_first="10it", **AT_ONCE), recipe=RECIPE)
    assert level.result.steps == 20
    late = GemMiner(density=0.3, freeze_every="12it", exact=False, stop_when_stable=True, stable_window=1)
    (level,) = levels_of(replace(late, stable_distance=1.0), recipe=Recipe(**{**vars(RECIPE), "length": "60it"}))
    assert level.result.steps == 55  # the last freezing is at 48


@pytest.mark.parametrize("detector", ["displacement", "correlation", "gradient"])
def test_every_detector_ends_levels_of_pruning(detector: str) -> None:
    method = IterativePruning(density=0.3, rounds=2, stop_when_stable=True, stable_distance=1e6, detector=detector)
    levels = levels_of(method, recipe=RECIPE)
    first = levels[0].result.mask_histories[0]
    second = levels[1].result.mask_histories[0]
    if detector == "displacement":
        assert [level.result.steps for level in levels] == [5, 5, 40]
        assert first.signal == (None, 1.0)
    else:
        assert [level.result.steps for level in levels] == [40, 5, 40]
        assert (first.detector, first.emerged) == (None, None)
        assert (second.detector, second.threshold, second.emerged) == (detector, 1e6, 5)
        assert second.signal[1] > 0


def test_displacement_ends_a_search_for_a_mask() -> None:
    options = {"detector": "displacement", "stop_when_stable": True, "stable_distance": 2.0}
    assert levels_of(EdgePopup(density=0.3, **options), recipe=RECIPE)[0].result.steps == 5


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (IterativePruning(levels=0, stop_when_stable=True), "no level can end earlier: the last one draws no further"),
        (
            IterativePruning(density=0.3, rounds=1, stop_when_stable=True, detector="correlation"),
            "compares with the dense network, which level 0 trains; leave it out, or ask for more levels",
        ),
        (
            IterativePruning(density=0.3, one_shot=True, stop_when_stable=True, detector="gradient"),
            "masks are drawn from level 0 alone, and detector gradient compares .* more levels, without one_shot",
        ),
        (GemMiner(stop_when_stable=True), "mask of gem-miner becomes what it is only .* or set exact to false"),
        (Joint(stop_when_stable=True, freeze_scores=0.5), "mask of joint becomes what .* or set freeze_scores to 0"),
        (BinaryWeights(stop_when_stable=True), "mask of binary-weights becomes what it is only"),
        (EdgePopup(density=0.2, anneal="40it", stop_when_stable=True), "only with the last of 40 iterations here"),
    ],
)
def test_where_nothing_can_end_earlier_that_is_said_first(method: Any, says: str) -> None:
    with pytest.raises(TombolaError, match=says):
        method.check(network(), 5, 40)


def test_options_are_checked_when_they_are_given() -> None:
    assert detector_of(EdgePopup()) == Detector()
    assert EdgePopup(stop_when_stable=True).watching(7) == Watching(Detector(), True, 7)
    with pytest.raises(TombolaError, match=r"unknown detector 'correlation'.*allowed: mask, displacement"):
        EdgePopup(detector="correlation")
    with pytest.raises(TombolaError, match="stable_window is 0"):
        IterativePruning(stable_window=0)
    with pytest.raises(TombolaError, match="the density, which is an outcome here; give stable_distance"):
        LearnedMask(detector="displacement")
    assert LearnedMask(detector="displacement", stable_distance=0.2)
    with pytest.raises(TombolaError, match="give stable_distance"):
        GemMiner(detector="displacement")


@pytest.mark.parametrize(
    "method",
    [
        EdgePopup(density=0.3, stop_when_stable=True, stable_window=4, stable_distance=1.0),
        EdgePopup(density=0.3, stop_when_stable=True, stable_distance=1.0, stable_compare="newest-vs-all"),
        EdgePopup(density=0.3, stop_when_stable=True, detector="displacement", stable_distance=0.9),
        IterativePruning(density=0.3, rounds=1, stop_when_stable=True, stable_window=4, stable_distance=1.0),
    ],
    ids=["consecutive", "newest-vs-all", "displacement", "imp"],
)
def test_a_search_killed_within_a_window_ends_as_if_never_killed(
    method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, real = Recipe(**{**vars(RECIPE), "length": "80it"}), trial.train

    def run(out: str) -> Any:
        options = Options(checkpoint_seconds=0, progress=False)
        return run_find(make_request(network(), splits(), method, recipe=recipe, options=options), tmp_path / out)

    whole = run("whole")
    first = whole.replicates[0].levels[0]
    assert 16 < first.steps < 80
    with monkeypatch.context() as patched:
        patched.setattr(trial, "train", lambda *a, hooks=(), **more: real(*a, hooks=(*hooks, KillAt(17)), **more))
        with pytest.raises(Killed):
            run("killed")
    assert list((tmp_path / "killed").rglob("checkpoint.pt"))
    resumed = run("killed")
    assert [untimed(level) for level in resumed.replicates[0].levels] == [
        untimed(level) for level in whole.replicates[0].levels
    ]
    assert Path(resumed.ticket).read_bytes() == Path(whole.ticket).read_bytes()


# -- what detectors measure


def test_displacement_by_hand() -> None:
    weights = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0])}
    memory: dict[str, Tensor] = {}
    measure = displacement(lambda loop: weights)
    assert measure(SimpleNamespace(), memory) == 0.0
    weights["a"] = torch.tensor([3.0, 3.0])
    weights["b"] = torch.tensor([0.0])
    assert measure(SimpleNamespace(), memory) == pytest.approx(1.0)  # 5 of 5
    assert memory["b"].item() == 4.0


def test_mean_correlations_are_those_of_all_pairs() -> None:
    layers = nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4), nn.Dropout()
    model, x = nn.Sequential(*layers), torch.randn(50, 1, 3, 3)
    mask = {name: torch.ones_like(model.get_parameter(name)) for name in ("0.weight", "4.weight")}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = mean_correlations(model, (x, torch.zeros(50)), F.mse_loss, mask)
    model.eval()
    first = model[0](x).detach().mean((2, 3)).double().numpy()
    second = model[:5](x).detach().double().numpy()
    pairs = np.corrcoef(np.hstack([first, second]), rowvar=False)[:3, 3:]
    assert found.tolist() == pytest.approx([pairs.mean()])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_channel_that_does_not_vary_correlates_with_nothing() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight[0] = 0
    mask = {"0.weight": torch.ones(2, 3), "1.weight": torch.ones(2, 2)}
    found = mean_correlations(model, (torch.randn(20, 3), torch.zeros(20)), F.mse_loss, mask)
    assert bool(torch.isfinite(found).all())


def test_mean_gradients_come_from_a_backward_pass() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    model[2].weight.requires_grad_(False)
    model[0].weight.grad = given = torch.ones(4, 3)
    mask = {"0.weight": torch.rand(4, 3) > 0.5, "2.weight": torch.ones(2, 4, dtype=torch.bool)}
    batch = torch.randn(8, 3), torch.arange(8) % 2
    found = mean_gradients(model, batch, F.cross_entropy, mask)
    assert bool((found > 0).all())
    assert model[0].weight.grad is given
    assert model.training
    assert model[1].training
    assert (model[2].weight.requires_grad, model[2].weight.grad) == (False, None)
    model.eval()
    model[2].weight.requires_grad_(True)
    model.zero_grad()
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    wanted = [float((model.get_parameter(name).grad * mask[name]).norm()) for name in mask]
    assert found.tolist() == pytest.approx(wanted)


def test_a_network_is_like_itself_and_unlike_another() -> None:
    dense, other = network(), network()
    with torch.no_grad():
        other[4].weight.mul_(-1)
    mask = tb.Mask.full(dense)
    for likeness in (mean_correlations, mean_gradients):
        measure = unlikeness(likeness, dense, mask, mask, splits())
        assert measure(SimpleNamespace(model=dense), {}) == 0.0
        assert measure(SimpleNamespace(model=other), {}) > 0
