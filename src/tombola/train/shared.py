"""A training that several processes share: gradients added up, what must be alike compared, what is each one's own.

Every rank has its part of a batch of n examples, r of them, and differentiates r/n times their mean loss. The sum over
the ranks is the gradient of the mean over the whole batch, whether parts are equal or not. All reduce the same numbers
in the same order, so that weights stay alike to the bit; every evaluation compares them.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.machine.ranks import Ranks
from tombola.rng.seeds import derive

if TYPE_CHECKING:
    from tombola.train.state import Loop


def torch_seed(seed: int, ranks: Ranks) -> int:
    """Of torch's own generators: dropout on different examples draws different numbers."""
    return derive(seed, "torch", ranks.rank) if ranks.rank else derive(seed, "torch")


def add_up_gradients(loop: Loop) -> None:
    """Let every parameter's gradient be the sum over the ranks; one that no rank has stays None.

    Raises:
        TombolaError: a gradient is sparse.
    """
    every = (p for group in loop.optimizer.param_groups for p in group["params"])
    trained = [parameter for parameter in every if parameter.requires_grad]
    for group in _by_dtype(trained):
        gradients = [_gradient(parameter) for parameter in group]
        there = [parameter.grad is not None for parameter in group]
        counts = torch.tensor(there, dtype=gradients[0].dtype, device=gradients[0].device)
        loop.ranks.sum_([counts, *gradients])
        if not all(there):
            for parameter, gradient, count in zip(group, gradients, counts.tolist(), strict=True):
                if count and parameter.grad is None:
                    parameter.grad = gradient


def _by_dtype(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    groups: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(parameter.dtype, []).append(parameter)
    return list(groups.values())


def _gradient(parameter: nn.Parameter) -> Tensor:
    gradient = parameter.grad
    if gradient is None:
        return torch.zeros_like(parameter)
    if gradient.layout != torch.strided:
        raise TombolaError(
            f"the gradient of a parameter of shape {tuple(parameter.shape)} is sparse, which processes cannot share; "
            "make its layer with sparse=False, or start one process"
        )
    return gradient


def check_alike(loop: Loop) -> None:
    """TombolaError on every rank unless all have the same parameters and buffers, to the bit, at the same step."""
    if loop.ranks.size == 1:
        return
    named = {**dict(loop.model.named_parameters()), **dict(loop.model.named_buffers())}
    own = (loop.step, loop.stopped, {name: _digest(value) for name, value in named.items()})
    (step, stopped, digests), *further = loop.ranks.gather(own)
    for other_step, other_stopped, others in further:
        if (other_step, other_stopped) != (step, stopped):
            raise TombolaError(
                f"the processes have parted: one is at iteration {step} ({stopped or 'going on'}), another at "
                f"{other_step} ({other_stopped or 'going on'}); what ends a training must be the same for all"
            )
        for name, digest in others.items():
            if digests.get(name) != digest:
                raise TombolaError(
                    f"{name!r} differs between the processes after iteration {step}: it is made of each one's own "
                    "examples, or of draws that differ; start one process, or leave such a module out"
                )


def _digest(value: Tensor) -> int:
    flat = value.detach().to("cpu").contiguous().reshape(-1)
    return zlib.crc32(flat.view(torch.uint8).numpy().data) if flat.numel() else 0


# ---- what a checkpoint keeps of every rank ---------------------------------------------------------------------


def all_generators(ranks: Ranks, own: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Those of all ranks, one rank after the other."""
    return tuple(state for states in ranks.gather(own) for state in states)


def own_generators(ranks: Ranks, saved: Sequence[Tensor], kinds: int) -> Sequence[Tensor]:
    """This rank's of those that were saved, `kinds` of each rank; the first one's where fewer ranks saved them."""
    return saved[ranks.rank * kinds : (ranks.rank + 1) * kinds] or saved[:kinds]


def all_sums(ranks: Ranks, own: Mapping[str, float]) -> dict[str, float]:
    """Sums of all ranks by name; those of rank 1 and further ones with its number."""
    return {
        f"{name} {rank}" if rank else name: value
        for rank, sums in enumerate(ranks.gather(dict(own)))
        for name, value in sums.items()
    }


def own_sums(ranks: Ranks, saved: Mapping[str, float]) -> dict[str, float]:
    """This rank's of those that were saved, and, where more ranks saved them, those of some that are not there."""
    own: dict[str, float] = {}
    for key, value in saved.items():
        name, _, rank = key.partition(" ")
        if int(rank or 0) % ranks.size == ranks.rank:
            own[name] = own.get(name, 0.0) + value
    return own
