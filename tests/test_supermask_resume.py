"""Searches for learned masks give the same bytes again, and after a kill, at whatever level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from supermask_searches import RECIPE, SMALL, levels_of, network, splits
from tombola.levels import learn as mask_loop
from tombola.methods.edge_popup import EdgePopup
from tombola.methods.joint import Joint
from tombola.methods.learned_mask import LearnedMask
from tombola.search.find import run_find
from tombola.search.request import make_request
from tombola.train.hooks import Hook
from tombola.train.options import Options
from tombola.train.recipe import Recipe
from tombola.train.state import Loop

# -- the same bytes


METHODS = [
    EdgePopup(density=0.3, scope="global", train_norms=True),
    EdgePopup(density=0.1, anneal="6it"),
    LearnedMask(rescale=True),
    LearnedMask(rule="threshold", mask_decay=0.1, finetune="6it", finetune_lr=0.05),
    Joint(density=0.4, weights_first="2it", freeze_scores=0.3, score_lr=0.3),
    Joint(density=0.4, scores_first="3it", weight_gradient="sr-ste"),
]


class Killed(Exception):
    """What a kill looks like from within."""


class KillAt(Hook):
    """Raises before a step; the last checkpoint is that of step 16."""

    def __init__(self, step: int) -> None:
        self.step = step

    def before_step(self, loop: Loop) -> None:
        if loop.step == self.step:
            raise Killed


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_same_seed_gives_the_same_bytes_and_another_one_others(method: Any) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = levels_of(method, SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = levels_of(method, SMALL), levels_of(method, SMALL, seed=1)
    assert [level.ticket.to_bytes() for level in first] == [level.ticket.to_bytes() for level in again]
    assert first[-1].ticket != other[-1].ticket


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_killed_search_ends_bit_for_bit_as_if_never_killed(
    method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(length="24it", batch_size=8, lr=0.05, momentum=0.9, eval_every="6it")
    request = make_request(
        network(), splits(), method, recipe=recipe, options=Options(checkpoint_seconds=0, progress=False)
    )
    whole = run_find(request, tmp_path / "whole")
    real = mask_loop.train_trial
    with monkeypatch.context() as patched:
        patched.setattr(
            mask_loop,
            "train_trial",
            lambda *args, hooks=(), **more: real(*args, hooks=(*hooks, KillAt(19)), **more),
        )
        with pytest.raises(Killed):
            run_find(request, tmp_path / "cut")
    assert list(tmp_path.rglob("cut/**/checkpoint.pt"))
    cut = run_find(request, tmp_path / "cut")
    assert Path(cut.ticket).read_bytes() == Path(whole.ticket).read_bytes()
    for key in ("utilisation", "test_accuracy", "test_accuracy_early_stop", "test_accuracy_sampled", "val_loss"):
        ours, theirs = (getattr(result.replicates[0].levels[0], key) for result in (cut, whole))
        assert ours == theirs


def test_a_search_killed_while_it_finetunes_goes_on_from_its_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = LearnedMask(rule="threshold", mask_decay=0.003, finetune="20it", finetune_lr=0.05)
    recipe = Recipe(length="8it", batch_size=8, lr=100.0, momentum=0.0, eval_every="4it")
    options = Options(checkpoint_seconds=0, progress=False)
    request = make_request(network(), splits(), method, recipe=recipe, options=options)
    whole, real = run_find(request, tmp_path / "whole"), mask_loop.train_trial

    def killed(*args: Any, hooks: Any = (), **more: Any) -> Any:
        return real(*args, hooks=(*hooks, KillAt(18)) if more["label"] == "weights" else hooks, **more)

    with monkeypatch.context() as patched:
        patched.setattr(mask_loop, "train_trial", killed)
        with pytest.raises(Killed):
            run_find(request, tmp_path / "cut")
    cut = run_find(request, tmp_path / "cut")
    assert Path(cut.ticket).read_bytes() == Path(whole.ticket).read_bytes()
    assert 0 < cut.density < 1
    first, second = cut.replicates[0].levels
    assert (first.level, second.level, second.steps) == (1, 2, 20)


def test_a_finished_run_is_found_again(tmp_path: Path) -> None:
    request = make_request(network(), splits(), METHODS[3], recipe=RECIPE)
    first = run_find(request, tmp_path)
    assert [level.level for level in first.replicates[0].levels] == [1, 2]
    assert first.dense_test_accuracy is None
    assert run_find(request, tmp_path) == first.replace(reused=True)
