"""Philox against its published answers; streams pinned by hashes; normals against scipy's quantiles."""

from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from tombola.rng import philox
from tombola.rng.normal import inverse_normal_cdf, natural_log

KEY = 0x0123456789ABCDEF
KEYS = st.integers(0, 2**64 - 1)


def sha(array: np.ndarray) -> str:
    """Hash of the little-endian bytes."""
    return hashlib.sha256(array.astype(array.dtype.newbyteorder("<")).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ([0] * 4, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, 2**64 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            0x299F31D0_A4093822,
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_known_answers(counter: list[int], key: int, answer: list[int]) -> None:
    assert philox.philox4x32([counter], key).tolist() == [answer]


def test_golden_streams() -> None:
    assert sha(philox.words(KEY, 100_001)) == "40ec3d3253eba1d9"
    assert sha(philox.words(KEY, 1000, offset=2**34 - 500)) == "b99132383abaa92c"
    assert sha(philox.uniform(KEY, 100_001)) == "adc057f42cfcddb3"
    assert sha(philox.normal(KEY, 100_001)) == "3794783857deef15"
    assert sha(philox.per_index_uniform(KEY, np.arange(0, 2**40, 2**33 + 7), 6)) == "db7a84072f2bf06a"


def test_first_words_of_a_stream_are_block_zero() -> None:
    assert philox.words(0, 5).tolist()[:4] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox.words(0, 5)[4] == philox.philox4x32([[1, 0, 0, 0]], 0)[0, 0]


@given(KEYS, st.integers(0, 40_000), st.integers(0, 40_000))
def test_words_may_be_drawn_in_parts(key: int, offset: int, count: int) -> None:
    whole = philox.words(key, offset + count)
    assert np.array_equal(philox.words(key, count, offset=offset), whole[offset:])


def test_counter_carries_into_the_second_word() -> None:
    edge = 4 * 2**32
    both = philox.words(KEY, 8, offset=edge - 4)
    assert np.array_equal(both[:4], philox.philox4x32([[2**32 - 1, 0, 0, 0]], KEY)[0])
    assert np.array_equal(both[4:], philox.philox4x32([[0, 1, 0, 0]], KEY)[0])


@pytest.mark.parametrize(("key", "count", "offset"), [(-1, 1, 0), (2**64, 1, 0), (0, -1, 0), (0, 1, -1), (0, 1, 2**66)])
def test_out_of_range(key: int, count: int, offset: int) -> None:
    with pytest.raises(ValueError, match=r"not within|negative"):
        philox.words(key, count, offset=offset)


@given(KEYS, st.integers(0, 3000), st.integers(0, 3000))
def test_longer_draws_begin_with_the_shorter(key: int, a: int, b: int) -> None:
    short, long = sorted((a, b))
    assert np.array_equal(philox.uniform(key, long)[:short], philox.uniform(key, short))
    assert np.array_equal(philox.normal(key, long)[:short], philox.normal(key, short))


def test_uniform() -> None:
    u = philox.uniform(KEY, 200_000)
    assert u.dtype == np.float32
    assert u.min() >= 0
    assert u.max() < 1
    assert np.array_equal(u.astype(np.float64) * 2**24, philox.words(KEY, 200_000) >> 8)
    assert abs(u.mean() - 0.5) < 0.003
    assert abs(u.var() - 1 / 12) < 0.001


def test_normal_moments_and_neighbours() -> None:
    z = philox.normal(KEY, 400_000).astype(np.float64)
    assert abs(z.mean()) < 0.005
    assert abs(z.var() - 1) < 0.01
    assert abs((z**3).mean()) < 0.02
    assert abs((z**4).mean() - 3) < 0.06
    assert abs((z[1:] * z[:-1]).mean()) < 0.006


def test_normal_is_the_quantile_of_its_word() -> None:
    p = (philox.words(KEY, 100_000).astype(np.float64) + 0.5) / 2**32
    x = inverse_normal_cdf(p)
    assert np.abs(x - norm.ppf(p)).max() < 1e-13
    assert np.array_equal(philox.normal(KEY, 100_000), x.astype(np.float32))


def test_quantiles_in_every_region_and_their_symmetry() -> None:
    low = np.concatenate([2.0 ** -np.arange(1.0, 34.0), [0.075, 0.0750001, 0.0749999, 0.3], [1e-11, 1e-12, 1e-300]])
    x = inverse_normal_cdf(low)
    assert np.allclose(x, norm.ppf(low), rtol=1e-14, atol=0)
    grid = np.arange(1, 4096) / 4096
    assert np.array_equal(inverse_normal_cdf(grid), -inverse_normal_cdf(1 - grid))
    assert inverse_normal_cdf(np.array([0.5])) == 0


@given(st.floats(1e-300, 1e300))
def test_log(x: float) -> None:
    got, want = natural_log(np.array([x]))[0], np.log(x)
    assert abs(got - want) <= 4e-16 * max(abs(want), abs(x - 1))


@given(KEYS, st.lists(st.integers(0, 2**62), max_size=40), st.integers(1, 9))
def test_rows_depend_on_their_index_alone(key: int, indices: list[int], draws: int) -> None:
    rows = philox.per_index_uniform(key, np.array(indices, dtype=np.int64), draws)
    assert rows.shape == (len(indices), draws)
    assert rows.dtype == np.float32
    for index, row in zip(indices, rows, strict=True):
        alone = philox.per_index_uniform(key, np.array([index], dtype=np.int64), draws + 3)
        assert np.array_equal(alone[0, :draws], row)
    assert np.all((rows >= 0) & (rows < 1))


def test_rows_of_different_indices_and_keys_differ() -> None:
    rows = philox.per_index_uniform(KEY, np.arange(2000), 4)
    assert len({row.tobytes() for row in rows}) == 2000
    assert abs(rows.mean() - 0.5) < 0.02
    assert not np.array_equal(rows, philox.per_index_uniform(KEY + 1, np.arange(2000), 4))


def test_memory_beyond_the_result_is_small() -> None:
    tracemalloc.start()
    z = philox.normal(KEY, 1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < z.nbytes + 8_000_000
