"""Training up to the rewind point, and on from it under a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import tombola as tb
from supermask_searches import KillAt, Killed, network, splits
from tombola import levels
from tombola.methods.base import Method
from tombola.train import trial
from tombola.train.options import Options
from tombola.train.recipe import Recipe

RECIPE = Recipe(length="20it", batch_size=8, lr=0.05, momentum=0.9, eval_every="4it", schedule="cosine")
OPTIONS = Options(checkpoint_seconds=0, progress=False)


@dataclass(frozen=True)
class RandomAt(Method):
    """A random mask, trained from a rewind point.

    Args:
        rewind: where
    """

    name: ClassVar[str] = "random-at"
    rewind: str = "16it"

    def find(self, search: levels.Search) -> list[levels.Level]:
        from tombola.levels.rewind import Rewind
        from tombola.levels.rewind_point import rewind_point, train_on, train_to

        before = train_to(search, Rewind.parse(self.rewind))
        draw = torch.Generator().manual_seed(0)
        sizes = {name: value.shape for name, value in search.network().named_parameters() if value.dim() > 1}
        mask = tb.select({name: torch.rand(shape, generator=draw) for name, shape in sizes.items()}, density=0.5)
        return [*before, train_on(search, rewind_point(search, before), mask, len(before))]


def found(method: Method, out: Path | None = None) -> Sequence[levels.Level]:
    from tombola.search.find import search
    from tombola.search.request import make_request

    request = make_request(network(), splits(), method, recipe=RECIPE, options=OPTIONS)
    return search(request, directory=out)


def test_level_0_ends_at_the_rewind_point_and_is_not_the_dense_network(tmp_path: Path) -> None:
    first, last = found(RandomAt())
    assert (first.result.steps, first.result.stopped) == (16, "rewind point, iteration 16")
    assert not first.result.is_dense
    assert (last.result.first_step, last.result.steps) == (16, 20)
    assert last.ticket.provenance["rewound_steps"] == 16
    assert last.result.density == 0.5
    on_disk = found(RandomAt(), tmp_path)[-1]
    assert on_disk.ticket.to_bytes() == last.ticket.to_bytes()


def test_the_ticket_begins_where_imp_rewinds_to() -> None:
    """The dense training of imp passes through the very state that level 0 ends with."""
    ours = found(RandomAt())[-1].ticket
    theirs = found(tb.IterativePruning(density=0.5, rounds=1, rewind="16it"))[-1].ticket
    assert ours.provenance["rewound_steps"] == theirs.provenance["rewound_steps"]
    one, other = (ticket.build("origin", model=network()).state_dict() for ticket in (ours, theirs))
    masked = {*ours.mask}
    assert all(torch.equal(one[name], other[name]) for name in one if name not in masked)
    both = {name: ours.mask[name] & theirs.mask[name] for name in masked}
    assert all(torch.equal(one[name][keep], other[name][keep]) for name, keep in both.items())


def test_at_initialisation_nothing_is_trained_before() -> None:
    (only,) = found(RandomAt(rewind="init"))
    assert (only.level, only.result.first_step, only.result.steps) == (0, 0, 20)
    assert only.ticket.provenance["rewound_steps"] == 0


def test_a_point_beyond_the_end_is_refused() -> None:
    with pytest.raises(tb.TombolaError, match="rewind is to iteration 20, but training has 20"):
        found(RandomAt(rewind="20it"))


def test_a_killed_search_goes_on_at_the_rewind_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, real = found(RandomAt())[-1].ticket, trial.train

    def train(*args: Any, hooks: Any = (), **more: Any) -> Any:
        return real(*args, hooks=(*hooks, KillAt(18)), **more)

    with monkeypatch.context() as patched:
        patched.setattr(trial, "train", train)
        with pytest.raises(Killed):
            found(RandomAt(), tmp_path)
    assert found(RandomAt(), tmp_path)[-1].ticket.to_bytes() == expected.to_bytes()
