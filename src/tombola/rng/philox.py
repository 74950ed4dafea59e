"""Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) in numpy.

Counter-based: word i of a stream depends on (key, i) alone, so a stream may be drawn in any order, in
parts, on any machine. Only integer and IEEE-exact operations are used; hashes in the tests pin the streams.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tombola.rng.normal import inverse_normal_cdf

Words: TypeAlias = npt.NDArray[np.uint32]
_U64: TypeAlias = npt.NDArray[np.uint64]
Floats: TypeAlias = npt.NDArray[np.float32]

_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_CHUNK = 1 << 13
"""Blocks of one pass, whose four buffers stay in the cache."""


def philox4x32(counters: npt.ArrayLike, key: int) -> Words:
    """The ten-round bijection on each counter.

    Args:
        counters: uint32 of shape (n, 4), least significant word first.
        key: 64 bits; its low half is the first key word.

    Returns:
        uint32 of shape (n, 4).
    """
    words = np.asarray(counters, dtype=np.uint64)
    even = np.ascontiguousarray(words[:, 0::2].T)
    odd = np.ascontiguousarray(words[:, 1::2].T)
    return _mix(even, odd, _round_keys(key))


def words(key: int, count: int, *, offset: int = 0) -> Words:
    """Words `offset .. offset + count` of the stream of `key`.

    Args:
        key: 0 <= key < 2**64.
        count: how many 32-bit words.
        offset: index of the first word; word i is word i % 4 of block i // 4, whose counter is i // 4.

    Returns:
        uint32 of shape (count,).

    Raises:
        ValueError: for a negative count or a range outside 0 .. 2**66.
    """
    out = np.empty(count, dtype=np.uint32)
    for start, part in _parts(key, count, offset):
        out[start : start + part.size] = part
    return out


def uniform(key: int, n: int) -> Floats:
    """n float32 in [0, 1): the top 24 bits of each word of the stream, times 2**-24 (exact)."""
    out = np.empty(n, dtype=np.float32)
    for start, part in _parts(key, n, 0):
        _unit(part, out[start : start + part.size])
    return out


def normal(key: int, n: int) -> Floats:
    """n float32 of the standard normal distribution, |x| < 6.4, equal to the last bit on every machine.

    Word w of the stream becomes p = (w + 1/2) / 2**32, exact in float64, and p becomes its normal quantile
    (Wichura, AS241) in float64, rounded once to float32.
    """
    out = np.empty(n, dtype=np.float32)
    for start, part in _parts(key, n, 0):
        p = part.astype(np.float64)
        p += 0.5
        p *= 2.0**-32
        out[start : start + part.size] = inverse_normal_cdf(p)
    return out


def per_index_uniform(key: int, indices: npt.ArrayLike, draws: int) -> Floats:
    """Draws for examples, e.g. augmentation: row i depends only on the key and on `indices[i]`.

    Args:
        key: 0 <= key < 2**64.
        indices: integers >= 0 of shape (n,): an example's index in its data set. They are the upper half
            of the counter.
        draws: how many numbers per row; a row's first numbers do not depend on it.

    Returns:
        float32 in [0, 1) of shape (n, draws).
    """
    upper = np.asarray(indices).astype(np.uint64)
    n, blocks = upper.size, -(-draws // 4)
    even = np.empty((2, n * blocks), dtype=np.uint64)
    odd = np.zeros_like(even)
    even[0].reshape(n, blocks)[:] = np.arange(blocks, dtype=np.uint64)
    even[1].reshape(n, blocks)[:] = (upper & _LOW)[:, None]
    odd[1].reshape(n, blocks)[:] = (upper >> _32)[:, None]
    row = _mix(even, odd, _round_keys(key)).reshape(n, blocks * 4)[:, :draws]
    return _unit(row, np.empty((n, draws), dtype=np.float32))


def _unit(part: Words, out: Floats) -> Floats:
    np.multiply(part >> np.uint32(8), np.float32(2.0**-24), out=out, casting="unsafe", dtype=np.float32)
    return out


def _parts(key: int, count: int, offset: int) -> Iterator[tuple[int, Words]]:
    """(position in the result, words) in chunks that together are the words `offset .. offset + count`."""
    if count < 0 or offset < 0 or offset + count > 1 << 66:
        raise ValueError(f"words {offset} .. {offset + count} are not within 0 .. 2**66")
    keys = _round_keys(key)
    first, done = offset // 4, 0
    skip = offset - 4 * first
    while done < count:
        blocks = min(_CHUNK, -(-(skip + count - done) // 4))
        part = _mix(*_counters(first, blocks), keys).reshape(-1)[skip : skip + count - done]
        yield done, part
        done, first, skip = done + part.size, first + blocks, 0


def _counters(first: int, blocks: int) -> tuple[_U64, _U64]:
    """Words (0, 2) and words (1, 3) of the counters first .. first + blocks, each of shape (2, blocks)."""
    even = np.zeros((2, blocks), dtype=np.uint64)
    odd = np.zeros_like(even)
    block = np.arange(blocks, dtype=np.uint64)
    block += np.uint64(first)
    np.bitwise_and(block, _LOW, out=even[0])
    np.right_shift(block, _32, out=odd[0])
    return even, odd


@lru_cache(maxsize=64)
def _round_keys(key: int) -> _U64:
    """The pair of key words of each round, shape (10, 2, 1)."""
    if not 0 <= key < 1 << 64:
        raise ValueError(f"key {key} is not within 0 .. 2**64 - 1")
    low, high = key & 0xFFFFFFFF, key >> 32
    return np.array(
        [[[(low + r * _KEY_STEPS[0]) & 0xFFFFFFFF], [(high + r * _KEY_STEPS[1]) & 0xFFFFFFFF]] for r in range(_ROUNDS)],
        dtype=np.uint64,
    )


def _mix(even: _U64, odd: _U64, keys: _U64) -> Words:
    """The rounds, on 32-bit words held in 64 bits; both inputs are overwritten. Returns uint32 (n, 4)."""
    product, spare = np.empty_like(even), np.empty_like(even)
    for round_key in keys:
        np.multiply(even, _MULTIPLIERS, out=product)
        np.right_shift(product, _32, out=even)
        product &= _LOW
        np.bitwise_xor(even[::-1], odd, out=spare)
        spare ^= round_key
        even, odd, product, spare = spare, product[::-1], even, odd
    out = np.empty((even.shape[1], 4), dtype=np.uint32)
    out[:, 0::2] = even.T
    out[:, 1::2] = odd.T
    return out
