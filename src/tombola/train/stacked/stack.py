"""K networks of one form as one: their weights, buffers and optimisers as views into tensors [K, ...]."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from tombola.errors import in_short
from tombola.hold import Hold, held, hold, pause, release
from tombola.machine.memory import whereabouts, without_gaps
from tombola.mask import Mask
from tombola.nn.forward import widened
from tombola.parameters import parameters_by_name
from tombola.train.evaluate import loss_value, metric_values, summed
from tombola.train.stacked.member import Member
from tombola.train.state import Loop

_CLOSE = 1e-3
"""How far losses of a stack may lie from those of its networks, relative to them: sums are rounded otherwise."""


class Stack:
    """K trainings of one kind, from now on in shared memory: each one's tensors are its part of those here.

    A training that leaves, or becomes part of another stack, takes its values along.

    Args:
        members: K at least; of one kind (`kind_of`), at the same step.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = tuple(members)
        loops = [member.loop for member in members]
        first = loops[0]
        self.template = _bare(first.model)
        own = [dict(loop.model.named_parameters()) for loop in loops]
        self.weights = {
            name: nn.Parameter(_stacked([each[name] for each in own]), requires_grad=parameter.requires_grad)
            for name, parameter in own[0].items()
        }
        buffers = [dict(loop.model.named_buffers()) for loop in loops]
        self.buffers = {name: _stacked([each[name] for each in buffers]) for name in buffers[0]}
        self.hold = self._held()
        self.optimizer = self._optimizer()
        self.settle()
        self._mapped = vmap(self._one)
        self.sums = _sums(members)
        self.losses = self.sums[0]

    # -- what is shared

    @property
    def loops(self) -> list[Loop]:
        """Those of the members."""
        return [member.loop for member in self.members]

    def settle(self) -> None:
        """Let every member's tensors be its part of the stacked ones; its optimiser remembers as much as this one."""
        for place, (member, loop) in enumerate(zip(self.members, self.loops, strict=True)):
            member.stack = self
            for name, parameter in loop.model.named_parameters():
                self._share(parameter, self.weights[name], place)
                loop.optimizer.state.pop(parameter, None)
                if (state := self.optimizer.state.get(self.weights[name])) is not None:
                    loop.optimizer.state[parameter] = {key: _part(value, place) for key, value in state.items()}
            for name, buffer in loop.model.named_buffers():
                self._share(buffer, self.buffers[name], place)

    def give_back(self, member: Member) -> None:
        """Let a member's tensors, which are parts of these, be its own."""
        for tensor, whole in self._pairs(member.loop):
            if _is_part(tensor, whole, self.members.index(member)):
                tensor.data = tensor.data.clone()

    def _pairs(self, loop: Loop) -> Iterator[tuple[Tensor, Tensor]]:
        """A member's tensors, with those that they are parts of."""
        for name, parameter in loop.model.named_parameters():
            yield parameter, self.weights[name]
            shared = self.optimizer.state.get(self.weights[name], {})
            for key, value in loop.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and isinstance(shared.get(key), Tensor) and shared[key].dim():
                    yield value, shared[key]
        for name, buffer in loop.model.named_buffers():
            yield buffer, self.buffers[name]

    def stands(self) -> bool:
        """Whether all members' tensors are still parts of these: a restored or rebuilt network has others."""
        return all(
            _is_part(tensor, whole, place)
            for place, loop in enumerate(self.loops)
            for tensor, whole in self._pairs(loop)
        )

    @staticmethod
    def _share(tensor: Tensor, whole: Tensor, place: int) -> None:
        if not _is_part(tensor, whole, place):
            tensor.data = whole.data[place]

    def _held(self) -> Hold | None:
        """The members' masks held on the stacked weights."""
        masks = [held(loop.model) for loop in self.loops]
        if not masks[0]:
            return None
        names = {id(p): name for name, p in self.loops[0].model.named_parameters()}
        known = {name: names[id(p)] for name, p in parameters_by_name(self.loops[0].model).items()}
        whole = nn.ParameterDict()
        keeps, values = {}, {}
        for number, name in enumerate(masks[0]):
            weight, key = self.weights[known[name]], str(number)
            whole[key] = weight
            keeps[key] = torch.stack([each[name][0].to(weight.device) for each in masks])
            given = [each[name][1] for each in masks]
            if any(value is not None for value in given):
                values[key] = torch.stack([_zeros(weight) if value is None else value.to(weight) for value in given])
        self._whole = whole  # which the hold knows weakly
        return hold(whole, Mask(keeps), values)

    def _optimizer(self) -> torch.optim.Optimizer:
        """The members' optimiser over the stacked weights, with what they remember."""
        loops, like = self.loops, self.loops[0].optimizer
        names = {id(p): name for name, p in loops[0].model.named_parameters()}
        kind: Any = type(like)
        takes = inspect.signature(kind.__init__).parameters
        groups = [
            {**group, "params": [self.weights[names[id(p)]] for p in group["params"]]} for group in like.param_groups
        ]
        made: torch.optim.Optimizer = kind(groups, **{k: v for k, v in like.defaults.items() if k in takes})
        states = [
            {name: loop.optimizer.state.get(p, {}) for name, p in loop.model.named_parameters()} for loop in loops
        ]
        for name, state in states[0].items():
            if state:
                made.state[self.weights[name]] = {
                    key: _stacked([each[name][key] for each in states])
                    if isinstance(value, Tensor) and value.shape == self.weights[name].shape[1:] and key != "step"
                    else copy.deepcopy(value)
                    for key, value in state.items()
                }
        return made

    # -- a step

    def begin(self) -> None:
        """Before a stretch of steps: what keeps single networks rests, and sums go on from the members' own."""
        for loop in self.loops:
            pause(loop.model)
        for whole, now in zip(self.sums, _sums(self.members), strict=True):
            whole.copy_(now)

    def gradients(self, x: Tensor, y: Tensor) -> None:
        """Losses (K,) and gradients of one batch each, (K, batch, ...); their sums are added to `sums`."""
        losses, metrics = self._mapped(dict[str, Tensor](self.weights), self.buffers, x, y)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.losses = losses.detach()
            self.sums[0].add_(self.losses * y.shape[1])
            self.sums[1].add_(metrics)

    def _one(
        self, weights: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Loss and summed metric of one network."""
        loop = self.loops[0]
        output = widened(functional_call(self.template, (weights, buffers), (x,)))
        loss = loss_value(loop.training_loss(output, y))
        with torch.no_grad():
            metric = summed(metric_values(loop.task, output, y), len(y))
        return loss, metric

    def step(self, factor: float) -> None:
        """One step of the optimiser, at this factor of its learning rates."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.optimizer.step()

    def clear(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    # -- before the first step

    def tried(self, x: Tensor, y: Tensor) -> str | None:
        """Why the networks cannot be stacked, found by one pass that leaves everything as it is; None if they can."""
        try:
            with self.unchanged():
                self.gradients(x, y)
                stacked = self.losses
                self.clear()
            alone = torch.stack([_own_loss(loop, a, b) for loop, a, b in zip(self.loops, x, y, strict=True)])
        except Exception as error:  # of anybody's network: it may be anything
            return f"its network cannot be stacked ({in_short(error)})"
        close = torch.isclose(stacked, alone.to(stacked), rtol=_CLOSE, atol=_CLOSE, equal_nan=True)
        return None if bool(close.all()) else "its network does not give the same loss when it is stacked"

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Buffers and sums are afterwards what they were, in place."""
        kept = [(tensor, tensor.clone()) for tensor in (*self.buffers.values(), *self.sums)]
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, before in kept:
                    tensor.copy_(before)


def _own_loss(loop: Loop, x: Tensor, y: Tensor) -> Tensor:
    """A network's own loss in training mode; its buffers stay as they are."""
    before = [(buffer, buffer.clone()) for buffer in loop.model.buffers()]
    with torch.no_grad():
        loss = loss_value(loop.training_loss(widened(loop.model(x)), y))
        for buffer, value in before:
            buffer.copy_(value)
    return loss


def _bare(model: nn.Module) -> nn.Module:
    """A copy that nothing is held on."""
    bare = copy.deepcopy(model)
    release(bare)
    return bare


def _sums(members: Sequence[Member]) -> tuple[Tensor, Tensor]:
    losses, metrics = zip(*(member.recorder.sums() for member in members), strict=True)
    return torch.stack(losses), torch.stack(metrics)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """A copy, (K, ...); every part lies in memory as its tensor does, be it channels last."""
    first = tensors[0].detach()
    size = (len(tensors), *first.shape)
    if without_gaps(first):
        whole = first.new_empty_strided(size, (first.numel(), *first.stride()))
    else:
        whole = first.new_empty(size)
    for part, tensor in zip(whole, tensors, strict=True):
        part.copy_(tensor.detach())
    return whole


def _zeros(weight: Tensor) -> Tensor:
    return torch.zeros(weight.shape[1:], dtype=weight.dtype, device=weight.device)


def _part(value: Any, place: int) -> Any:
    """A member's part of what the optimiser remembers: of what all have in common, a copy."""
    return value[place] if isinstance(value, Tensor) and value.dim() else copy.deepcopy(value)


def _is_part(tensor: Tensor, whole: Tensor, place: int) -> bool:
    part = whole.data[place]
    return whereabouts(tensor) == whereabouts(part) and tensor.shape == part.shape and tensor.stride() == part.stride()
