"""A base that tickets name by its content instead of holding it: hashes, the check of what is given, other heads."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor, nn

from tombola.errors import TicketError
from tombola.fields import described
from tombola.formats import plural
from tombola.models.checkpoint import read_state
from tombola.parameters import unwrap
from tombola.ticket.tensors import Tensors, first_few, raw_bytes, show, tensors_of

Base: TypeAlias = nn.Module | Mapping[str, Tensor] | str | os.PathLike[str]
"""A network with its weights, its state_dict, or the file of one."""
SHORT = 8
"""Hex digits of a tensor's hash that a ticket holds, to say which one differs; `combined` decides."""


def state_of(base: Base) -> Tensors:
    """The tensors of a base by name, not copied.

    Raises:
        TicketError: it is none, or has entries without values; TombolaError: the file cannot be read.
    """
    if isinstance(base, str | os.PathLike):
        return read_state(os.fspath(base))
    if isinstance(base, nn.Module):
        return tensors_of(unwrap(base))
    if not isinstance(base, Mapping) or not all(isinstance(value, Tensor) for value in base.values()):
        raise TicketError(f"the base is {described(base)}; give a network, its state_dict, or a checkpoint's file")
    return dict(base)


def completed(state: Mapping[str, Tensor], tied: Mapping[str, str]) -> Tensors:
    """The state with the names that it lacks of tensors that it has under another: files hold tied ones once."""
    aliases = {alias: state[owner] for alias, owner in tied.items() if alias not in state and owner in state}
    return {**state, **aliases}


def content_hash(tensor: Tensor) -> str:
    """sha256 (hex) of a tensor's dtype, shape and bytes."""
    digest = hashlib.sha256(f"{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
    digest.update(raw_bytes(tensor).data)
    return digest.hexdigest()


def combined(hashes: Mapping[str, str]) -> str:
    """sha256 (hex) over the names and hashes of tensors, in order of name: the base's own hash."""
    text = "".join(f"{name}\0{hashes[name]}\0" for name in sorted(hashes))
    return hashlib.sha256(text.encode()).hexdigest()


def check_same(named: Mapping[str, str], whole: str, found: Mapping[str, str]) -> None:
    """TicketError unless tensors with the hashes `found` are those that a ticket names.

    Args:
        named: name -> first hex digits of its hash.
        whole: the hash over all of them.
        found: name -> hash, of the tensors that there are among them.
    """
    missing = [name for name in named if name not in found]
    if missing:
        listed = first_few([show(name) for name in missing])
        raise TicketError(f"the base lacks {listed}; give the one that the ticket was made on (hash {whole[:12]})")
    other = [name for name, start in named.items() if not found[name].startswith(start)]
    if other or combined({name: found[name] for name in named}) != whole:
        listed = (
            f"{first_few([show(name) for name in other])} of {plural(len(named), 'tensor')}" if other else "content"
        )
        raise TicketError(
            f"the base differs from the one that the ticket was made on, in {listed}; give that one (hash {whole[:12]})"
        )


def check_base(named: Mapping[str, str], whole: str, state: Mapping[str, Tensor]) -> None:
    """`check_same` of tensors."""
    check_same(named, whole, {name: content_hash(state[name]) for name in named if name in state})


def refit_(module: nn.Module, held: Mapping[str, Tensor]) -> None:
    """Give layers of the module the sizes of what a ticket holds of them, in place; see `refits`."""
    for path, layer in refits(dict(module.named_modules()), held).items():
        put_layer(module, path, layer)


def refits(parts: Mapping[str, nn.Module], held: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """Path -> a layer of the sizes and values that a ticket holds: a head with another number of classes.

    Linear and convolutional layers and batch norms, of which all is held. Others stay as they are, and will not fit.
    """
    made = {}
    for path in dict.fromkeys(name.rpartition(".")[0] for name in held):
        part, inside = parts.get(path), _within(held, path)
        if path and part is not None and type(part) in _SIZED and _other_sizes(part.state_dict(), inside):
            made[path] = refitted(part, inside)
    return made


def put_layer(module: nn.Module, path: str, layer: nn.Module) -> None:
    """Put a layer in the place of the one at that path."""
    parent, _, leaf = path.rpartition(".")
    setattr(module.get_submodule(parent), leaf, layer)


def refitted(part: nn.Module, held: Mapping[str, Tensor]) -> nn.Module:
    """Another layer of that kind, with parameters and buffers of the sizes and values of `held`."""
    kind, own = type(part), {**dict(part.named_parameters()), **dict(part.named_buffers())}
    fresh = kind.__new__(kind)
    fresh.__dict__.update({name: copy.copy(value) for name, value in part.__dict__.items()})
    for name, value in held.items():
        placed = value.to(own[name].device, copy=True)
        if name in fresh._buffers:
            fresh._buffers[name] = placed
        else:
            fresh._parameters[name] = nn.Parameter(placed, own[name].requires_grad)
    weight = held["weight"]
    if isinstance(fresh, nn.Linear):
        fresh.out_features, fresh.in_features = weight.shape
    elif isinstance(fresh, nn.modules.batchnorm._BatchNorm):
        fresh.num_features = len(weight)
    elif isinstance(fresh, nn.modules.conv._ConvNd):
        fresh.out_channels, fresh.in_channels = len(weight), weight.shape[1] * fresh.groups
    return fresh


def _other_sizes(own: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> bool:
    """Whether a layer's tensors are held by the same names and dimensions, in other sizes."""
    alike = own.keys() == held.keys() and all(own[name].dim() == value.dim() for name, value in held.items())
    return alike and any(own[name].shape != value.shape for name, value in held.items())


def _within(held: Mapping[str, Tensor], path: str) -> Tensors:
    """What is held of the layer itself, by its own names."""
    found = ((name.rpartition("."), value) for name, value in held.items())
    return {leaf: value for (parent, _, leaf), value in found if parent == path}


_SIZED: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
)
