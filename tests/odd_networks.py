"""Networks that do what networks may not do, or seldom do, for the tests of what is tried before training."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations as made


def mlp(first: Callable[[nn.Linear], nn.Module] = lambda layer: layer) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), first(nn.Linear(36, 12)), nn.ReLU(), nn.Linear(12, 2))


class Around(nn.Module):
    """A network with something beside it."""

    def __init__(self, seen: Tensor | None = None, persistent: bool = True) -> None:
        super().__init__()
        self.net = mlp()
        if seen is not None:
            self.register_buffer("seen", seen, persistent=persistent)

    def forward(self, x: Tensor) -> Any:
        return self.net(x)


class Grows(Around):
    def __init__(self, in_training: bool, persistent: bool = True) -> None:
        super().__init__(torch.zeros(0), persistent)
        self.when = in_training

    def forward(self, x: Tensor) -> Tensor:
        if self.training == self.when:
            self.seen = torch.cat([self.seen, x.mean().reshape(1)])
        return self.net(x)


class Retypes(Around):
    def __init__(self) -> None:
        super().__init__(torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + x.mean()
        return self.net(x)


class Remembers(Around):
    """Registers a buffer when it first sees an input."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "mean"):
            self.register_buffer("mean", x.mean())
        return self.net(x)


class Replaces(Around):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.net[3].bias = nn.Parameter(self.net[3].bias.detach().clone())
        return self.net(x)


class Hides(Around):
    """Its outputs depend on an attribute that training changes."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return self.net(x) * (1 + self.calls)


class Fails(Around):
    def __init__(self, in_training: bool) -> None:
        super().__init__()
        self.when = in_training

    def forward(self, x: Tensor) -> Tensor:
        if self.training == self.when:
            raise ValueError("targets should not be none\nwhen in this mode")
        return self.net(x)


class NeedsCompany(Around):
    """Fails for one example by itself, as squeezing does."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.squeeze()[:, None])


class WithSpare(Around):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(5, 4)


class Embedded(Around):
    """Its embedding gets sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 36, sparse=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1) + self.table(torch.zeros(len(x), dtype=torch.int64)))


class Draws(Around):
    """Another output each time, also in evaluation mode."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + torch.randn(())


class Dices(Around):
    """Another output each time, by a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.dice = random.Random(0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x) * (1 + self.dice.random())
        return out


class Extra(Around):
    def get_extra_state(self) -> Tensor:
        return torch.tensor(3)

    def set_extra_state(self, state: Tensor) -> None:
        assert int(state) == 3


def frozen() -> nn.Module:
    model = mlp()
    model[1].requires_grad_(False)
    return model


def tied() -> nn.Module:
    torch.manual_seed(0)
    first, second = nn.Linear(36, 36, bias=False), nn.Linear(36, 36, bias=False)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), nn.Linear(36, 2))


def shared() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.Linear(36, 36)
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.Linear(36, 2))


def normed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 2))


def convolved() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(made.spectral_norm(nn.Conv2d(1, 4, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))


SOUND: dict[str, Callable[[], nn.Module]] = {
    "plain": mlp,
    "weight norm, left out": lambda: mlp(made.weight_norm),
    "frozen": frozen,
    "tied": tied,
    "shared": shared,
    "batch norm": normed,
    "extra state": Extra,
    "spare": WithSpare,
    "draws": Draws,
    "dices": Dices,
    "grows, not persistent": lambda: Grows(True, persistent=False),
}
ODD: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "spectral norm": (lambda: mlp(made.spectral_norm), r"'1\.weight' .*parametris"),
    "orthogonal": (lambda: mlp(made.orthogonal), r"'1\.weight' .*parametris"),
    "spectral convolution": (convolved, r"'0\.weight' .*parametris"),
    "grows in training": (lambda: Grows(True), r"'seen' .* of shape \(0,\) before one step and .* of shape \(1,\)"),
    "grows in evaluation": (lambda: Grows(False), r"'seen' .* of shape \(\d,\) before one step and .* of shape"),
    "retypes": (Retypes, r"'seen' .* is int64 of shape \(\) before one step and float32 of shape \(\) after it"),
    "remembers": (Remembers, r"'mean' .* is not there before one step"),
    "replaces": (Replaces, r"parameter 'net\.3\.bias' is replaced in the forward pass"),
    "hides": (Hides, r"gives other outputs than the trained one"),
    "fails in training": (lambda: Fails(True), r"ValueError: targets should not be none;"),
    "fails in evaluation": (lambda: Fails(False), r"ValueError: targets should not be none;"),
}
