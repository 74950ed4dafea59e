"""A seeded network is drawn and hashed at most twice for a ticket: when the search begins, and from the tried file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tombola as tb
from tombola.methods.dense import DenseTraining
from tombola.nn import init
from tombola.ticket import origin

METHODS = [tb.IterativePruning(density=0.3, rounds=2), tb.EdgePopup(density=0.3), DenseTraining()]


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_draws_and_hashes_of_a_search(
    method: Any, on_disk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for module, name in ((init, "initialise_"), (origin, "hash_state")):
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *given, name=name, real=real, **more: calls.append(name) or real(*given, **more)
        )
    recipe = tb.Recipe(length="4it", batch_size=64)
    ticket = tb.find("mlp", "digits", method, recipe=recipe, out=tmp_path / "runs" if on_disk else None)
    ticket.save(tmp_path / "copy.ticket")
    assert sorted(calls) == ["hash_state"] * 2 + ["initialise_"] * 2
    drawn = ticket.origin.state_dict()
    assert origin.hash_state(drawn) == ticket.origin.weights_hash
