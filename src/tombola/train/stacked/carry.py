"""Stretches of several trainings carried out in stacks, and which of those that wait come first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tombola.data.feed import epochs_together
from tombola.errors import TombolaError, in_short
from tombola.nn.forward import typed
from tombola.train.determinism import deterministic_kernels
from tombola.train.hooks import Hook
from tombola.train.recorder import CHECKED_EVERY
from tombola.train.schedule import lr_factor
from tombola.train.stacked.capture import Captured
from tombola.train.stacked.company import Company, Stretch
from tombola.train.stacked.member import Member
from tombola.train.stacked.stack import Stack

Call = tuple[Member, Callable[[], None]]


@dataclass(frozen=True)
class Chosen:
    """Stretches of one kind and step to be carried out up to a step; a single one goes on alone."""

    stretches: tuple[Stretch, ...]
    until: int


def chosen(waiting: Sequence[Stretch]) -> list[Chosen]:
    """Of every kind those that are behind the others, up to where they catch up with the next ones."""
    kinds: dict[Hashable, list[Stretch]] = defaultdict(list)
    for stretch in waiting:
        kinds[stretch.kind].append(stretch)
    return [one for alike in kinds.values() for one in _hindmost(alike)]


def _hindmost(alike: Sequence[Stretch]) -> Iterator[Chosen]:
    first = min(stretch.step for stretch in alike)
    ahead = [stretch.step for stretch in alike if stretch.step > first]
    states: dict[Hashable, list[Stretch]] = defaultdict(list)
    for stretch in alike:
        if stretch.step == first:
            states[stretch.state].append(stretch)
    for last in states.values():
        yield Chosen(tuple(last), min([*(stretch.until for stretch in last), *ahead]))


class Stacks:
    """The stacks of one group of trainings: the same ones go on in the same stack."""

    def __init__(self) -> None:
        self._ready: dict[int, _Ready] = {}

    def forget(self, company: Company) -> None:
        """A training has ended."""
        self._ready.pop(id(company), None)

    def carry_out(self, what: Chosen) -> int:
        """Carry out the stretches of several; gives the step that all have come to, which may lie before `until`.

        What fails is left in the members: `refused`, where nothing has been done, or `failed`.
        """
        members = [stretch.member for stretch in what.stretches]
        loops = [member.loop for member in members]
        begun = loops[0].step
        with torch.enable_grad(), deterministic_kernels(members[0].deterministic):
            try:
                ready = self._made(members)
            except Exception as error:  # such as memory that does not suffice
                ready = f"its network cannot be stacked ({in_short(error)})"
            if isinstance(ready, str):
                for member in members:
                    member.leave()
                    member.refused = ready
                return begun
            try:
                return _steps(ready, what.until)
            except Exception as error:
                for member in members:
                    member.failed = TombolaError(f"the stack of {len(members)} runs failed: {in_short(error)}")
                return begun

    def _made(self, members: Sequence[Member]) -> _Ready | str:
        """The stack of these trainings, or why there is none."""
        known = self._ready.get(id(members[0].company))
        if known is not None and known.stack.members == tuple(members) and known.stack.stands():
            return known
        stack = Stack(members)
        x, y = next(_batches(stack))
        if (why := stack.tried(x, y)) is not None:
            return why
        made = _Ready(stack, Captured(stack, x, y) if x.is_cuda else None)
        self._ready |= {id(member.company): made for member in members}
        return made


@dataclass(frozen=True)
class _Ready:
    """A stack, and its step as a CUDA graph, on a GPU."""

    stack: Stack
    captured: Captured | None


def _steps(ready: _Ready, until: int) -> int:
    """Steps up to `until`, or to where a member stops, fails, or must write a checkpoint."""
    stack, captured = ready.stack, ready.captured
    members, loops = stack.members, stack.loops
    step, recipe = loops[0].step, loops[0].recipe
    factor = lr_factor(recipe, loops[0].steps_per_epoch)
    before, between, after = (_calls(members, name) for name in ("before_step", "after_backward", "after_step"))
    now, begun, examples = 0.0, step, 0
    gradients = captured or stack.gradients
    stack.begin()
    for x, y in _batches(stack):
        now = factor(step)
        _call(before)
        gradients(x, y)
        if between:
            _lend_gradients(stack)
            _call(between)
        stack.step(now)
        if captured is None:
            stack.clear()
        step += 1
        examples = y.shape[1]
        if after:
            for loop in loops:
                loop.step = step
            _call(after)
        if step == until or any(member.failed or member.loop.stopped for member in members):
            break
        if step % CHECKED_EVERY == 0 and any(member.recorder.is_due() for member in members):
            break
    for place, member in enumerate(members):
        member.loop.step = step
        for group in member.loop.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * now
        member.recorder.add_stacked(
            (stack.sums[0][place], stack.sums[1][place]), examples * (step - begun), stack.losses[place].clone()
        )
    stack.settle()
    return step


def _batches(stack: Stack) -> Iterator[tuple[Tensor, Tensor]]:
    """The rest of the epoch, (K, batch, ...)."""
    loops = stack.loops
    epoch, first = divmod(loops[0].step, loops[0].steps_per_epoch)
    feeds, seeds = [loop.train_feed for loop in loops], [loop.seed for loop in loops]
    return typed(epochs_together(feeds, seeds, epoch, first), loops[0].model)


def _calls(members: Sequence[Member], name: str) -> list[Call]:
    """What is to be called at one point of every step, member by member."""
    return [
        (member, _bound(hook, name, member))
        for member in members
        for hook in member.at_steps
        if getattr(type(hook), name) is not getattr(Hook, name)
    ]


def _bound(hook: Hook, name: str, member: Member) -> Callable[[], None]:
    method, loop = getattr(hook, name), member.loop
    return lambda: method(loop)


def _call(calls: Sequence[Call]) -> None:
    """An error of one training is its own; the others go on."""
    for member, call in calls:
        if member.failed is None:
            try:
                call()
            except Exception as error:
                member.failed = error


def _lend_gradients(stack: Stack) -> None:
    """Let the members' parameters have their parts of the gradients."""
    for place, loop in enumerate(stack.loops):
        for name, parameter in loop.model.named_parameters():
            whole = stack.weights[name].grad
            parameter.grad = None if whole is None else whole[place]
