"""The global generators of torch, numpy and random, seeded or used for a while and then put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def kept(*, cuda: bool = False) -> Iterator[None]:
    """Put the global generators (torch on the CPU, numpy, random) back afterwards. `cuda`: those of all GPUs too."""
    devices = cuda and _cuda_in_use()
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    on_devices = torch.cuda.get_rng_state_all() if devices else []
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if devices:
            torch.cuda.set_rng_state_all(on_devices)


@contextmanager
def seeded(seed: int, *, cuda: bool = False) -> Iterator[None]:
    """As `kept`, and seed them first."""
    with kept(cuda=cuda):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        if cuda and _cuda_in_use():
            torch.cuda.manual_seed_all(seed)
        yield


def _cuda_in_use() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
