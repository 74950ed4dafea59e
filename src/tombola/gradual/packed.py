"""Masks as bits: in checkpoints, in the Trainer's JSON, and from rank 0 to the others."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from tombola.errors import TombolaError


def packed(keep: Tensor) -> Tensor:
    """A bool tensor as bits: uint8 (ceil(n / 8),), the first in the highest bit, on the CPU."""
    return torch.from_numpy(np.packbits(keep.cpu().numpy().reshape(-1)))


def unpacked(name: str, bits: Tensor, shape: torch.Size) -> Tensor:
    """The bool tensor of that shape, on the CPU; TombolaError for bits of another number."""
    count = shape.numel()
    if bits.dtype != torch.uint8 or bits.numel() != (count + 7) // 8:
        raise TombolaError(f"the state of {name!r} is not of its {count} weights; load that of the same network")
    return torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=count).astype(np.bool_)).view(shape)


def as_texts(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """uint8 tensors of one dimension as compressed text, for JSON."""
    return {
        name: base64.b64encode(zlib.compress(tensor.cpu().numpy().tobytes())).decode("ascii")
        for name, tensor in tensors.items()
    }


def from_texts(texts: Mapping[str, str]) -> dict[str, Tensor]:
    """What `as_texts` was given; TombolaError for other text."""
    try:
        data = {name: zlib.decompress(base64.b64decode(text, validate=True)) for name, text in texts.items()}
    except (ValueError, TypeError, AttributeError, zlib.error) as error:
        raise TombolaError("the state of Gradual in trainer_state.json is damaged; take another checkpoint") from error
    return {name: torch.frombuffer(bytearray(part), dtype=torch.uint8) for name, part in data.items()}
