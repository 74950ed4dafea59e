"""Floating-point values as one stream: their bytes by place, each place deflated where that is smaller.

Weights crowd around a few powers of two, so that their exponents take some three bits of eight, and often carry fewer
digits than their dtype holds (Hershcovitch et al., ZipNN, arXiv:2411.05239, compress networks by this). Digits that
look random stay as they are. Layout: docs/ticket-format.md.
"""

from __future__ import annotations

import math
import zlib
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola.errors import TicketError
from tombola.ticket.bitcode import histogram
from tombola.ticket.deflate import deflated, inflated
from tombola.ticket.fields import WEIGHTS_PER_BYTE
from tombola.ticket.tensors import raw_bytes

_WORTH: Final = 31 / 32  # of a place's bytes: what coding must come below, since it takes time
_ENTRY: Final = 32  # bytes that a stream must save, since its entry in the index is longer
_FEW: Final = 1.2  # bits of entropy a byte, below which Huffman's code alone takes much more

Bytes = NDArray[np.uint8]


def encode(values: Tensor) -> bytes | None:
    """Floating-point values of any shape and dtype as a stream; None where these are others, or no smaller."""
    if not values.is_floating_point() or not values.numel():
        return None
    coded, plain, streams = 0, [], []
    for place, plane in enumerate(_planes(raw_bytes(values), values.element_size())):
        if (stream := _coded(plane)) is None:
            plain.append(plane.tobytes())
        else:
            coded |= 1 << place
            streams.append(stream)
    found = b"".join([bytes([coded]), *plain, *streams])
    smaller = len(found) + _ENTRY <= values.nbytes and values.numel() <= WEIGHTS_PER_BYTE * len(found)
    return found if coded and smaller else None


def decode(stream: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The values that `encode` made the stream of, to the bit, or others for other bytes.

    Raises:
        TicketError: no stream of so many values.
    """
    count, width = math.prod(shape), dtype.itemsize
    if not dtype.is_floating_point or not 0 < count <= WEIGHTS_PER_BYTE * len(stream):
        raise TicketError(f"{len(stream)} coded bytes cannot be {count} values of {str(dtype).removeprefix('torch.')}")
    coded = [place for place in range(8) if stream[0] >> place & 1]
    plain = [place for place in range(width) if place not in coded]
    start = 1 + count * len(plain)
    if not coded or coded[-1] >= width or len(stream) < start:
        raise TicketError(f"a stream of {count} values names bytes {coded} of {width} as coded, or is cut short")
    planes = np.empty((count, width), np.uint8)
    for at, place in enumerate(plain):
        planes[:, place] = np.frombuffer(stream, np.uint8, count, 1 + at * count)
    rest = stream[start:]
    for place in coded:
        found, rest = inflated(rest, count, f"byte {place} of {count} values")
        if len(found) != count:
            raise TicketError(f"byte {place} of {count} values is there {len(found)} times")
        planes[:, place] = np.frombuffer(found, np.uint8)
    if rest:
        raise TicketError(f"a stream of {count} values is followed by other bytes")
    words = planes.reshape(-1).view(f"<u{width}")
    turned = (words >> words.dtype.type(1)) | (words << words.dtype.type(8 * width - 1))
    return torch.from_numpy(turned.view(np.uint8)).view(dtype).reshape(shape)


def _planes(data: Bytes, width: int) -> list[Bytes]:
    """The bytes of each place, lowest first, of words turned by one bit: the exponent has the last to itself."""
    words = data.view(f"<u{width}")
    turned = (words << words.dtype.type(1)) | (words >> words.dtype.type(8 * width - 1))
    return [np.ascontiguousarray(plane) for plane in turned.view(np.uint8).reshape(-1, width).T]


def _coded(plane: Bytes) -> bytes | None:
    """The deflate stream of a place's bytes, if it is worth it."""
    counts = histogram(plane.view(np.int8))
    counts = counts[counts > 0]
    bits = float((counts * np.log2(plane.size / counts)).sum()) / plane.size
    if bits >= 8 * _WORTH:
        return None
    alone = bits >= _FEW  # looking for repetitions takes five times as long, and finds none among many values
    stream = deflated(plane.tobytes(), 6, zlib.Z_HUFFMAN_ONLY if alone else zlib.Z_DEFAULT_STRATEGY)
    return stream if len(stream) < _WORTH * plane.size else None
