"""A part of a mask that is drawn from a key, never learned: a file holds the key, and the bits of the rest alone.

Freezing part of a learned mask at random: Otsuka et al. 2024, "Partially Frozen Random Networks Contain Compact Strong
Lottery Tickets", arXiv 2402.14029.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tombola.errors import TicketError
from tombola.rng import philox
from tombola.rng.seeds import derive
from tombola.ticket.bitcode import BitReader, Bits, BitWriter

CODING = "frozen"


@dataclass(frozen=True)
class FrozenPart:
    """Of one layer: which weights are frozen, and which of these are kept, from a key.

    Each weight has a word of the Philox stream of `key`, in flat order. The `size` weights of the smallest words are
    frozen, the `kept` smallest of them kept and the others pruned; ties go to the lower index.

    >>> part = FrozenPart(key=7, size=4, kept=2)
    >>> part.drawn(6)
    array([ 0, -1,  1,  1, -1,  0], dtype=int8)
    """

    key: int
    size: int
    kept: int

    def __post_init__(self) -> None:
        whole = all(type(value) is int for value in (self.key, self.size, self.kept))
        if not whole or not 0 <= self.key < 2**64 or not 0 <= self.kept <= self.size < 2**48:
            raise TicketError(
                f"a mask's frozen part has key {self.key}, size {self.size} and keeps {self.kept}; these are whole "
                "numbers, the key below 2^64, and no more is kept than frozen"
            )

    @classmethod
    def of(cls, seed: int, name: str, count: int, share: float, density: float) -> FrozenPart:
        """That of a layer of `count` weights: a share of them, of which the density is kept."""
        size = round(share * count)
        return cls(derive(seed, "frozen", name), size, round(density * size))

    def drawn(self, count: int) -> NDArray[np.int8]:
        """(count,): 1 frozen and kept, -1 frozen and pruned, 0 free."""
        words = philox.words(self.key, count)
        states = np.zeros(count, np.int8)
        states[_smallest(words, self.size)] = -1
        states[_smallest(words, self.kept)] = 1
        return states

    def agrees(self, keep: NDArray[np.bool_]) -> bool:
        """Whether a mask keeps of the frozen weights what is drawn."""
        return self.size <= keep.size and not _differs(keep.reshape(-1), self.drawn(keep.size))


def write(keep: NDArray[np.bool_], part: FrozenPart) -> bytes | None:
    """The stream of a mask with a frozen part; None where it keeps other weights there."""
    if part.size > keep.size:
        return None
    flat, drawn = keep.reshape(-1), part.drawn(keep.size)
    if _differs(flat, drawn):
        return None
    writer = BitWriter()
    for value, width in ((part.key, 64), (part.size, 48), (part.kept, 48)):
        writer.number(value, width)
    writer.bits(flat[drawn == 0])
    return writer.data()


def read(data: bytes, shape: tuple[int, ...]) -> tuple[NDArray[np.bool_], FrozenPart]:
    """The mask of `shape` coded in `data`, and its frozen part; TicketError if the bytes hold none."""
    reader, count = BitReader(data), math.prod(shape)
    part = FrozenPart(reader.number(64), reader.number(48), reader.number(48))
    if part.size > count:
        raise TicketError(f"{part.size} weights of a coded mask are frozen, of {count}")
    drawn = part.drawn(count)
    keep = drawn == 1
    keep[drawn == 0] = reader.bits(count - part.size)
    reader.end()
    return keep.reshape(shape), part


def _differs(flat: Bits, drawn: NDArray[np.int8]) -> bool:
    return bool((flat[drawn != 0] != (drawn[drawn != 0] == 1)).any())


def _smallest(words: philox.Words, count: int) -> Bits:
    """True at the `count` smallest words, ties to the lower index."""
    if count in (0, words.size):
        return np.full(words.size, count > 0)
    limit = np.partition(words, count - 1)[count - 1]
    chosen: Bits = words < limit
    chosen[np.flatnonzero(words == limit)[: count - int(np.count_nonzero(chosen))]] = True
    return chosen
