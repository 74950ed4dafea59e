"""The selection's rarer paths on few numbers: several threads, heavy ties, candidates in every pattern."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.select import topk
from tombola.select.patterns import NM
from tombola.select.select import select
from tombola.select.topk import Near, keep_largest

DTYPES = [torch.float32, torch.bfloat16, torch.int64, torch.uint8]


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def tiny_pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work is shared out and sampled as if tens of scores were millions."""
    monkeypatch.setattr(topk, "_PIECE", 5)
    monkeypatch.setattr(topk, "_SMALL", 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)


def by_sorting(scores: Tensor, k: int) -> Tensor:
    kept = torch.zeros(scores.numel(), dtype=torch.bool)
    kept[torch.sort(scores.flatten().double(), descending=True, stable=True).indices[:k]] = True
    return kept.view(scores.shape)


@pytest.mark.usefixtures("tiny_pieces")
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    values=st.lists(st.integers(0, 3), min_size=1, max_size=80),  # four values: almost every score ties
    share=st.floats(0, 1),
    dtype=st.sampled_from(DTYPES),
    magnitude=st.booleans(),
)
def test_ties_across_threads(values: list[int], share: float, dtype: torch.dtype, magnitude: bool) -> None:
    scores, k = torch.tensor(values).to(dtype), round(share * len(values))
    assert torch.equal(keep_largest(scores, k, magnitude=magnitude), by_sorting(scores, k))


@pytest.mark.usefixtures("tiny_pieces")
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    values=st.lists(st.integers(-40, 40), min_size=8, max_size=80),
    steps=st.lists(st.tuples(st.integers(0, 79), st.integers(-40, 40)), min_size=1, max_size=4),
    share=st.floats(0.05, 0.95),
    magnitude=st.booleans(),
)
def test_a_remembered_threshold_changes_nothing(
    values: list[int], steps: list[tuple[int, int]], share: float, magnitude: bool
) -> None:
    scores, near = torch.tensor(values, dtype=torch.float32), Near()
    k = round(share * len(values))
    for place, value in steps:
        scores[place % len(values)] = value
        kept = keep_largest(scores, k, near=near, magnitude=magnitude)
        assert torch.equal(kept, by_sorting(scores.abs() if magnitude else scores, k))


