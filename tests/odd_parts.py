"""Data functions, networks, criteria and optimisers of users, each of which does something odd."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import torch
from torch import nn


class Mine(BaseException):
    """No Exception at all."""


class Unspeakable(Exception):
    """Cannot even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def exits(*args: Any, **more: Any) -> NoReturn:
    sys.exit(3)


def interrupts(*args: Any, **more: Any) -> NoReturn:
    raise KeyboardInterrupt


def gives_up(*args: Any, **more: Any) -> NoReturn:
    raise GeneratorExit


def raises(*args: Any, **more: Any) -> NoReturn:
    raise ValueError("first line\nsecond line")


def raises_its_own(*args: Any, **more: Any) -> NoReturn:
    raise Mine("it is mine")


def is_unspeakable(*args: Any, **more: Any) -> NoReturn:
    raise Unspeakable


def runs_out(*args: Any, **more: Any) -> NoReturn:
    raise MemoryError


def goes_deep(*args: Any, **more: Any) -> Any:
    return goes_deep(*args, **more)


def gives_nothing(*args: Any, **more: Any) -> None:
    return None


def flat_scores(context: Any) -> dict[str, torch.Tensor]:
    """Scores of no weight's shape."""
    return {name: weight.flatten() for name, weight in context.final.items()}


def with_label(label: int) -> tuple[Any, Any, Any]:
    """Splits in which one label is `label`."""
    x, y = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    y[0] = label
    return (x, y), (x, y), (x, y)


def a_trillion(root: str, seed: int) -> tuple[Any, Any, Any]:
    return with_label(10**12)


def a_billion(root: str, seed: int) -> tuple[Any, Any, Any]:
    return with_label(10**9)


def below_zero(root: str, seed: int) -> tuple[Any, Any, Any]:
    return with_label(-4)


class ForwardExits(nn.Module):
    """A network whose forward pass ends the program."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sys.exit("bye")


class StepExits(torch.optim.SGD):
    """An optimiser whose step ends the program."""

    def step(self, closure: Any = None) -> Any:
        sys.exit(4)
