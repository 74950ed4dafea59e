"""The global generators of torch, numpy and random, seeded or used for a while and then restored."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from tombola.machine.locks import Lock

_SEEDED = Lock()
"""Held while the generators are seeded: no other thread sees that state."""


@contextmanager
def kept(*, cuda: bool = False) -> Iterator[None]:
    """Restore the global generators (torch on the CPU, numpy, random) afterwards. `cuda`: those of all GPUs too."""
    with _SEEDED.inner:
        states = generators(cuda=cuda)
    try:
        yield
    finally:
        with _SEEDED.inner:
            restore_generators(states)


@contextmanager
def seeded(seed: int, *, cuda: bool = False) -> Iterator[None]:
    """As `kept`, and seed them first; one thread at a time."""
    with _SEEDED.inner, kept(cuda=cuda):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        if cuda and _cuda_in_use():
            torch.cuda.manual_seed_all(seed)
        yield


@contextmanager
def seeded_torch(seed: int) -> Iterator[None]:
    """As `seeded`, torch's generator on the CPU alone: several times faster."""
    with _SEEDED.inner:
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_rng_state(state)


def generators(*, cuda: bool = False) -> tuple[Any, Any, Any, list[Any]]:
    """The states of the global generators, for `restore_generators`. `cuda`: those of all GPUs in use too."""
    devices = torch.cuda.get_rng_state_all() if cuda and _cuda_in_use() else []
    return torch.get_rng_state(), np.random.get_state(), random.getstate(), devices


def restore_generators(states: tuple[Any, ...]) -> None:
    """Put the global generators back to what `generators` gave."""
    cpu, numpy, python, devices = states
    torch.set_rng_state(cpu)
    np.random.set_state(numpy)
    random.setstate(python)
    if devices:
        torch.cuda.set_rng_state_all(devices)


def _cuda_in_use() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
