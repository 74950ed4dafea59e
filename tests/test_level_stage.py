"""Levels of methods written elsewhere: a dense level, one mask and what trains under it, found again when finished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

import tombola as tb
from supermask_searches import KillAt, Killed
from supermask_searches import splits as data
from tombola.errors import TombolaError
from tombola.levels import stage
from tombola.levels.search import Level, Search
from tombola.levels.stage import train_dense, train_under
from tombola.mask import Mask
from tombola.methods.base import Method
from tombola.parameters import prunable
from tombola.search.find import run_find, search
from tombola.search.request import make_request
from tombola.select.select import EmptyLayerWarning
from tombola.train.options import Options
from tombola.train.recipe import Recipe

RECIPE = Recipe(length="10it", batch_size=8, lr=0.05, momentum=0.9, eval_every="5it")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 2))


def halves(search: Search) -> Mask:
    """Of every weight the entries at even positions."""
    return Mask({n: (torch.arange(w.numel()) % 2 == 0).view_as(w) for n, w in prunable(search.network()).items()})


@dataclass(frozen=True)
class Halves(Method):
    """One mask, made once."""

    name: ClassVar[str] = "halves"
    goes_on_from_tickets: ClassVar[bool] = True
    dense: bool = False
    weights: str = "origin"
    mask: Callable[[Search], Mask] = field(default=halves, compare=False)

    def find(self, search: Search) -> list[Level]:
        before = [train_dense(search)] if self.dense else []
        level = train_under(search, lambda: self.mask(search), before[0] if before else None, weights=self.weights)
        return [*before, level]


def levels(method: Method, **more: object) -> list[Level]:
    return search(make_request(network(), data(), method, recipe=RECIPE, **more))  # type: ignore[arg-type]


def test_one_mask_is_trained_under_from_the_origin() -> None:
    (level,) = levels(Halves())
    assert level.level == level.result.level == level.ticket.provenance["level"] == 1
    assert level.ticket.density == level.result.density == 0.5
    assert (level.result.steps, level.ticket.provenance["rewound_steps"]) == (10, 0)
    ours, origin = level.ticket.build(model=network()), level.ticket.build("origin", model=network())
    for name, kept in level.ticket.mask.items():
        weight = ours.state_dict()[name]
        assert bool((weight[~kept] == 0).all())
        assert not torch.equal(weight, origin.state_dict()[name])
        assert torch.equal(origin.state_dict()[name][kept], network().state_dict()[name][kept])


def test_the_dense_level_comes_first_and_its_weights_can_be_gone_on_from() -> None:
    dense, rewound = levels(Halves(dense=True))
    assert (dense.level, dense.ticket.density, dense.result.is_dense) == (0, 1.0, True)
    assert rewound.level == 1
    (alone,) = levels(Halves())
    ours, theirs = (level.ticket.build(model=network()).state_dict() for level in (rewound, alone))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    _, tuned = levels(Halves(dense=True, weights="trained"))
    trained, start = dense.ticket.build(model=network()), tuned.ticket.build("origin", model=network())
    for name, kept in tuned.ticket.mask.items():
        assert torch.equal(start.state_dict()[name][kept], trained.state_dict()[name][kept])


@pytest.mark.parametrize("killed", [0, 1])
def test_what_is_finished_is_found_and_what_is_not_goes_on(
    killed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, options = Halves(dense=True), Options(checkpoint_seconds=0, progress=False)
    request = make_request(network(), data(), method, recipe=Recipe(length="30it", batch_size=8), options=options)
    whole, real = run_find(request, tmp_path / "whole"), stage.train_trial

    def cut(*args: object, label: str, **more: object) -> object:
        hooks = (KillAt(20),) if label.startswith(f"level {killed}") else ()
        return real(*args, label=label, **{**more, "hooks": hooks})  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(stage, "train_trial", cut)
        with pytest.raises(Killed):
            run_find(request, tmp_path / "cut")
    trained: list[str] = []
    monkeypatch.setattr(
        stage, "train_trial", lambda *args, label, **more: trained.append(label) or real(*args, label=label, **more)
    )
    again = run_find(request, tmp_path / "cut")
    assert len(trained) == 2 - killed
    assert Path(again.ticket).read_bytes() == Path(whole.ticket).read_bytes()


def test_masks_that_cannot_be_trained_under_say_so() -> None:
    def nothing(search: Search) -> Mask:
        return Mask({n: torch.zeros_like(w, dtype=torch.bool) for n, w in prunable(search.network()).items()})

    with pytest.warns(EmptyLayerWarning), pytest.raises(TombolaError, match="no path leads from input to output"):
        levels(Halves(mask=nothing))
    with pytest.raises(TombolaError, match="weights is 'trained'; give \"origin\""):
        levels(Halves(weights="trained"))
    start = tb.find(network(), data(), Halves(), recipe=RECIPE)
    with pytest.raises(TombolaError, match="keeps weights that the ticket to start from prunes"):
        levels(Halves(mask=lambda search: ~halves(search)), start=start)
