"""Everything that a training is at one step, copied and put back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tombola.train.checkpoint import Snapshot, State
from tombola.train.hooks import Hook
from tombola.train.shared import all_generators, own_generators
from tombola.train.state import Loop


def snapshot(loop: Loop, hooks: Sequence[Hook]) -> Snapshot:
    """Everything at the present step, copied to the CPU. Of several ranks, all must call it."""
    return Snapshot(
        step=loop.step,
        model=copy_state(loop.model),
        optimizer=_to_cpu(loop.optimizer.state_dict()),
        hooks=tuple(_to_cpu(dict(hook.state_dict())) for hook in hooks),
        generators=all_generators(loop.ranks, _generators(loop.device)),
    )


def restore(loop: Loop, hooks: Sequence[Hook], point: Snapshot) -> None:
    """Return to a snapshot: weights, buffers, optimiser, hooks, generators, step."""
    loop.model.load_state_dict(point.model)
    loop.optimizer.load_state_dict(_to_cpu(dict(point.optimizer)))  # torch takes the tensors themselves, not copies
    for hook, state in zip(hooks, point.hooks, strict=False):
        hook.load_state_dict(state)
    generators = own_generators(loop.ranks, point.generators, len(_generators(loop.device)))
    torch.set_rng_state(generators[0])
    if loop.device.type == "cuda" and len(generators) > 1:
        torch.cuda.set_rng_state(generators[1], loop.device)
    loop.step = point.step


def copy_state(model: nn.Module) -> State:
    """A contiguous CPU copy of the model's state_dict."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in model.state_dict().items()}


def _to_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _to_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_to_cpu(item) for item in value)
    return value


def _generators(device: torch.device) -> tuple[Tensor, ...]:
    cpu = torch.get_rng_state()
    return (cpu, torch.cuda.get_rng_state(device)) if device.type == "cuda" else (cpu,)
