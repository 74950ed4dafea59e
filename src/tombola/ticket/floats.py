"""Floating-point values as one stream: their bytes by place, each place coded by how often each byte comes.

Weights crowd around a few powers of two, so that their exponents take some three bits of eight, and often carry fewer
digits than their dtype holds (Hershcovitch et al., ZipNN, arXiv:2411.05239, compress networks by this). Digits that
look random stay as they are. Layout: docs/ticket-format.md.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola.errors import TicketError
from tombola.ticket.bitcode import ALPHABET, BitReader, BitWriter, histogram
from tombola.ticket.tensors import raw_bytes

VALUES_PER_BYTE: Final = 256  # a stream stands for no more, since a few bytes could claim any number
_TABLE: Final = 514  # bytes of a table of frequencies
_ENTRY: Final = 32  # bytes that a stream must save, since its entry in the index is longer
_WORTH: Final = 31 / 32  # of a place's bytes: what coding must come below, since it takes time

Bytes = NDArray[np.uint8]


def encode(values: Tensor) -> bytes | None:
    """Floating-point values of any shape and dtype as a stream; None where these are others, or no smaller."""
    if not values.is_floating_point() or not values.numel():
        return None
    planes = _planes(raw_bytes(values), values.element_size())
    coded = [place for place, plane in enumerate(planes) if _pays(plane)]
    writer = BitWriter()
    for place in coded:
        writer.values(planes[place].view(np.int8))
    plain = [planes[place].tobytes() for place in range(len(planes)) if place not in coded]
    stream = b"".join([bytes([sum(1 << place for place in coded)]), *plain, writer.data()])
    smaller = coded and len(stream) + _ENTRY <= values.nbytes
    return stream if smaller and values.numel() <= VALUES_PER_BYTE * len(stream) else None


def decode(stream: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The values that `encode` made the stream of, to the bit, or others for other bytes.

    Raises:
        TicketError: no stream of so many values.
    """
    count, width = math.prod(shape), dtype.itemsize
    if not dtype.is_floating_point or not 0 < count <= VALUES_PER_BYTE * len(stream):
        raise TicketError(f"{len(stream)} coded bytes cannot be {count} values of {str(dtype).removeprefix('torch.')}")
    coded = [place for place in range(8) if stream[0] >> place & 1]
    start = 1 + count * (width - len(coded))
    if not coded or coded[-1] >= width or len(stream) < start:
        raise TicketError(f"a stream of {count} values names bytes {coded} of {width} as coded, or is cut short")
    planes, at = np.empty((count, width), np.uint8), 1
    for place in range(width):
        if place not in coded:
            planes[:, place] = np.frombuffer(stream, np.uint8, count, at)
            at += count
    reader = BitReader(stream[start:])
    for place in coded:
        planes[:, place] = reader.values(count).view(np.uint8)
    reader.end()
    words = planes.reshape(-1).view(f"<u{width}")
    one = words.dtype.type(1)
    turned = (words >> one) | (words << words.dtype.type(8 * width - 1))
    return torch.from_numpy(turned.view(np.uint8)).view(dtype).reshape(shape)


def _planes(data: Bytes, width: int) -> list[Bytes]:
    """The bytes of each place, lowest first, of words turned by one bit: the exponent has the last to itself."""
    words = data.view(f"<u{width}")
    turned = (words << words.dtype.type(1)) | (words >> words.dtype.type(8 * width - 1))
    return [np.ascontiguousarray(plane) for plane in turned.view(np.uint8).reshape(-1, width).T]


def _pays(plane: Bytes) -> bool:
    counts = histogram(plane.view(np.int8))
    counts = counts[counts > 0]
    bits = float((counts * np.log2(plane.size / counts)).sum())
    about = _TABLE if counts.size > ALPHABET else 2 + 3 * counts.size
    return bits / 8 + about < _WORTH * plane.size
