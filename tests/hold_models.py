"""Networks, masks and checks for the tests of held masks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tombola.mask import Mask
from tombola.parameters import prunable

X = torch.linspace(-1, 1, 10).view(2, 5)


class Nested(nn.Module):
    """An encoder and a head, under names of several parts."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(x).relu())
        return out


def nested() -> Nested:
    torch.manual_seed(0)
    return Nested()


def some_mask(model: nn.Module, include: tuple[str, ...] = ()) -> Mask:
    """About half of every prunable weight is kept."""
    draw = torch.Generator().manual_seed(1)
    return Mask({n: torch.rand(p.shape, generator=draw) < 0.5 for n, p in prunable(model, include).items()})


def weight(model: nn.Module, name: str) -> Tensor:
    """By its path, as whoever reads it would."""
    path, _, local = name.rpartition(".")
    found: Tensor = getattr(model.get_submodule(path), local).detach()
    return found


def is_held(model: nn.Module, mask: Mask) -> bool:
    """Whether all pruned weights are +0.0, bit by bit."""
    return all(is_zero(weight(model, name)[~kept]) for name, kept in mask.items())


def is_zero(values: Tensor) -> bool:
    """Whether all are +0.0."""
    return bool((values == 0).all()) and not bool(torch.signbit(values).any())


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor = X) -> None:
    """One step on a loss without meaning."""
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()
