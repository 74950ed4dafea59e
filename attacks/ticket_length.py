"""A ticket whose recipe asks for a training of ten thousand million iterations, or of a million epochs.

`tombola verify` trains a ticket as it was found, twenty times; a file that somebody sent would take a machine for
years. It fails because at most 10,000 epochs or 10,000,000 iterations are taken from a ticket; whoever means more says
so himself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import _hostile
from tombola.study.recorded import recipe_of

LENGTHS = ("10000000000it", "1000000ep", "10000.5ep", "1ep10000001it")
NO_LENGTHS = ("1e9it", "9" * 5000 + "it", "infep", "-1it", 2**62, ["1it"], {"it": 1})
OTHERS: Mapping[str, Sequence[Any]] = {
    "batch_size": (10**15, -1, 0, "1"),
    "accumulate": (10**15, 0),
    "lr": (-1, "1", None),
    "gamma": (0, [1]),
    "patience": (0, 1.5),
    "train_eval": (-1, "some", {}),
}


def attack(folder: Path) -> None:
    for length in LENGTHS:
        ticket = _hostile.ticket(recipe={"length": length})
        said = _hostile.refused(_hostile.verified, ticket, folder / "runs")
        assert "give the length yourself" in said, said
        assert recipe_of(ticket, {"length": length}).length == length, "refused although the user gave it"
    for length in NO_LENGTHS:
        _hostile.refused(_hostile.verified, _hostile.ticket(recipe={"length": length}), folder / "runs")
    for field, values in OTHERS.items():
        for value in values:
            _hostile.refused(_hostile.verified, _hostile.ticket(recipe={field: value}), folder / "runs")
    assert not (folder / "runs").exists(), "something was written for a ticket that was refused"
