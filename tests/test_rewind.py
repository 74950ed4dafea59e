"""Where pruning rewinds to, as text and in iterations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import tombola as tb
from supermask_searches import levels_of, network, splits
from tombola.errors import TombolaError
from tombola.levels.rewind import Rewind
from tombola.ticket.ticket import Ticket
from tombola.train import trial as trial_module
from tombola.train.hooks import Hook
from tombola.train.length import Length
from tombola.train.moments import ClearPruned
from tombola.train.options import Options
from tombola.train.recipe import Recipe
from tombola.train.state import Loop


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("init", Rewind()),
        ("0it", Rewind()),
        ("500it", Rewind(Length.parse("500it"))),
        ("2ep", Rewind(Length.parse("2ep"))),
        ("lr", Rewind(weights=False)),
        ("lr:500it", Rewind(Length.parse("500it"), weights=False)),
    ],
)
def test_rewinds_are_read(text: str, expected: Rewind) -> None:
    assert Rewind.parse(text) == expected


@pytest.mark.parametrize("text", ["", "start", "lr:", "lr:init", "init:2ep", "lr:lr:2ep", "500", "LR", "2ep:lr"])
def test_what_is_no_rewind_is_one_line_with_what_is_allowed(text: str) -> None:
    with pytest.raises(TombolaError, match=r'"init", a step such as "500it" or "2ep", or "lr"') as caught:
        Rewind.parse(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rewind_point_lies_before_the_end() -> None:
    assert Rewind().step(10, 1) == 0
    assert Rewind.parse("2ep").step(10, 21) == 20
    assert Rewind.parse("lr:19it").step(10, 20) == 19
    with pytest.raises(TombolaError, match="rewind is to iteration 20, but training has 20"):
        Rewind.parse("2ep").step(10, 20)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_every_level_begins_with_the_optimiser_of_the_rewind_point(optimizer: str, tmp_path: Path) -> None:
    """Levels in memory share one snapshot: what one trains must not reach the next, as it does not through files."""
    method = tb.IterativePruning(density=0.4, rounds=2, rewind="3it")
    recipe = Recipe(length="8it", batch_size=8, lr=0.05, momentum=0.9, optimizer=optimizer)
    options = Options(progress=False)
    kept, written = (
        tb.find(network(), splits(), method, recipe=recipe, options=options, out=out) for out in (None, tmp_path)
    )
    assert kept == written


class SeeMomentum(Hook):
    """Keeps the momentum that iteration 4 of each training begins with, by the weights' names."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def after_backward(self, loop: Loop) -> None:
        if loop.step == 3:
            state, weights = loop.optimizer.state, loop.model.named_parameters()
            self.seen.append({name: state[weight]["momentum_buffer"].clone() for name, weight in weights})


def test_what_an_optimiser_remembers_of_pruned_weights_is_cleared_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = tb.IterativePruning(density=0.4, rounds=1, rewind="3it")
    recipe = Recipe(length="8it", batch_size=8, lr=0.05, momentum=0.9, optimizer="sgd")
    real = trial_module.train

    def searched() -> tuple[Ticket, dict[str, Tensor]]:
        see = SeeMomentum()
        monkeypatch.setattr(trial_module, "train", lambda *args, hooks=(), **kw: real(*args, hooks=(*hooks, see), **kw))
        *_, last = levels_of(method, recipe=recipe)
        return last.ticket, see.seen[-1]

    ticket, cleared = searched()
    monkeypatch.setattr(ClearPruned, "on_start", Hook.on_start)
    same, left = searched()
    assert ticket.digest == same.digest
    for name, keep in ticket.mask.items():
        assert left[name][~keep].any()
        assert not cleared[name][~keep].any()
        assert torch.equal(cleared[name][keep], left[name][keep])
    assert torch.equal(cleared["0.bias"], left["0.bias"])
