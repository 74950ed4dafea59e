"""Which trainings can be stacked at all, and which of them with each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from tombola.errors import TombolaError
from tombola.hold import held
from tombola.machine.memory import storage_address
from tombola.parameters import parameters_by_name
from tombola.supermask.parametrization import Supermask
from tombola.train.hooks import Hook
from tombola.train.state import Loop

OPTIMIZERS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""Those whose step goes entry by entry, so that one step on stacked tensors is the step of each."""
_AT_STEPS = ("before_step", "after_backward", "after_step")
_PLAIN = (bool, int, float, str, type(None), torch.dtype)


def why_alone(loop: Loop, hooks: Sequence[Hook]) -> str | None:
    """Why this training cannot be part of a stack, in words; None if nothing speaks against it."""
    recipe, optimizer = loop.recipe, loop.optimizer
    if loop.ranks.size > 1:
        return "several processes train it"
    if recipe.precision != "32":
        return f"precision is {recipe.precision}"
    if recipe.accumulate > 1:
        return "its batches are cut into parts (accumulate)"
    if recipe.clip_norm is not None:
        return "its gradients are clipped (clip_norm)"
    if recipe.schedule == "plateau":
        return "its schedule follows what is measured (plateau)"
    if type(optimizer) not in OPTIMIZERS:
        return f"its optimiser is {type(optimizer).__name__}"
    if odd := next((hook for hook in hooks if not _stacks(hook)), None):
        return f"its method's hook {type(odd).__name__} works on one network at a time"
    own = {id(parameter) for parameter in loop.model.parameters()}
    if any(id(p) not in own for group in optimizer.param_groups for p in group["params"]):
        return "its optimiser has parameters that are not the network's"
    if any(p._backward_hooks for p in loop.model.parameters()):
        return "its parameters have hooks of their own"
    every = [*loop.model.parameters(), *loop.model.buffers()]
    if len({storage_address(tensor.untyped_storage()) for tensor in every if tensor.numel()}) < sum(
        tensor.numel() > 0 for tensor in every
    ):
        return "tensors of its network share memory"
    return _why_held_alone(loop.model)


def _stacks(hook: Hook) -> bool:
    kind = type(hook)
    if kind.training_loss is not Hook.training_loss:
        return False
    return kind.stacks or not works_at_steps(hook)


def works_at_steps(hook: Hook) -> bool:
    """Whether a hook does anything between two evaluations."""
    return any(getattr(type(hook), name) is not getattr(Hook, name) for name in _AT_STEPS)


def _why_held_alone(model: nn.Module) -> str | None:
    try:
        masks = held(model)
    except TombolaError as error:
        return str(error)
    computed = [name for name in masks if name not in parameters_by_name(model)]
    return f"a mask is held on {computed[0]!r}, which is computed from others" if computed else None


def kind_of(loop: Loop, hooks: Sequence[Hook]) -> Hashable:
    """What trainings must have in common to be one stack, but for their step."""
    model, optimizer = loop.model, loop.optimizer
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return (
        tuple(_settings(model)),
        tuple((name, _form(parameter), parameter.requires_grad) for name, parameter in model.named_parameters()),
        tuple((name, _form(buffer)) for name, buffer in model.named_buffers()),
        tuple(sorted(held(model))),
        type(optimizer),
        tuple(
            (tuple(names[id(p)] for p in group["params"]), _frozen({k: v for k, v in group.items() if k not in _MOVES}))
            for group in optimizer.param_groups
        ),
        (loop.recipe, loop.device, loop.steps_per_epoch, loop.batch_examples, loop.eval_every, loop.total),
        tuple(type(hook) for hook in hooks if works_at_steps(hook)),
    )


def state_of(loop: Loop) -> Hashable:
    """The form of what the optimiser remembers at the step where it is."""
    names = {id(parameter): name for name, parameter in loop.model.named_parameters()}
    known = ((names[id(p)], tuple(_state(state))) for p, state in loop.optimizer.state.items())
    return tuple(sorted((name, state) for name, state in known if state))


_MOVES = ("params", "lr")
"""Of an optimiser's group: what is told apart otherwise, or set at every step."""


def _form(tensor: Tensor) -> Hashable:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _state(state: dict[str, Any]) -> Iterator[Hashable]:
    """What an optimiser remembers of a parameter: the forms of tensors, and the counts of steps."""
    for key, value in state.items():
        if isinstance(value, Tensor) and value.numel() > 1:
            yield key, _form(value)
        elif value is not None:
            yield key, float(value)


def _settings(model: nn.Module) -> Iterator[Hashable]:
    """Every module with the settings that its attributes are; of supermasks all but what seeds and densities change."""
    for name, module in model.named_modules():
        if isinstance(module, Supermask):
            parts = (_fields(part) for part in (module.rule, module.weights, module.represent))
            yield name, type(module), *parts
        else:
            own = {key: value for key, value in vars(module).items() if isinstance(value, (*_PLAIN, tuple))}
            yield name, type_before_parametrizations(module), _frozen(own)


def _fields(part: Any) -> Hashable:
    """A rule's type and settings, without its density; of one that is no dataclass, the object itself."""
    if not dataclasses.is_dataclass(part):
        return type(part), id(part)
    named = ((item.name, getattr(part, item.name)) for item in dataclasses.fields(part))
    return type(part), _frozen({name: value for name, value in named if name != "density"})


def _frozen(value: Any) -> Hashable:
    """A value of settings in a form that can be compared and hashed."""
    if isinstance(value, dict):
        return tuple((key, _frozen(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else _form(value)
    known = dataclasses.is_dataclass(value) or isinstance(value, _PLAIN)
    return cast(Hashable, value) if known else id(value)
