from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tombola.errors import TombolaError
from tombola.select import radix, topk
from tombola.select.topk import keep_largest

Select = Callable[[Tensor, int], Tensor]
BOTH = pytest.mark.parametrize("select", [keep_largest, radix.keep_largest])


def reference(values: list[float], k: int) -> list[bool]:
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    kept = set(order[:k])
    return [i in kept for i in range(len(values))]


def by_sort(scores: Tensor, k: int) -> Tensor:
    order = torch.sort(scores.flatten(), descending=True, stable=True).indices[:k]
    kept = torch.zeros(scores.numel(), dtype=torch.bool)
    kept[order] = True
    return kept.view(scores.shape)


@BOTH
def test_by_hand(select: Select) -> None:
    scores = torch.tensor([0.1, -0.4, 0.3, -0.2]).abs()
    assert select(scores, 2).tolist() == [False, True, True, False]
    assert select(torch.tensor([2.0, 1.0, 2.0, 2.0]), 2).tolist() == [True, False, True, False]
    assert select(torch.tensor([[0.0, -0.0], [-0.0, 0.0]]), 1).tolist() == [[True, False], [False, False]]
    assert select(torch.tensor([-0.0, 0.0]), 1).tolist() == [True, False]
    low = torch.tensor([-math.inf, torch.finfo(torch.float32).min, math.inf])
    assert select(low, 2).tolist() == [False, True, True]
    assert select(torch.tensor(3.0), 1).item() is True
    assert select(torch.empty(0, 4), 0).shape == (0, 4)


floats = st.one_of(
    st.floats(width=32, allow_nan=False),
    st.sampled_from([0.0, -0.0, math.inf, -math.inf, 1e-45, -1e-45, 1.0, 1.0000001192092896, -1.0]),
)


@settings(max_examples=150)
@given(
    values=st.lists(floats, max_size=60),
    share=st.floats(0, 1),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_equals_a_sorted_reference(values: list[float], share: float, dtype: torch.dtype) -> None:
    scores = torch.tensor(values, dtype=dtype)
    k = round(share * len(values))
    assert keep_largest(scores, k).tolist() == reference(values, k)
    assert radix.keep_largest(scores, k).tolist() == reference(values, k)


DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.bool,
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    wide = (torch.randn(20_000) * 100).round()
    if dtype in (torch.uint8, torch.uint16, torch.uint32, torch.bool):
        wide = wide.abs()
    scores = wide.clamp(max=100 if dtype != torch.bool else 1).to(dtype)
    comparable = scores.double()
    for k in (0, 1, 37, 10_000, 19_999, 20_000):
        expected = by_sort(comparable, k)
        assert torch.equal(keep_largest(scores, k), expected)
        assert torch.equal(radix.keep_largest(scores, k), expected)


@BOTH
def test_integers_beyond_the_floats_are_exact(select: Select) -> None:
    big = torch.tensor([2**62, 2**62 + 1, -(2**63), 2**63 - 1, 2**62 - 1])
    assert select(big, 2).tolist() == [False, True, False, True, False]
    close = torch.tensor([1.0, 1.0 + 2**-52, -1.0, -1.0 - 2**-52], dtype=torch.float64)
    assert select(close, 1).tolist() == [False, True, False, False]
    assert select(close, 3).tolist() == [True, True, True, False]


def kinds(n: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(n)
    normal = torch.randn(n, generator=draw)
    return {
        "magnitude": normal.abs(),
        "signed": normal,
        "coarse": (normal * 3).round(),
        "half zero": normal.clamp(min=0),
        "constant": torch.ones(n),
        "mostly barred": torch.where(normal > 1, normal, -math.inf),
        "ascending": torch.arange(n, dtype=torch.float32),
        "two values": (normal > 0).float(),
        "one far away": torch.cat([torch.zeros(n - 1), torch.tensor([1e30])]),
    }


@pytest.mark.parametrize("name", list(kinds(4)))
@pytest.mark.parametrize("n", [8_193, 600_001])
def test_large_inputs_of_every_kind(name: str, n: int) -> None:
    scores = kinds(n)[name]
    for k in {1, 2, n // 100, n // 2, n - 2, n - 1}:
        expected = by_sort(scores, k)
        assert torch.equal(keep_largest(scores, k), expected)
        assert torch.equal(radix.keep_largest(scores, k), expected)


def test_result_does_not_depend_on_threads() -> None:
    scores = (torch.randn(600_001, generator=torch.Generator().manual_seed(1)) * 20).round()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert len(topk._pieces(scores.numel())) == 2
        two = [keep_largest(scores, k) for k in (5, 300_000, 600_000)]
        torch.set_num_threads(1)
        assert len(topk._pieces(scores.numel())) == 1
        one = [keep_largest(scores, k) for k in (5, 300_000, 600_000)]
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, one, two))


def test_an_unlucky_sample_costs_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(20_000, generator=torch.Generator().manual_seed(2))
    expected = by_sort(scores, 10_000)
    for bad in ((5.0, 6.0), (-6.0, -5.0), (-0.001, 0.0001), (0.0, 0.0)):
        pair = torch.tensor(bad).numpy()
        monkeypatch.setattr(topk, "_bracket", lambda sample, density, pair=pair: (pair[0], pair[1]))
        assert torch.equal(keep_largest(scores, 10_000), expected)


def test_counts_beyond_two_to_the_24() -> None:
    n = 2**24 + 5
    scores = torch.ones(n)
    scores[-1] = 2.0
    k = 2**24 + 1
    kept = keep_largest(scores, k)
    assert int(torch.count_nonzero(kept)) == k
    assert bool(kept[-1])
    assert kept[: k - 1].all()
    assert not kept[k - 1 : -1].any()
    assert int(torch.count_nonzero(radix.keep_largest(scores.half(), k))) == k


@BOTH
def test_strides(select: Select) -> None:
    base = torch.randn(40, 30, generator=torch.Generator().manual_seed(3))
    for view in (base.t(), base[::2, 1::3], base.t().unsqueeze(0).expand(3, 30, 40)):
        assert torch.equal(select(view, 50), by_sort(view.contiguous(), 50))
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert torch.equal(select(image, 9), by_sort(image.contiguous(), 9))


@BOTH
@pytest.mark.parametrize("n", [10, 20_000])
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_nan_is_an_error_that_counts(select: Select, n: int, share: float) -> None:
    scores = torch.randn(n, requires_grad=True).detach()
    scores[3] = math.nan
    scores[7] = -math.nan
    with pytest.raises(TombolaError, match=f"2 of {n} scores are NaN"):
        select(scores, round(share * n))


@BOTH
def test_bad_counts_and_dtypes(select: Select) -> None:
    for k in (-1, 5):
        with pytest.raises(TombolaError, match=f"cannot keep {k} of 4"):
            select(torch.ones(4), k)
    with pytest.raises(TombolaError, match="real numbers"):
        select(torch.ones(4, dtype=torch.complex64), 1)


def test_out_is_written_and_returned() -> None:
    out = torch.ones(2, 2, dtype=torch.bool)
    scores = torch.tensor([[1.0, 4.0], [3.0, 2.0]], requires_grad=True)
    assert keep_largest(scores, 2, out=out) is out
    assert out.tolist() == [[False, True], [True, False]]
    for bad in (
        torch.ones(4, dtype=torch.bool),
        torch.ones(2, 2),
        torch.ones(2, 4, dtype=torch.bool)[:, ::2],
    ):
        with pytest.raises(TombolaError, match="contiguous bool"):
            keep_largest(scores, 2, out=bad)


def test_importing_does_not_load_numba() -> None:
    code = "import sys, tombola.select.select; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
