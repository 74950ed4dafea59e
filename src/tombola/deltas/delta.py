"""Delta: which weights of two checkpoints differ, and what they became, to the bit."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tombola.deltas import file
from tombola.deltas.change import Change
from tombola.deltas.keep import Tall, chosen, largest
from tombola.errors import TombolaError
from tombola.fields import checked, described
from tombola.formats import density as percent
from tombola.formats import plural
from tombola.machine.autocast import forget_casts
from tombola.machine.memory import check_apart, whereabouts
from tombola.parameters import unwrap
from tombola.runs.atomic import write_bytes
from tombola.ticket.tensors import raw_bytes, ties

State = Mapping[str, Tensor]
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, eq=False)
class Delta:
    """The difference of two checkpoints.

    `changes`: name -> what changed, of the tensors that did. `tied`: other name of such a tensor -> the name above.
    """

    changes: Mapping[str, Change]
    tied: Mapping[str, str] = field(default_factory=dict)

    @property
    def changed(self) -> int:
        """How many values differ."""
        return sum(len(change.positions) for change in self.changes.values())

    @checked
    def save(self, path: str | os.PathLike[str]) -> int:
        """Write the file, whole or not at all, and return its size in bytes. TombolaError if it cannot."""
        data = file.to_bytes(self.changes, self.tied)
        write_bytes(Path(path), data)
        return len(data)

    @classmethod
    @checked
    def load(cls, path: str | os.PathLike[str]) -> Delta:
        """Read a file; TombolaError for anything that is not a sound one."""
        return cls(*file.read(Path(path)))

    @torch.no_grad()
    def apply_(self, target: nn.Module | State) -> None:
        """Turn the base into what it became, in place and to the bit.

        Args:
            target: the model, or the dict of its tensors, on any device, that the difference was taken from.

        Raises:
            TombolaError: it has other tensors, or other values where something changed; nothing is written then.
        """
        state = state_of(target)
        names = {name: owner for name, owner in self.tied.items() if name in state}
        untied = {name: owner for name, owner in names.items() if not _same(state[name], state.get(owner))}
        changes = {**self.changes, **{name: self.changes[owner] for name, owner in untied.items()}}
        for name, change in changes.items():
            tensor = state.get(name)
            if tensor is None:
                raise TombolaError(f"{name!r} changes and is not in the target; give the base of this delta")
            if (tuple(tensor.shape), tensor.dtype) != (change.shape, change.values.dtype):
                raise TombolaError(
                    f"{name!r} is {tuple(tensor.shape)} {_short(tensor.dtype)} in the target and {change.shape} "
                    f"{_short(change.values.dtype)} in the delta; give the base of this delta"
                )
            if change.base and fingerprint(_at(tensor, change.positions)) != change.base:
                raise TombolaError(
                    f"{name!r} has other values than the base of this delta where it changes: the target is another "
                    "checkpoint, or has the delta already"
                )
        for name in changes:
            check_apart(name, state[name])
        for name, change in changes.items():
            _put(state[name], change)
        forget_casts()

    def patches(self) -> dict[str, tuple[Tensor, Tensor]]:
        """name -> (indices, values), as serving engines exchange them: flat int64 indices, rising."""
        return {name: (change.positions, change.values) for name, change in self.changes.items()}

    @classmethod
    def from_patches(cls, patches: Mapping[str, tuple[Tensor, Tensor]], base: nn.Module | State) -> Delta:
        """The delta of (indices, values) patches on a base.

        Args:
            patches: name -> flat indices, any integers in any order, each once; values in the tensor's dtype.

        Raises:
            TombolaError: a name or dtype that the base lacks, indices outside of the tensor or given twice.
        """
        state = state_of(base)
        made = {name: _patched(name, patch, state.get(name)) for name, patch in patches.items()}
        return cls({name: change for name, change in made.items() if len(change.positions)})

    def __str__(self) -> str:
        rows = [f"{plural(self.changed, 'value')} of {plural(len(self.changes), 'tensor')} changed"]
        for name, change in self.changes.items():
            count = len(change.positions)
            rows.append(f"  {name}: {count:,}, {percent(count / math.prod(change.shape))}")
        return "\n".join(rows)


@checked
@torch.no_grad()
def delta(
    base: nn.Module | Mapping[str, Tensor],
    tuned: nn.Module | Mapping[str, Tensor],
    *,
    keep: float | None = None,
    tall: Tall | None = None,
) -> Delta:
    """The difference of two checkpoints: applied to the first it gives the second, bit for bit, NaN and -0.0 included.

    Args:
        base: a model, or the dict of its tensors.
        tuned: the same network later: the same names, shapes and dtypes.
        keep: fraction of all floating-point weights, in (0, 1]: only the largest changes are kept, as LoTA (Panda et
            al. 2024) does; the result is `tuned` there and `base` elsewhere. Tensors of integers are kept whole.
        tall: keeps what is a task's own (`Tall`).

    Raises:
        TombolaError: names, shapes or dtypes differ, or a fraction outside of (0, 1].
    """
    before, after = state_of(base), state_of(tuned)
    _check_alike(before, after)
    tied, later = ties(before), ties(after)
    tied = {alias: owner for alias, owner in tied.items() if later.get(alias) == owner}
    before, after = ({name: state[name] for name in state if name not in tied} for state in (before, after))
    differing = {name: _differs(before[name], after[name]) for name in before}
    choices = [largest(before, after, keep)] if keep is not None else []
    choices += [chosen(before, after, tall)] if tall is not None else []
    for choice in choices:
        differing = {name: mask & choice[name] if name in choice else mask for name, mask in differing.items()}
    changes = {name: _change(before[name], after[name], mask) for name, mask in differing.items() if mask.any()}
    return Delta(changes, {alias: owner for alias, owner in tied.items() if owner in changes})


def state_of(checkpoint: nn.Module | State) -> dict[str, Tensor]:
    """The tensors of a model, or of a dict of them, by name; they are not copied.

    Raises:
        TombolaError: something else is among them.
    """
    if not isinstance(checkpoint, nn.Module | Mapping):
        raise TombolaError(f"a checkpoint is {described(checkpoint)}; give a model, or the dict of its tensors")
    state = unwrap(checkpoint).state_dict() if isinstance(checkpoint, nn.Module) else dict(checkpoint)
    for name, value in state.items():
        if not isinstance(name, str):
            raise TombolaError(f"{name!r} is no text and names a tensor; give texts as names")
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise TombolaError(f"{name!r} is no dense tensor with values; a delta is of such tensors alone")
        if value.is_conj() or value.is_neg():
            raise TombolaError(
                f"{name!r} is conjugated or negated only when it is read; give value.resolve_conj().resolve_neg()"
            )
    return state


def fingerprint(values: Tensor) -> str:
    """16 hex digits of the bytes of a tensor."""
    return hashlib.blake2b(raw_bytes(values).data, digest_size=8).hexdigest()


# ---- one tensor ------------------------------------------------------------------------------------------------------


def _check_alike(before: State, after: State) -> None:
    odd = sorted(before.keys() ^ after.keys())
    if odd:
        raise TombolaError(f"{odd[0]!r} is in only one of the checkpoints; give two of the same network")
    for name, one in before.items():
        other = after[name]
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            raise TombolaError(
                f"{name!r} is {tuple(one.shape)} {_short(one.dtype)} and then {tuple(other.shape)} "
                f"{_short(other.dtype)}; give two checkpoints of the same network in one dtype"
            )


def _as_words(tensor: Tensor) -> Tensor:
    """The same memory as integers of its values' size, which all operations take; of complex values as it is."""
    return tensor.detach() if tensor.is_complex() else tensor.detach().view(_WORDS[tensor.element_size()])


