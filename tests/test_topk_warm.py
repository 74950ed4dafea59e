from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tombola.errors import TombolaError
from tombola.select import topk
from tombola.select.topk import Near, keep_largest


def by_sort(scores: Tensor, k: int) -> Tensor:
    """The k largest by a stable sort, in the order of the shape."""
    comparable = scores.double() if scores.is_floating_point() else scores
    order = torch.sort(comparable.reshape(-1), descending=True, stable=True).indices[:k]
    kept = torch.zeros(scores.numel(), dtype=torch.bool)
    kept[order] = True
    return kept.view(scores.shape)


def draw(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def permuted(shape: tuple[int, ...], order: tuple[int, ...], seed: int) -> Tensor:
    """Dense scores of this shape whose dimensions lie in memory in this order."""
    there = draw(math.prod(shape), seed).view([shape[d] for d in order])
    return there.permute([order.index(d) for d in range(len(shape))])


CHANGES = {
    "small": lambda s, seed: s + 1e-3 * draw(s.numel(), seed).to(s.dtype),
    "drift": lambda s, seed: s + 0.05,
    "jump": lambda s, seed: s * 100 + 7,
    "none": lambda s, seed: s.clone(),
    "negated": lambda s, seed: -s,
    "equal": lambda s, seed: torch.full_like(s, 0.25),
    "ties": lambda s, seed: (draw(s.numel(), seed) * 2).round().to(s.dtype),
    "zeros of both signs": lambda s, seed: torch.where(draw(s.numel(), seed) > 0, 0.0, -0.0).to(s.dtype),
    "barred": lambda s, seed: torch.where(draw(s.numel(), seed) > 1.5, s, -math.inf).to(s.dtype),
    "unbounded": lambda s, seed: torch.where(draw(s.numel(), seed) > 1.5, math.inf, s).to(s.dtype),
    "other size": lambda s, seed: draw(s.numel() // 2 + 1, seed).to(s.dtype),
    "double": lambda s, seed: s.double(),
    "half": lambda s, seed: s.half(),
    "brain": lambda s, seed: s.bfloat16(),
    "whole": lambda s, seed: (s.nan_to_num(0, 9, -9) * 10).clamp(-99, 99).to(torch.int8),
    "back": lambda s, seed: draw(s.numel(), seed),
}


@settings(max_examples=60, deadline=None)
@given(
    n=st.one_of(st.integers(1, 60), st.sampled_from([1000, 8192, 8193, 30_000])),
    changes=st.lists(st.sampled_from(list(CHANGES)), min_size=1, max_size=6),
    share=st.floats(0, 1),
    magnitude=st.booleans(),
)
def test_warm_over_any_sequence_equals_a_sorted_reference(
    n: int, changes: list[str], share: float, magnitude: bool
) -> None:
    near = Near()
    scores = draw(n, 0)
    for seed, change in enumerate(["none", *changes]):
        if scores.is_floating_point() or change in ("none", "other size", "back"):
            scores = CHANGES[change](scores, seed)
        k = round(share * scores.numel())
        expected = by_sort(scores.abs() if magnitude else scores, k)
        assert torch.equal(keep_largest(scores, k, near=near, magnitude=magnitude), expected), change


@pytest.mark.parametrize("n", [1000, 30_000])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
def test_in_training_the_bracket_is_hit_and_stays_narrow(n: int, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    cold: list[int] = []
    for name in ("_ranks", "_sample"):
        found = getattr(topk, name)
        monkeypatch.setattr(topk, name, lambda *args, found=found: cold.append(1) or found(*args))
    near = Near()
    scores = draw(n, 1)
    out = torch.empty(n, dtype=torch.bool)
    for step in range(60):
        scores = scores + 1e-3 * draw(n, step) + 1e-3 * math.sin(step / 5)
        assert torch.equal(
            keep_largest(scores, round(share * n), out=out, near=near), by_sort(scores, round(share * n))
        )
    assert len(cold) <= 3
    inside = int(((scores >= near.low) & (scores <= near.high)).sum())
    assert 0 < inside <= max(0.06 * n, 100)


def test_near_is_filled_copied_and_forgets_what_is_not_finite() -> None:
    near = Near()
    assert (near.low, near.high, near.value) == (None, None, None)
    keep_largest(torch.tensor([1.0, 4.0, 2.0, 3.0]), 2, near=near)
    assert near.value == 3.0
    assert near.low is not None
    assert near.high is not None
    assert near.low <= 3.0 <= near.high
    assert copy.deepcopy(near) == near
    assert copy.deepcopy(near) is not near
    keep_largest(torch.tensor([1.0, -math.inf, -math.inf, -math.inf]), 3, near=near)
    assert near == Near()


def test_a_wrong_bracket_costs_time_only() -> None:
    scores = draw(20_000, 2)
    expected = by_sort(scores, 5_000)
    for low, high in ((5.0, 6.0), (-6.0, -5.0), (0.6, 0.6), (-9.0, 9.0), (1.0, -1.0), (-math.inf, math.inf)):
        near = Near(low=low, high=high, value=low)
        assert torch.equal(keep_largest(scores, 5_000, near=near), expected)
        assert near.value == float(scores[expected].min())


@pytest.mark.parametrize("threads", [1, 2])
def test_warm_in_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "_PIECE", 4_000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    near, coarse = Near(), Near()
    scores = draw(20_001, 3)
    for step in range(8):
        scores = scores + 1e-3 * draw(20_001, step)
        assert torch.equal(keep_largest(scores, 7_000, near=near), by_sort(scores, 7_000))
        ties = (scores * 500).round()
        assert torch.equal(keep_largest(ties, 7_000, near=coarse), by_sort(ties, 7_000))


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("n", [257, 9_000])
def test_dtypes_and_magnitudes(kind: str, n: int) -> None:
    near = Near()
    for step in range(4):
        scores = (draw(n, 5) + 1e-3 * step).to(getattr(torch, kind))
        scores[::7] = -0.0
        scores[3::7] = 0.0
        for k in (1, n // 3, n - n // 7, n - 1):  # the third cuts among the zeros
            assert torch.equal(keep_largest(scores, k, near=near, magnitude=True), by_sort(scores.abs(), k))
            assert torch.equal(keep_largest(scores, k, near=near), by_sort(scores, k))


def test_magnitude_by_hand() -> None:
    assert keep_largest(torch.tensor([0.1, -0.4, 0.3, -0.2]), 2, magnitude=True).tolist() == [False, True, True, False]
    assert keep_largest(torch.tensor([-0.0, 0.0, -1.0]), 2, magnitude=True).tolist() == [True, False, True]
    least = torch.tensor([127, -128, 5], dtype=torch.int8)
    assert keep_largest(least, 1, magnitude=True).tolist() == [False, True, False]
    assert keep_largest(torch.tensor([-math.inf, 1.0, 2.0]), 2, magnitude=True).tolist() == [True, False, True]
    assert keep_largest(torch.tensor([False, True]), 1, magnitude=True).tolist() == [False, True]


ORDERS = [(0, 2, 3, 1), (1, 0, 2, 3), (3, 2, 1, 0)]  # the first is channels_last


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 5)] * 4),
    order=st.sampled_from(ORDERS),
    levels=st.sampled_from([0.5, 2, 1000]),
    share=st.floats(0, 1),
    magnitude=st.booleans(),
)
def test_ties_go_by_the_shape_whatever_the_memory(
    shape: tuple[int, ...], order: tuple[int, ...], levels: float, share: float, magnitude: bool
) -> None:
    scores = (permuted(shape, order, 6) * levels).round()
    k = round(share * scores.numel())
    expected = by_sort(scores.abs() if magnitude else scores, k)
    alike = torch.empty_like(scores, dtype=torch.bool)
    assert alike.stride() == scores.stride()
    near = Near()
    for _ in range(2):
        kept = keep_largest(scores, k, near=near, magnitude=magnitude)
        assert kept.is_contiguous()
        assert torch.equal(kept, expected)
        assert keep_largest(scores, k, out=alike, near=near, magnitude=magnitude) is alike
        assert torch.equal(alike, expected)
        plain = torch.empty(shape, dtype=torch.bool)
        assert torch.equal(keep_largest(scores, k, out=plain, near=near, magnitude=magnitude), expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["fine", "few ties", "many ties", "whole"])