def test_the_threads_share_one_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    # ties in every piece: the first 5 of the 9 ones are kept, whichever piece they lie in
    monkeypatch.setattr(topk, "_PIECE", 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    scores = torch.tensor([1, 0, 1, 1, 1, 0, 1, 1, 1, 2, 1, 1], dtype=torch.int64)
    assert keep_largest(scores, 6).nonzero().flatten().tolist() == [0, 2, 3, 4, 6, 9]


def best_in_groups(scores: Tensor, allowed: Tensor, n: int, m: int) -> Tensor:
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for row in range(scores.shape[0]):
        for start in range(0, scores.shape[1], m):
            places = range(start, min(start + m, scores.shape[1]))
            wanted = n if len(places) == m else round(n * len(places) / m)
            ranked = sorted((i for i in places if allowed[row, i]), key=lambda i: (-float(scores[row, i]), i))
            kept[row, ranked[:wanted]] = True
    return kept


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 45)),
    pattern=st.sampled_from([(1, 1), (1, 4), (2, 4), (3, 4), (4, 4), (2, 16), (3, 17), (5, 20)]),
    seed=st.integers(0, 1000),
    density=st.sampled_from([0.3, 0.8, 1.0]),
)
def test_n_of_m_among_candidates(shape: tuple[int, int], pattern: tuple[int, int], seed: int, density: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randint(-3, 3, shape, generator=draw).float()
    allowed = torch.rand(shape, generator=draw) < density
    n, m = pattern
    expected = best_in_groups(scores, allowed, n, m)
    assert torch.equal(NM(n, m).keep(scores, allowed), expected)
    if expected.any():
        assert torch.equal(select({"w": scores}, pattern=f"{n}:{m}", candidates=Mask({"w": allowed}))["w"], expected)


@pytest.mark.parametrize("pattern", ["block:2", "channel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8])
def test_the_mean_of_a_unit_in_every_dtype(pattern: str, dtype: torch.dtype) -> None:
    # a row's sum, 400·1,000, is beyond float16 and uint8
    large = 250 if dtype == torch.uint8 else 1000
    scores = torch.tensor([[large - 8], [large - 8], [large], [large]]).expand(4, 400).to(dtype)
    kept = select({"w": scores}, density=0.5, pattern=pattern)["w"]
    assert kept.all(1).tolist() == [False, False, True, True]
    assert kept.any(1).tolist() == [False, False, True, True]


def test_signed_scores_of_units() -> None:
    scores = torch.tensor([[-4.0, -4.0], [1.0, 1.0]])
    assert select({"w": scores}, density=0.5, pattern="channel")["w"][0].all()  # by size
    assert select({"w": scores}, density=0.5, pattern="channel", signed=True)["w"][1].all()
    rows = torch.tensor([[-4.0, 1.0], [-4.0, 1.0]])
    assert select({"w": rows}, density=0.5, pattern="block:2")["w"].tolist() == [[True, False], [True, False]]
    assert select({"w": rows}, density=0.5, pattern="block:2", signed=True)["w"].tolist() == [[False, True]] * 2


def test_as_many_as_there_are_candidates_and_one_more() -> None:
    scores, allowed = torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([False, True, False, True])
    for given_, scope in (({"w": 2}, "layer"), (2, "global")):
        kept = select({"w": scores}, counts=given_, scope=scope, candidates=Mask({"w": allowed}))  # type: ignore[arg-type]
        assert torch.equal(kept["w"], allowed)
    with pytest.raises(TombolaError, match="layer 'w' is to keep 3 units but only 2 are candidates"):
        select({"w": scores}, counts={"w": 3}, candidates=Mask({"w": allowed}))
    with pytest.raises(TombolaError, match="the network is to keep 3 units but only 2 are candidates"):
        select({"w": scores}, counts=3, scope="global", candidates=Mask({"w": allowed}))


def test_counts_of_nothing_and_everything() -> None:
    scores = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0])}
    with pytest.warns(UserWarning, match="nothing is kept of a"):
        assert select(scores, counts={"a": 0, "b": 1}).counts() == {"a": (0, 2), "b": (1, 1)}
    assert select(scores, counts=3, scope="global").kept == 3
    for bad in (-1, 4, True, 1.5):
        with pytest.raises(TombolaError, match="the network is to keep"):
            select(scores, counts=bad, scope="global")  # type: ignore[arg-type]
    for bad in (0, True, -0.1, 1.1):
        with pytest.raises(TombolaError, match="density"):
            select(scores, density=bad)


def test_a_fixed_density_per_layer_must_be_that_of_the_pattern() -> None:
    scores = {"a": torch.rand(2, 4), "b": torch.rand(2, 4)}
    assert select(scores, density={"a": 0.5, "b": 0.5}, pattern="2:4").density == 0.5
    with pytest.raises(TombolaError, match=r"fixes the density at 0\.5, but 0\.4 is asked for"):
        select(scores, density={"a": 0.5, "b": 0.4}, pattern="2:4")


def test_patterns_of_one_and_of_all() -> None:
    scores = torch.tensor([[3.0, 1.0], [2.0, 4.0], [5.0, 0.0]])
    assert torch.equal(
        select({"w": scores}, density=0.5, pattern="block:1")["w"], select({"w": scores}, density=0.5)["w"]
    )
    for n, m in itertools.product((1, 2), (1, 2)):
        if n <= m:
            assert NM(n, m).keep(scores).sum(1).tolist() == [2 * n // m] * 3
    assert select({"w": torch.tensor(7.0)}, density=1.0, pattern="channel")["w"].item() is True
