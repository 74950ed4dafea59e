"""Text as a raw deflate stream (RFC 1951), with the same bytes on every machine.

zlib's compressed bytes differ between its versions and builds, and equal tickets must give equal bytes. So the
writer is our own: one block with the fixed codes, matches found greedily. Any inflate reads it; here zlib does.
"""

from __future__ import annotations

import bisect
import zlib

from tombola.errors import TicketError

_WINDOW, _SHORTEST, _LONGEST = 32768, 3, 258
_TRIED = 32  # earlier places compared for the longest match
# RFC 1951, 3.2.5: the first length and distance of each code; the extra bits are the rest.
_LENGTHS = (
    3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258,
)  # fmt: skip
_LENGTH_EXTRA = (*[0] * 8, *[e for e in range(1, 6) for _ in range(4)], 0)
_DISTANCES = tuple(1 + (i if i < 2 else ((2 + i % 2) << (i // 2 - 1))) for i in range(30))


class _BitSink:
    """Bits from the least significant end of each byte."""

    def __init__(self) -> None:
        self._out, self._held, self._count = bytearray(), 0, 0

    def put(self, value: int, width: int) -> None:
        self._held |= value << self._count
        self._count += width
        while self._count >= 8:
            self._out.append(self._held & 255)
            self._held >>= 8
            self._count -= 8

    def code(self, value: int, width: int) -> None:
        """A Huffman code: its most significant bit first."""
        self.put(int(f"{value:0{width}b}"[::-1], 2), width)

    def symbol(self, symbol: int) -> None:
        """A literal, the end or a length in the fixed code (RFC 1951, 3.2.6)."""
        if symbol < 144:
            self.code(0x30 + symbol, 8)
        elif symbol < 256:
            self.code(0x190 + symbol - 144, 9)
        elif symbol < 280:
            self.code(symbol - 256, 7)
        else:
            self.code(0xC0 + symbol - 280, 8)

    def match(self, length: int, distance: int) -> None:
        at = bisect.bisect_right(_LENGTHS, length) - 1
        self.symbol(257 + at)
        self.put(length - _LENGTHS[at], _LENGTH_EXTRA[at])
        at = bisect.bisect_right(_DISTANCES, distance) - 1
        self.code(at, 5)
        self.put(distance - _DISTANCES[at], max(0, at // 2 - 1))

    def bytes(self) -> bytes:
        return bytes(self._out) + (bytes([self._held]) if self._count else b"")


def deflate(data: bytes) -> bytes:
    """`data` as a raw deflate stream; about a megabyte per second."""
    sink = _BitSink()
    sink.put(1, 1)  # the last block
    sink.put(1, 2)  # fixed codes
    seen: dict[bytes, list[int]] = {}
    place = 0
    while place < len(data):
        length, distance = _longest(data, place, seen.get(data[place : place + _SHORTEST], []))
        if length:
            sink.match(length, distance)
        else:
            sink.symbol(data[place])
        for start in range(place, place + max(length, 1)):
            seen.setdefault(data[start : start + _SHORTEST], []).append(start)
        place += max(length, 1)
    sink.symbol(256)
    return sink.bytes()


def _longest(data: bytes, place: int, earlier: list[int]) -> tuple[int, int]:
    """(length, distance) of the longest match among the nearest earlier places, the nearest of equals; (0, 0): none."""
    best, distance = 0, 0
    limit = min(_LONGEST, len(data) - place)
    for start in reversed(earlier[-_TRIED:]):
        if place - start > _WINDOW or best == limit:
            break
        if data[start + best] != data[place + best]:
            continue
        length = best if data[start : start + best] == data[place : place + best] else 0
        while length < limit and data[start + length] == data[place + length]:
            length += 1
        if length > best:
            best, distance = length, place - start
    return (best, distance) if best >= _SHORTEST else (0, 0)


def inflate(data: bytes, limit: int) -> bytes:
    """What `data` holds; TicketError if that is no whole stream, has more than `limit` bytes, or has bytes after it."""
    reader = zlib.decompressobj(-15)
    try:
        found = reader.decompress(data, limit + 1)
    except zlib.error as error:
        raise TicketError(f"the ticket's index cannot be decompressed: {error}") from error
    if len(found) > limit:
        raise TicketError(f"the ticket's index has more than {limit} bytes, which none needs")
    if not reader.eof or reader.unused_data:
        raise TicketError("the ticket's index is cut short or followed by other bytes")
    return found
