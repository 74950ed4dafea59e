"""Tasks that share one live backbone: a ticket's network put in its place, in milliseconds, and the backbone again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from tombola.errors import TicketError, TombolaError
from tombola.fields import checked
from tombola.hold import held
from tombola.machine.autocast import forget_casts
from tombola.machine.memory import check_apart, whereabouts
from tombola.parameters import unwrap
from tombola.supermask.fused import put_kept
from tombola.ticket import base as bases
from tombola.ticket import checks
from tombola.ticket.tensors import Tensors, ties
from tombola.ticket.ticket import Ticket

_KEPT = "_tombola_tasks"
"""The attribute of a model under which its backbone's values lie."""


class Switched:
    """A model with a task on it: the end of a `with` brings back what was before, `revert()` the backbone."""

    def __init__(self, model: nn.Module, before: Ticket | None) -> None:
        self._model, self._before = model, before

    def revert(self) -> None:
        """Bring the backbone back, bit for bit, whatever task is on it by now."""
        switch(self._model, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        switch(self._model, self._before)


@checked
@torch.no_grad()
def switch(model: nn.Module, ticket: Ticket | None) -> Switched:
    """Turn the backbone `model` into a ticket's network, in place; None: back into the backbone, bit for bit.

    The model is then what `ticket.build(base=...)` gives, bit for bit, whatever task was on it before. Its parameters
    stay the same objects, so that optimisers and other references stay valid, except in layers of another size than the
    backbone's (a head with other classes): these are put in its place as new modules, and the backbone's own come back
    with it. A `with` gives back what was on the model before it. What was trained while a task was on is lost with the
    next switch, where the task had written it.

    The backbone is checked by its content, once: later switches read a weight's hash anew only where it was written in
    between, by torch. A model with norms is to be in evaluation mode, for running statistics that move make it another.

    While a task is on, the backbone's values of what tasks have written are kept with the model, once, and a copy of
    the model has its own; after None nothing is. Nothing else may use the model meanwhile: a thread in its forward pass
    would see both tasks.

    Args:
        model: the network with the base's values, on any device.
        ticket: one on that base (`Ticket.on_base`), whose network is not rewritten.

    Raises:
        TombolaError: the ticket names no base, or another than this model, or does not fit it, or a mask is held on it;
            nothing is changed then.

    >>> backbone = nn.Linear(4, 2)
    >>> before = backbone.weight.clone()
    >>> task = tb.Ticket(origin=tb.ticket.origin.Origin.stored(backbone), mask=tb.Mask({"weight": torch.eye(2, 4) > 0}))
    >>> with tb.switch(backbone, task.on_base(backbone)):
    ...     int(backbone.weight.count_nonzero())
    2
    >>> torch.equal(backbone.weight, before)
    True
    """
    network = _checked_model(model)
    kept = network.__dict__.get(_KEPT, _Kept())
    own, before = kept.own_tensors(network), kept.ticket
    if ticket is None:
        kept.restore(network, own, frozenset(own))
    else:
        task = _task(network, ticket, kept, own)
        network.__dict__[_KEPT] = kept
        kept.put(network, own, task)
    kept.ticket = ticket
    forget_casts()
    return Switched(model, before)


@dataclass(frozen=True)
class _Task:
    """What a ticket makes of a backbone: `values` in full, `masks` of the backbone's own weights, other `layers`."""

    values: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    layers: Mapping[str, nn.Module]

    @property
    def written(self) -> frozenset[str]:
        """Names of the backbone's tensors that are written."""
        return frozenset((*self.values, *self.masks))


@dataclass
class _Kept:
    """What a model remembers of its backbone.

    `saved`: its values of the tensors that tasks have written. `parts`: its own layers, where a task has put others.
    `hashes`: name -> (where and which version a tensor was, its hash). `ticket`: whose task is on.
    """

    saved: Tensors = field(default_factory=dict)
    parts: dict[str, nn.Module] = field(default_factory=dict)
    hashes: dict[str, tuple[object, str]] = field(default_factory=dict)
    ticket: Ticket | None = None

    def own_tensors(self, network: nn.Module) -> Tensors:
        """The backbone's live tensors by name, its own layers' where others are in their place."""
        live = dict(network.state_dict(keep_vars=True))
        for path, part in self.parts.items():
            live = {name: value for name, value in live.items() if not name.startswith(f"{path}.")}
            live |= part.state_dict(prefix=f"{path}.", keep_vars=True)
        return {name: value.detach() for name, value in live.items()}

    def hash_of(self, name: str, own: Mapping[str, Tensor]) -> str:
        """The hash of the backbone's value, read anew where the tensor was written since."""
        stamp = "saved" if name in self.saved else _stamp(own[name])
        known = self.hashes.get(name)
        if known is None or known[0] is None or known[0] != stamp:
            known = stamp, bases.content_hash(self.saved.get(name, own[name]))
            self.hashes[name] = known
        return known[1]

    def put(self, network: nn.Module, own: Mapping[str, Tensor], task: _Task) -> None:
        """Make the network the task's."""
        for name in task.written:
            check_apart(name, own[name])
        self._save(own, task.written)
        self.restore(network, own, frozenset(self.saved) - task.written, leave=frozenset(task.layers))
        for name, keep in task.masks.items():
            put_kept(own[name], self.saved[name], keep.to(own[name].device))
        for name, value in task.values.items():
            own[name].copy_(value)
        parts = dict(network.named_modules())
        for path, layer in task.layers.items():
            self.parts.setdefault(path, parts[path])
            bases.put_layer(network, path, layer)

    def _save(self, own: Mapping[str, Tensor], written: frozenset[str]) -> None:
        for name in written - self.saved.keys():
            known = self.hashes.get(name)
            fresh = known is not None and known[0] is not None and known[0] == _stamp(own[name])
            self.saved[name] = own[name].clone()
            if known is not None and fresh:
                self.hashes[name] = "saved", known[1]

    def restore(
        self, network: nn.Module, own: Mapping[str, Tensor], names: frozenset[str], leave: frozenset[str] = frozenset()
    ) -> None:
        """Give tensors of these names the backbone's values, and all layers but those to `leave` its own."""
        for path in [path for path in self.parts if path not in leave]:
            bases.put_layer(network, path, self.parts.pop(path))
        for name in names & self.saved.keys():
            own[name].copy_(self.saved.pop(name))
            known = self.hashes.get(name)
            if known is not None and known[0] == "saved":
                self.hashes[name] = _stamp(own[name]), known[1]


def _stamp(tensor: Tensor) -> object:
    """What changes when torch writes the tensor, or it is moved; None of inference tensors, which do not tell."""
    return None if tensor.is_inference() else (whereabouts(tensor), str(tensor.device), tensor._version)


def _checked_model(model: nn.Module) -> nn.Module:
    network = unwrap(model)
    if held(network):
        raise TombolaError("a mask is held on the model, which would undo the task; release it first")
    return network


def _task(network: nn.Module, ticket: Ticket, kept: _Kept, own: Mapping[str, Tensor]) -> _Task:
    """What the ticket makes of the backbone; TicketError if it does not fit, or is of another."""
    origin = ticket.origin
    if origin.base is None:
        raise TicketError(
            f"the ticket's origin is {origin.kind}: it names no base to switch on; make one that does: "
            "ticket.on_base(model)"
        )
    if ticket.rewrites:
        raise TicketError(f"the ticket rewrites the network ({ticket.rewrites[0]['kind']}); build it instead")
    bases.check_same(
        origin.base, str(origin.weights_hash), {name: kept.hash_of(name, own) for name in origin.base if name in own}
    )
    parts = {**dict(network.named_modules()), **kept.parts}
    layers = bases.refits(parts, {**ticket.state, **origin.views()})
    fresh = {f"{path}.{name}": value for path, part in layers.items() for name, value in part.state_dict().items()}
    before = {**own, **kept.saved, **origin.views(), **fresh}
    checks.check_known(ticket, before)
    checks.check_against(ticket, before)
    plain = [name for name in ticket.mask if name in origin.base and _only_masks(ticket, name)]
    full = {
        name: ticket.effective(name, before[name], (ticket.trained or {}).get(name))
        for name in ticket.mask
        if name not in plain
    }
    for name in fresh.keys() & full.keys():
        fresh[name].copy_(full.pop(name))
    values = {name: value for name, value in ticket.state.items() if name not in fresh}
    again = {alias: owner for alias, owner in origin.tied.items() if alias not in origin.base and owner in values}
    values |= {alias: values[owner] for alias, owner in again.items()}
    masks = {name: ticket.mask[name] for name in plain}
    values |= full
    for alias, owner in (*ticket.tied.items(), *ties(own, (*masks, *values)).items()):
        if alias not in masks and alias not in values:  # another name of what is written
            masks |= {alias: masks[owner]} if owner in masks else {}
            values |= {alias: values[owner]} if owner in values else {}
    return _Task(values, masks, layers)


def _only_masks(ticket: Ticket, name: str) -> bool:
    """Whether a layer is the base's where the mask keeps it, and 0 elsewhere."""
    changed = (ticket.trained, ticket.begin, ticket.multiplier, ticket.pruned_values)
    held_otherwise = any(name in (part or {}) for part in changed) or name in ticket.representation.scales
    return not held_otherwise and ticket.pruned_rule == "zero"
