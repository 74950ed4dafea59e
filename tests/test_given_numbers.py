"""Numbers as users have them: of numpy and torch they are Python's, and what is no whole number is no seed or size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tombola as tb
from supermask_searches import splits
from tombola.errors import TombolaError
from tombola.plain import as_plain
from tombola.search.request import make_request


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 5))


@pytest.mark.parametrize("kind", [tb.IterativePruning, tb.EdgePopup])
def test_a_run_of_numpy_numbers_is_that_of_pythons(kind: Any) -> None:
    def found(real: Any, whole: Any) -> bytes:
        recipe = {"length": "2it", "lr": real(0.125), "momentum": real(0.5), "batch_size": whole(16)}
        return tb.find(network(), splits(), kind(density=real(0.5)), recipe=recipe, seed=whole(3)).to_bytes()

    assert found(np.float32, np.int64) == found(float, int)


@pytest.mark.parametrize("value", [np.float32(0.5), np.array(0.5), torch.tensor(0.5)])
def test_numbers_are_written_as_pythons(value: Any) -> None:
    assert as_plain(tb.Recipe(lr=value))["lr"] == 0.5


@pytest.mark.parametrize("seed", [1.5, 1.0, "1", None, np.float64(1), -1, 2**63])
def test_seeds_are_whole_numbers(seed: Any) -> None:
    with pytest.raises(TombolaError, match=r"seed is .*, but it must be a whole number from 0"):
        make_request(network(), splits(), tb.IterativePruning(), seed=seed)


@pytest.mark.parametrize("field", ["batch_size", "accumulate", "patience"])
@pytest.mark.parametrize("value", [1.5, 4.0, "4", None])
def test_sizes_are_whole_numbers(field: str, value: Any) -> None:
    with pytest.raises(TombolaError, match=f"{field} is {value!r}, but it must be a whole number"):
        tb.Recipe(**{field: value})
    assert type(getattr(tb.Recipe(**{field: np.int32(4)}), field)) is int  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [2**63, -(2**64), 10**400, pytest.param(10**5000, id="5000 digits")])
@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (tb.Recipe, "lr"),
        (tb.Recipe, "gamma"),
        (tb.Recipe, "patience"),
        (tb.IterativePruning, "rate"),
        (tb.EdgePopup, "density"),
    ],
)
def test_numbers_of_more_than_64_bits_are_refused(kind: Any, field: str, value: int) -> None:
    with pytest.raises(TombolaError, match=rf"{field} is a number of [\d,]+ bits, but it must be") as raised:
        kind(**{field: value})
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("field", ["rounds", "levels"])
def test_no_search_has_billions_of_levels(field: str) -> None:
    with pytest.raises(TombolaError, match=f"{field} is 100000000000, but it must lie between"):
        tb.IterativePruning(**{field: 10**11})