def test_large_scores_in_any_memory_order(order: tuple[int, ...], kind: str) -> None:
    near = Near()
    for step in range(3):
        scores = permuted((16, 24, 5, 5), order, 7) + 1e-3 * step
        if kind != "fine":
            scores = (scores * (300 if kind == "few ties" else 1)).round()
        if kind == "whole":
            scores = scores.to(torch.int16)
        out = torch.empty_like(scores, dtype=torch.bool)
        for k in (4_000, 4_001):
            assert torch.equal(keep_largest(scores, k, out=out, near=near), by_sort(scores, k))


def test_dense_scores_are_not_copied() -> None:
    scores = permuted((4, 3, 2, 2), (0, 2, 3, 1), 8)
    order = topk._memory_order(scores)
    assert order == (0, 2, 3, 1)
    flat = topk._flat(scores, order)
    assert flat.ctypes.data == scores.data_ptr()
    assert topk._memory_order(torch.ones(4, 1).expand(4, 3)) is None
    assert topk._memory_order(torch.ones(6, 6)[::2]) is None


def test_out_must_lie_like_the_scores() -> None:
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    mask = torch.zeros(2, 3, 4, 5, dtype=torch.bool).to(memory_format=torch.channels_last)
    assert torch.equal(keep_largest(image, 9, out=mask), by_sort(image, 9))
    sliced = torch.randn(2, 3, 4, 10)[..., ::2]
    for scores in (image.contiguous(), sliced):
        with pytest.raises(TombolaError, match="contiguous bool"):
            keep_largest(scores, 9, out=mask)
    assert torch.equal(keep_largest(sliced, 9, near=Near()), by_sort(sliced, 9))


@pytest.mark.parametrize("n", [50, 20_000])
@pytest.mark.parametrize("magnitude", [False, True])
def test_nan_is_found_warm_as_cold(n: int, magnitude: bool) -> None:
    near = Near()
    scores = draw(n, 9)
    keep_largest(scores, n // 2, near=near, magnitude=magnitude)
    scores[5] = math.nan
    scores[7] = -math.nan
    for k in (0, n // 2, n):
        with pytest.raises(TombolaError, match=f"2 of {n} scores are NaN"):
            keep_largest(scores, k, near=near, magnitude=magnitude)
    scores[5] = scores[7] = 0.5
    expected = by_sort(scores.abs() if magnitude else scores, n // 2)
    assert torch.equal(keep_largest(scores, n // 2, near=near, magnitude=magnitude), expected)


def test_nothing_and_everything() -> None:
    near = Near()
    scores = draw(30, 10)
    for k in (0, 15, 30, 15, 0):
        assert torch.equal(keep_largest(scores, k, near=near), by_sort(scores, k))
    assert keep_largest(torch.empty(0, 3), 0, near=near).shape == (0, 3)
    assert keep_largest(torch.tensor(2.0), 1, near=near, magnitude=True).item() is True