def _words(tensor: Tensor) -> Tensor:
    """Its values as integers, on the CPU, flat; of complex ones pairs, (n, 2)."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return _as_words(torch.view_as_real(flat) if flat.is_complex() else flat)


def _differs(one: Tensor, other: Tensor) -> Tensor:
    """bool, flat: which values differ in a bit."""
    differs = _words(one) != _words(other)
    return differs.any(-1) if one.is_complex() else differs


def _change(before: Tensor, after: Tensor, mask: Tensor) -> Change:
    positions = mask.nonzero().reshape(-1)
    return Change(tuple(before.shape), positions, _at(after, positions), fingerprint(_at(before, positions)))


def _at(tensor: Tensor, positions: Tensor) -> Tensor:
    """The values at flat positions, on the CPU."""
    flat = _as_words(tensor).contiguous().reshape(-1)
    return flat[positions.to(flat.device)].to("cpu").view(tensor.dtype)


def _put(tensor: Tensor, change: Change) -> None:
    words, at = _as_words(tensor), change.positions.to(tensor.device)
    values = _as_words(change.values).to(tensor.device)
    if words.is_contiguous():
        words.view(-1)[at] = values
    else:
        words[torch.unravel_index(at, change.shape)] = values


def _patched(name: str, patch: tuple[Tensor, Tensor], tensor: Tensor | None) -> Change:
    indices, values = patch
    if tensor is None:
        raise TombolaError(f"{name!r} is patched and is not in the base; give the patch's own base")
    positions, order = indices.detach().to("cpu", torch.int64).reshape(-1).sort()
    if len(positions) != values.numel() or values.dtype != tensor.dtype:
        raise TombolaError(
            f"the patch of {name!r} has {len(positions)} indices and {values.numel()} {_short(values.dtype)} values; "
            f"one value of {_short(tensor.dtype)} belongs to each index"
        )
    if len(positions) and (positions[0] < 0 or positions[-1] >= tensor.numel() or bool((positions.diff() == 0).any())):
        raise TombolaError(f"the patch of {name!r} has indices outside of 0 to {tensor.numel() - 1}, or one twice")
    own = values.detach().to("cpu").reshape(-1)[order]
    return Change(tuple(tensor.shape), positions, own, fingerprint(_at(tensor, positions)))


def _same(one: Tensor, other: Tensor | None) -> bool:
    """Whether two are one tensor's memory."""
    return other is not None and whereabouts(one) == whereabouts(other)


def _short(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
