from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.select.criteria import CRITERIA, Context, criterion, large_final
from tombola.select.select import select

W_I = torch.tensor([1.0, -2.0, 0.5, 3.0])
W_F = torch.tensor([2.0, 1.0, 0.25, -4.0])
INF = math.inf


def scores(name: str, **more: object) -> list[float]:
    context = Context({"w": W_I}, {"w": W_F}, **more)  # type: ignore[arg-type]
    result: list[float] = criterion(name)(context)["w"].tolist()
    return result


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("magnitude", [2, 1, 0.25, 4]),
        ("large_final", [2, 1, 0.25, 4]),
        ("small_final", [-2, -1, -0.25, -4]),
        ("large_init", [1, 2, 0.5, 3]),
        ("small_init", [-1, -2, -0.5, -3]),
        ("magnitude_increase", [1, -1, -0.25, 1]),
        ("movement", [1, 3, 0.25, 7]),
        ("large_init_large_final", [0.25, 0.25, 0, 0.75]),
        ("small_init_small_final", [0.25, 0.25, 0.75, 0]),
        ("large_final_same_sign", [2, -INF, 0.25, -INF]),
        ("large_final_diff_sign", [-INF, 1, -INF, 4]),
        ("magnitude_increase_same_sign", [1, -INF, -0.25, -INF]),
        ("magnitude_increase_diff_sign", [-INF, -1, -INF, 1]),
    ],
)
def test_by_hand(name: str, expected: list[float]) -> None:
    assert scores(name) == expected


def test_the_sign_of_0_is_one_of_its_own() -> None:
    w_i, w_f = torch.tensor([0.0, 0.0, -0.0, 1.0]), torch.tensor([2.0, 0.0, 0.0, 0.0])
    context = Context({"w": w_i}, {"w": w_f})
    assert CRITERIA["large_final_same_sign"](context)["w"].tolist() == [-INF, 0, 0, -INF]
    assert CRITERIA["large_final_diff_sign"](context)["w"].tolist() == [2, -INF, -INF, 0]
    assert CRITERIA["magnitude_increase_same_sign"](context)["w"].tolist() == [-INF, 0, 0, -INF]
    assert CRITERIA["magnitude_increase_diff_sign"](context)["w"].tolist() == [2, -INF, -INF, -1]


def test_gradients_given_or_worked_out_on_demand() -> None:
    g = {"w": torch.tensor([-1.0, 2.0, 0.0, 0.5])}
    assert scores("snip", gradient=g) == [1, 4, 0, 1.5]
    assert scores("grad", gradient=lambda: g) == [1, 2, 0, 0.5]
    with pytest.raises(TombolaError, match="needs gradients"):
        scores("snip")
    calls: list[int] = []

    def never() -> dict[str, Tensor]:
        calls.append(1)
        return g

    scores("magnitude", gradient=never)
    assert not calls


def test_random_follows_its_generator() -> None:
    draws = [scores("random", generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    with pytest.raises(TombolaError, match="needs a generator"):
        scores("random")


def test_ranks_leave_pruned_weights_out() -> None:
    mask = Mask({"w": torch.tensor([1, 0, 1, 1])})
    assert scores("large_init_large_final", mask=mask) == [1 / 3, -INF, 0, 2 / 3]


def test_ranks_are_the_quadrant_rule() -> None:
    """Cutting both axes at one common quantile keeps the same weights as the minimum of the ranks."""
    draw = torch.Generator().manual_seed(0)
    w_i, w_f = torch.randn(400, generator=draw), torch.randn(400, generator=draw)
    rank = CRITERIA["large_init_large_final"](Context({"w": w_i}, {"w": w_f}))
    t = 0.35
    kept = (w_i.abs() >= w_i.abs().sort().values[int(t * 400)]) & (w_f.abs() >= w_f.abs().sort().values[int(t * 400)])
    assert torch.equal(select(rank, counts={"w": int(kept.sum())})["w"], kept)


def test_all_criteria_share_one_signature_and_leave_no_graph() -> None:
    weights = {"a": torch.randn(3, 4, requires_grad=True), "b": torch.randn(5, requires_grad=True)}
    context = Context(weights, weights, gradient=weights, generator=torch.Generator())
    for name, function in CRITERIA.items():
        result = function(context)
        assert list(result) == ["a", "b"], name
        assert all(s.shape == weights[n].shape and not s.requires_grad for n, s in result.items()), name


def test_lookup() -> None:
    assert criterion("magnitude") is large_final
    assert criterion("tombola.select.criteria:large_final") is large_final
    assert criterion("tombola.select.criteria.large_final") is large_final
    assert criterion(large_final) is large_final
    for bad, said in {
        "magnitud": r"did you mean magnitude\?\); allowed: magnitude, large_final",
        "tombola.nowhere.f": "tombola has no 'nowhere'",
        "tombola.select.criteria.nothing": "tombola.select.criteria has no 'nothing'",
        "tombola.select.criteria.CRITERIA": "not a function of a Context",
    }.items():
        with pytest.raises(TombolaError, match=said) as caught:
            criterion(bad)
        assert "\n" not in str(caught.value)
