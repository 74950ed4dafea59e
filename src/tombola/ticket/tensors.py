"""Small helpers on tensors and names that every file of this package shares."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tombola.errors import TicketError
from tombola.machine.memory import whereabouts

DTYPES = frozenset(
    {
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64,
        torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz,
        torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool,
    }
)  # fmt: skip
Tensors = dict[str, Tensor]
SHOWN = 3  # mismatches listed in one error line


def show(name: object) -> str:
    """`name` fit for a one-line message: quoted, control characters escaped, cut at 80 characters."""
    text = repr(str(name))
    return text if len(text) <= 80 else text[:76] + "...'"


def first_few(problems: list[str]) -> str:
    """The first problems on one line, with the number of those left out."""
    rest = len(problems) - SHOWN
    return "; ".join(problems[:SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


def check_name(name: object) -> str:
    """`name` as it is, if it can be a state_dict name: printable, 1 to 1000 characters."""
    if not isinstance(name, str) or not 0 < len(name) <= 1000 or not name.isprintable():
        raise TicketError(f"{show(name)} cannot name a tensor; give 1 to 1000 printable characters")
    return name


def is_dense(tensor: Tensor) -> bool:
    """Whether it has values in memory of its own layout, so that others can share them."""
    return tensor.layout is torch.strided and not is_lazy(tensor)


def own(tensor: object, name: str) -> Tensor:
    """A private dense CPU copy of `tensor`, any shape, any dtype that safetensors holds."""
    if not isinstance(tensor, Tensor) or is_lazy(tensor):
        kind = "an uninitialised parameter" if isinstance(tensor, Tensor) else f"a {type(tensor).__name__}"
        raise TicketError(f"{show(name)} is {kind}; a ticket holds initialised tensors only")
    if tensor.dtype not in DTYPES:
        known = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in DTYPES))
        raise TicketError(f"{show(name)} is {tensor.dtype}, which a ticket does not hold; cast it to one of {known}")
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise TicketError(
            f"{show(name)} is {tensor.layout}, on {tensor.device}; a ticket holds dense tensors with memory"
        )
    copy = tensor.detach().to("cpu").resolve_conj().resolve_neg()
    return copy.clone(memory_format=torch.contiguous_format)


def own_all(tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Private copies of all tensors, under checked names, in the given order."""
    return {check_name(name): own(tensor, name) for name, tensor in (tensors or {}).items()}


def raw_bytes(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The bytes of a tensor of any shape, dtype and device: uint8, 1-D."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    result: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = flat.numpy()
    return result


def count_kept(keep: Tensor) -> int:
    """How many entries of a bool tensor on the CPU are True; many times as fast as torch's sum."""
    return int(np.count_nonzero(keep.numpy()))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """True when dtype, shape and every bit agree (so -0.0 differs from 0.0, and a NaN equals itself)."""
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(raw_bytes(a), raw_bytes(b))


def hash_state(state: Mapping[str, Tensor]) -> str:
    """sha256 (hex) over name, dtype, shape and bytes of every tensor, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        hash_into(digest, name, state[name])
    return digest.hexdigest()


def hash_into(digest: Any, name: str, tensor: Tensor) -> None:
    """Add a tensor to a hash as `hash_state` does, which takes them in order of name."""
    digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
    digest.update(raw_bytes(tensor).data)


def ties(state: Mapping[str, Tensor], owners: Iterable[str] = ()) -> dict[str, str]:
    """alias -> owner for names that share one tensor's memory; `owners` own first, then the first name."""
    seen: dict[tuple[object, ...], str] = {}
    aliases: dict[str, str] = {}
    for name in [*(n for n in owners if n in state), *state]:
        tensor = state[name]
        key = (tensor.device, whereabouts(tensor), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and whereabouts(tensor) and seen.setdefault(key, name) != name:
            aliases[name] = seen[key]
    return aliases


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The module's live state_dict (shares memory), refused if an entry could not be read or written."""
    state: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor) or is_lazy(value) or value.is_meta:
            raise TicketError(
                f"entry {show(name)} of the model's state_dict is not an initialised tensor; "
                "run lazy modules once, leave the meta device, drop extra states"
            )
        state[name] = value
    return state


def mismatches(have: Mapping[str, Tensor], want: Mapping[str, Tensor], *, subset: bool = False) -> list[str]:
    """What keeps `want` from being written into `have`; with `subset`, names only in `have` are fine."""
    problems = [f"{show(name)} is not in the model" for name in want if name not in have]
    for name, tensor in want.items():
        if name in have and have[name].shape != tensor.shape:
            shapes = f"{tuple(have[name].shape)}, the ticket {tuple(tensor.shape)}"
            problems.append(f"{show(name)}: the model has shape {shapes}")
        elif name in have and have[name].dtype != tensor.dtype:
            problems.append(f"{show(name)}: the model has {have[name].dtype}, the ticket {tensor.dtype}")
    if not subset:
        problems += [f"{show(name)} is not in the ticket" for name in have if name not in want]
    return problems


def write_into(module: nn.Module, values: Mapping[str, Tensor], *, subset: bool = False) -> None:
    """Copy `values` into the module's tensors in place, in order; TicketError if they do not fit."""
    state = tensors_of(module)
    problems = mismatches(state, values, subset=subset)
    if problems:
        raise TicketError(f"the ticket does not fit this model: {first_few(problems)}")
    with torch.no_grad():
        for name, tensor in values.items():
            state[name].copy_(tensor)
