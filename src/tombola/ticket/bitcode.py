"""Runs of bits and small symbols in one range-coded stream (constriction's range coder, 32-bit words).

A probability is an integer q: a bit is 1 with probability q / 65536; q = 0 stands for "all 0" and q = 65535 for
"all 1", which take no further code. Eight bits are coded as one symbol, whose 256 frequencies come from q by integer
arithmetic alone, so that every machine reads what another wrote. Layout: docs/ticket-format.md.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import constriction
import numpy as np
from numpy.typing import NDArray

from tombola.errors import TicketError

Bits = NDArray[np.bool_]
ALL_ZERO, EVEN, ALL_ONE = 0, 1 << 15, (1 << 16) - 1
ALPHABET: Final = 16  # most different symbols in one run
_TABLE: Final = 255  # in place of a number of symbols: a table of 256 frequencies follows
_TOTAL: Final = 1 << 24  # the coder's resolution: the 256 frequencies add up to it
_AT_ONCE: Final = 1 << 20  # symbols, which the coder takes at 4 bytes each
_ONES: Final = np.bitwise_count(np.arange(256, dtype=np.uint8))


def frequencies(q: int) -> NDArray[np.int64]:
    """How often of 2^24 each byte comes, (256,): 1 + floor((2^24 - 256) · p^ones · (1-p)^zeros), p = q / 65536.

    What rounding leaves goes to the likeliest byte: 0, or 255 where q is above 32768.
    """
    by_ones = [1 + ((_TOTAL - 256) * q**ones * (65536 - q) ** (8 - ones) >> 128) for ones in range(9)]
    counts = np.array(by_ones, dtype=np.int64)[_ONES]
    counts[255 if q > EVEN else 0] += _TOTAL - int(counts.sum())
    return counts


@functools.lru_cache(maxsize=2048)
def _model(q: int) -> Any:
    # The library adds 1 to each weight; as these sum to 2^24 - 256 exactly, it has nothing to round.
    return constriction.stream.model.Categorical((frequencies(q) - 1).astype(np.float64), perfect=False)


def table_frequencies(table: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often of 2^24 each byte comes, (256,), of a table of 16-bit shares: 1 + floor((2^24 - 256) · share / sum).

    What rounding leaves goes to the first byte of the largest share.
    """
    counts = 1 + (_TOTAL - 256) * table // int(table.sum())
    counts[int(table.argmax())] += _TOTAL - int(counts.sum())
    return counts


def _table_model(shares: NDArray[np.int64]) -> Any:
    return constriction.stream.model.Categorical((table_frequencies(shares) - 1).astype(np.float64), perfect=False)


