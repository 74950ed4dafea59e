"""Raw deflate streams (RFC 1951, no zlib or gzip wrapper): what a ticket's index and its coded values are stored as."""

from __future__ import annotations

import zlib

from tombola.errors import TicketError

_RAW = -15  # a window of 32 KiB, no wrapper


def deflated(data: bytes, level: int = 9, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    """The stream of some bytes."""
    writer = zlib.compressobj(level, zlib.DEFLATED, _RAW, strategy=strategy)
    return writer.compress(data) + writer.flush()


def inflated(data: bytes, limit: int, what: str) -> tuple[bytes, bytes]:
    """What the stream at the beginning of `data` holds, and what follows the stream.

    Raises:
        TicketError: no stream, one that is cut short, or one of more than `limit` bytes; `what` says whose.
    """
    reader = zlib.decompressobj(_RAW)
    try:
        found = reader.decompress(data, limit + 1)
    except zlib.error as error:
        raise TicketError(f"{what} cannot be decompressed: {error}") from error
    if len(found) > limit:
        raise TicketError(f"{what} has more than {limit} bytes, which none needs")
    if not reader.eof:
        raise TicketError(f"{what} is cut short")
    return found, reader.unused_data
