"""A delta's file: safetensors, of which each changed tensor has three: its positions' code and parameters, and values.

Complex values are pairs of real ones, (n, 2). A checksum of all that is held stands in the header: integrity, not
authenticity.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import safetensors
import safetensors.torch
import torch
from msgspec import Meta
from torch import Tensor

from tombola.deltas import gaps
from tombola.deltas.change import Change
from tombola.errors import TombolaError
from tombola.ticket.tensors import raw_bytes

FORMAT = 1
_KEY = "tombola_delta"
_CODE, _PARAMETERS, _VALUES = "code", "parameters", "values"

_PAIRS = (torch.float16, torch.float32, torch.float64)
"""Of which complex values are made."""

_Name = Annotated[str, Meta(max_length=1000)]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, le=2**48)], ...], Meta(max_length=64)]
    count: Annotated[int, Meta(ge=1)]
    base: Annotated[str, Meta(pattern="^([0-9a-f]{16})?$")] = ""


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    tensors: dict[_Name, _Entry]
    tied: dict[_Name, _Name] = {}
    checksum: Annotated[str, Meta(pattern="^([0-9a-f]{32})?$")] = ""


def to_bytes(changes: Mapping[str, Change], tied: Mapping[str, str]) -> bytes:
    """The file's bytes: equal deltas give equal bytes."""
    tensors: dict[str, Tensor] = {}
    entries: dict[str, _Entry] = {}
    for name, change in changes.items():
        values = change.values
        code, parameters = gaps.encode(change.positions.numpy())
        tensors[f"{_CODE}/{name}"] = torch.from_numpy(code)
        tensors[f"{_PARAMETERS}/{name}"] = torch.from_numpy(parameters)
        plain = torch.view_as_real(values) if values.is_complex() else values
        tensors[f"{_VALUES}/{name}"] = plain.contiguous()
        entries[name] = _Entry(tuple(change.shape), len(change.positions), change.base)
    header = _Header(FORMAT, entries, dict(tied))
    header = msgspec.structs.replace(header, checksum=_checksum(header, tensors))
    return safetensors.torch.save(tensors, {_KEY: msgspec.json.encode(header).decode()})


def _checksum(header: _Header, tensors: Mapping[str, Tensor]) -> str:
    """32 hex digits of the header without its checksum, and of every tensor's name, kind and bytes."""
    total = hashlib.blake2b(msgspec.json.encode(msgspec.structs.replace(header, checksum="")), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(raw_bytes(tensor).data)
    return total.hexdigest()


def is_delta(path: Path) -> bool:
    """Whether a file says that it is a delta."""
    try:
        with safetensors.safe_open(path, "pt") as opened:
            return _KEY in (opened.metadata() or {})
    except Exception:  # the library raises many kinds for a crafted header
        return False


def read(path: Path) -> tuple[dict[str, Change], dict[str, str]]:
    """The changes that a file holds, and which names share a tensor.

    Raises:
        TombolaError: no such file, or none of this format, or damaged.
    """
    if not path.is_file():
        raise TombolaError(f"no delta at {path}; give a file that `tombola delta` wrote")
    try:
        with safetensors.safe_open(path, "pt") as opened:
            text = (opened.metadata() or {}).get(_KEY)
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except Exception as error:  # the library raises many kinds for a crafted header
        raise TombolaError(
            f"{path} cannot be read as safetensors: {str(error)[:120]!r}; make the delta again"
        ) from error
    try:
        if text is None:
            raise TombolaError("it is no delta, but other tensors")
        header = msgspec.json.decode(text, type=_Header)
        if header.format != FORMAT:
            raise TombolaError(f"its format is {header.format}, and this Tombola reads {FORMAT}")
        if header.checksum != _checksum(header, tensors):
            raise TombolaError("it is damaged: its content does not match its checksum")
        found = {name: _change(name, entry, tensors) for name, entry in header.tensors.items()}
        if tensors or not set(header.tied.values()) <= set(found) or set(header.tied) & set(found):
            raise TombolaError("it has tensors or names beside those of its changes")
    except (msgspec.DecodeError, TombolaError) as error:
        raise TombolaError(f"{path} holds no sound delta: {str(error)[:200]}; make it again") from None
    return found, header.tied


def _change(name: str, entry: _Entry, tensors: dict[str, Tensor]) -> Change:
    code, parameters, values = (tensors.pop(f"{kind}/{name}", None) for kind in (_CODE, _PARAMETERS, _VALUES))
    if code is None or parameters is None or values is None:
        raise TombolaError(f"{name[:80]!r} lacks its positions or values")
    right = (code.dtype, parameters.dtype) == (torch.uint8, torch.uint32) and code.dim() == parameters.dim() == 1
    if tuple(values.shape) == (entry.count, 2) and values.dtype in _PAIRS:
        values = torch.view_as_complex(
            values.clone()
        )  # a file's tensors lie at any multiple of 8 bytes, which is too few
    if not right or tuple(values.shape) != (entry.count,):
        raise TombolaError(f"{name[:80]!r} has positions or values of the wrong kind")
    positions = gaps.decode(code.numpy(), parameters.numpy(), entry.count, math.prod(entry.shape))
    return Change(entry.shape, torch.from_numpy(positions), values, entry.base)
