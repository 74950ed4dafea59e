"""A straight line between the weights of two networks: where it leads, whether there is one, how long it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.parameters import unwrap

_COUNTERS = "num_batches_tracked"
State: TypeAlias = Mapping[str, Tensor]


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers on the CPU, by the module's own names."""
    return {name: value.detach().to("cpu") for name, value in unwrap(module).state_dict().items()}


def interpolated(first: State, second: State, position: float) -> dict[str, Tensor]:
    """(1 - position)·first + position·second, exact at both ends and where both are equal, infinite values too.

    What is not floating point is the first's.
    """
    return {
        name: torch.where(value == second[name], value, torch.lerp(value, second[name], position))
        if value.is_floating_point()
        else value
        for name, value in first.items()
    }


def distance(first: State, second: State, names: Iterable[str]) -> float:
    """The Euclidean length of the line, over the tensors named, summed in double precision."""

    def squared(name: str) -> float:
        return float((first[name].double() - second[name].double()).square().sum())

    return math.sqrt(math.fsum(squared(name) for name in names))


def check_alike(first: State, second: State) -> None:
    """TombolaError unless a line leads from one state to the other: same names, shapes, types, and whole numbers."""
    differing = sorted(set(first) ^ set(second))
    if differing:
        raise TombolaError(
            f"the networks differ in {differing[0]!r}, which only one of them has; give two of one architecture"
        )
    for name, value in first.items():
        other = second[name]
        if value.shape != other.shape or value.dtype != other.dtype:
            raise TombolaError(
                f"the networks differ in {name!r}: {tuple(value.shape)} of {value.dtype} and {tuple(other.shape)} of "
                f"{other.dtype}; give two of one architecture"
            )
        if not value.is_floating_point() and not name.endswith(_COUNTERS) and not torch.equal(value, other):
            raise TombolaError(
                f"the networks have other whole numbers in {name!r}, between which there is no line; give two that "
                "share them"
            )


def check_finite(which: str, network: nn.Module) -> None:
    """TombolaError where a parameter of the `which` network is NaN or infinite."""
    for name, parameter in network.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise TombolaError(
                f"the {which} network has values that are NaN or infinite in {name!r}, which no line leads to; give "
                "networks whose training did not diverge"
            )