def probability(ones: int, count: int) -> int:
    """The q for `ones` of `count` > 0 bits: 0 or 65535 for none or all, else to 8 leading bits of the rarer one's.

    Eight bits cost no more than 1e-5 of the entropy, and few different q spare the making of models.
    """
    if ones in (0, count):
        return ALL_ONE if ones else ALL_ZERO
    rarer = min(ones, count - ones)
    q = max((rarer * 65536 + count // 2) // count, 2)  # 65536 - 1 would be ALL_ONE
    step = 1 << max(q.bit_length() - 8, 0)
    q = (q + step // 2) // step * step
    return q if 2 * ones <= count else 65536 - q


class BitWriter:
    """Appends to a stream; `data` is what was written so far."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()

    def data(self) -> bytes:
        """The stream's bytes: whole 32-bit words, little-endian."""
        words: bytes = self._coder.get_compressed().astype("<u4").tobytes()
        return words

    def number(self, value: int, width: int) -> None:
        """`value` below 2^width as `width` (a multiple of 8) even bits, the most significant first."""
        self._coder.encode(np.frombuffer(value.to_bytes(width // 8, "big"), np.uint8).astype(np.int32), _model(EVEN))

    def bits(self, bits: Bits) -> None:
        """A run of bits, 1-D, after its probability; nothing at all for no bits."""
        if not bits.size:
            return
        q = probability(int(np.count_nonzero(bits)), bits.size)
        self.number(q, 16)
        if q in (ALL_ZERO, ALL_ONE):
            return
        packed = np.packbits(bits)
        if bits.size % 8 and q > EVEN:  # the likelier bit fills up the last byte
            packed[-1] |= 0xFF >> bits.size % 8
        self._coder.encode(packed.astype(np.int32), _model(q))

    def symbols(self, values: NDArray[np.int8], alphabet: NDArray[np.int8] | None = None) -> None:
        """A run of at most 16 different int8 values: the alphabet, then for each value but the last which are it.

        `alphabet`: the `distinct` values, where the caller has them.
        """
        if not values.size:
            return
        alphabet = distinct(values) if alphabet is None else alphabet
        self.number(alphabet.size - 1, 8)
        for value in alphabet:
            self.number(int(value) + 128, 8)
        hits = np.zeros(values.size, np.bool_)
        for value in alphabet[:-1]:
            values = values[~hits] if hits.any() else values
            hits = values == value
            self.bits(hits)

    def values(self, values: NDArray[np.int8]) -> None:
        """A run of int8 values: as `symbols` if they are at most 16 different ones, else by a table of frequencies."""
        if (alphabet := distinct(values)).size <= ALPHABET:
            self.symbols(values, alphabet)
            return
        counts = np.roll(histogram(values), 128)  # of value - 128 first
        shares = np.where(counts > 0, np.maximum(counts * 65535 // counts.max(), 1), 0)
        self.number(_TABLE, 8)
        self._coder.encode(shares.astype(">u2").view(np.uint8).astype(np.int32), _model(EVEN))
        model = _table_model(shares)
        for start in range(0, values.size, _AT_ONCE):
            self._coder.encode(values[start : start + _AT_ONCE].astype(np.int32) + 128, model)


class BitReader:
    """Reads what a Writer wrote, given the lengths. Any bytes give some result or a TicketError."""

    def __init__(self, data: bytes) -> None:
        if len(data) % 4:
            raise TicketError(f"a coded stream has {len(data)} bytes; streams are whole words of 4")
        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def _bytes(self, count: int, q: int) -> NDArray[np.uint8]:
        try:
            symbols: NDArray[np.int32] = self._coder.decode(_model(q), count)
        except AssertionError as error:
            raise TicketError("a coded stream holds what no writer writes") from error
        return symbols.astype(np.uint8)

    def number(self, width: int) -> int:
        """The next number of `width` bits."""
        return int.from_bytes(self._bytes(width // 8, EVEN).tobytes(), "big")

    def bits(self, count: int) -> Bits:
        """The next run of `count` bits."""
        if not count:
            return np.zeros(0, np.bool_)
        q = self.number(16)
        if q in (ALL_ZERO, ALL_ONE):
            return np.full(count, q == ALL_ONE)
        return np.unpackbits(self._bytes((count + 7) // 8, q), count=count).view(np.bool_)

    def values(self, count: int) -> NDArray[np.int8]:
        """The next run of `count` int8 values."""
        if not count:
            return np.zeros(0, np.int8)
        first = self.number(8)
        if first != _TABLE:
            return self._symbols(first + 1, count)
        shares = self._bytes(512, EVEN).view(">u2").astype(np.int64)
        if not shares.any():
            raise TicketError("a coded stream has a table of frequencies without any")
        found, model = np.empty(count, np.int8), _table_model(shares)
        try:
            for start in range(0, count, _AT_ONCE):
                part: NDArray[np.int32] = self._coder.decode(model, min(_AT_ONCE, count - start))
                found[start : start + _AT_ONCE] = part - 128
        except AssertionError as error:
            raise TicketError("a coded stream holds what no writer writes") from error
        return found

    def symbols(self, count: int) -> NDArray[np.int8]:
        """The next run of `count` symbols."""
        return self._symbols(self.number(8) + 1, count) if count else np.zeros(0, np.int8)

    def _symbols(self, size: int, count: int) -> NDArray[np.int8]:
        if size > ALPHABET:
            raise TicketError(f"a coded stream has {size} different symbols; at most {ALPHABET} are allowed")
        alphabet = [self.number(8) - 128 for _ in range(size)]
        if alphabet != sorted(set(alphabet)):
            raise TicketError("the symbols of a coded stream do not ascend")
        values, open_ = np.full(count, alphabet[-1], np.int8), np.ones(count, np.bool_)
        left = count
        for value in alphabet[:-1]:
            hits = self.bits(left)
            filled = int(np.count_nonzero(hits))
            if not 0 < filled < left:
                raise TicketError(f"symbol {value} of a coded stream fills {filled} of {left} positions")
            if left == count:
                values, open_ = np.where(hits, np.int8(value), values), ~hits
            else:
                positions = np.flatnonzero(open_)[hits]
                values[positions], open_[positions] = value, False
            left -= filled
        return values

    def end(self) -> None:
        """TicketError if the stream certainly does not end here."""
        if not self._coder.maybe_exhausted():
            raise TicketError("a coded stream ends elsewhere than its content")


def histogram(values: NDArray[np.int8]) -> NDArray[np.int64]:
    """How often each byte comes, (256,), of an array of any shape."""
    flat, counts = values.reshape(-1).view(np.uint8), np.zeros(256, np.int64)
    for start in range(0, flat.size, _AT_ONCE):  # bincount widens its input to 8 bytes each
        counts += np.bincount(flat[start : start + _AT_ONCE], minlength=256)
    return counts


def distinct(values: NDArray[np.int8]) -> NDArray[np.int8]:
    """The different values of an array of any shape, ascending."""
    return np.sort(np.flatnonzero(histogram(values)).astype(np.uint8).view(np.int8))
