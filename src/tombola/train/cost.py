"""What one training run costs: FLOPs and memory from one forward pass after its last step, energy by the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from tombola.machine.memory import storage_address
from tombola.nn.flops import flops_of_call
from tombola.nn.forward import leaves, typed
from tombola.nn.modes import in_mode
from tombola.results.trial import TrainingCost
from tombola.rng.guard import kept
from tombola.train.state import Loop

FORWARD_AND_BACKWARD = 3
"""A training step over its forward pass, in FLOPs: the backward pass takes gradients of weights and of inputs."""

_Key = tuple[torch.device, int]


def training_cost(
    loop: Loop, batch: Tensor | None, iterations: int, joules: float | None, further: int = 0
) -> TrainingCost:
    """The cost of `iterations`.

    By one forward pass in training mode, after which buffers and global generators are as they were. Memory: storages
    count once. FLOPs or memory are None where that pass fails or cannot be counted. Of several ranks, FLOPs are those
    of all, memory and energy those of rank 0's process and machine.

    Args:
        batch: inputs of a training batch, (N, ...), on the device; None if none is at hand.
        joules: what the machine's counters gave.
        further: forward passes of a network of this size that a step takes besides (`Hook.forward_passes`).
    """
    saved: dict[_Key, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved.update(_storages([tensor]))
        return tensor

    def forward() -> Any:
        with torch.enable_grad(), loop.autocast(), saved_tensors_hooks(pack, _same):
            return loop.model(part)

    with _as_it_was(loop):
        x = next(typed(loop.train_feed.epoch(loop.seed, 0), loop.model))[0] if batch is None else batch
        part = x.chunk(loop.recipe.accumulate)[0]
        forward_flops = _attempt(lambda: flops_of_call(forward))
        passed = forward_flops is not None or _attempt(lambda: forward() is not None)
    step = (FORWARD_AND_BACKWARD + further) * (forward_flops or 0) * loop.batch_examples / len(part)
    return TrainingCost(
        flops=round(step * iterations) if forward_flops else None,
        memory_bytes=_attempt(lambda: _memory(loop, saved)) if passed else None,
        energy_joules=joules,
        forward_passes=iterations * loop.batch_examples * (1 + further),
    )


def _memory(loop: Loop, saved: dict[_Key, int]) -> int:
    """Bytes of parameters, buffers, gradients, optimiser state and what the forward pass has saved for the backward."""
    parameters = list(loop.model.parameters())
    gradients = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    state = leaves(list(loop.optimizer.state.values()))
    held = _storages([*parameters, *loop.model.buffers(), *state])
    return sum({**saved, **held}.values()) + gradients


def _storages(tensors: Iterable[Tensor]) -> dict[_Key, int]:
    """Where each storage lies -> its bytes."""
    found = (tensor.untyped_storage() for tensor in tensors)
    return {(storage.device, storage_address(storage)): storage.nbytes() for storage in found}


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _attempt(count: Callable[[], int]) -> int | None:
    try:
        return count()
    except Exception:  # of the user's network: it may be anything
        return None


@contextmanager
def _as_it_was(loop: Loop) -> Iterator[None]:
    """Buffers (norm statistics), modes and generators are restored afterwards."""
    modules = list(loop.model.modules())
    buffers = [(m, name, buffer, buffer.clone()) for m in modules for name, buffer in m.named_buffers(recurse=False)]
    generators = [(g, g.get_state()) for module in modules for g in vars(module).values() if _draws(g)]
    try:
        with in_mode(loop.model, train=True), kept(cuda=loop.device.type == "cuda"):
            yield
    finally:
        _restore(buffers)
        for generator, state in generators:
            generator.set_state(state)


def _draws(value: object) -> bool:
    return isinstance(value, torch.Generator)


def _restore(buffers: Iterable[tuple[nn.Module, str, Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for module, name, buffer, before in buffers:
            if getattr(module, name) is not buffer:
                setattr(module, name, buffer)
            if not torch.equal(buffer, before):
                buffer.copy_(before)
