"""A network with one hidden layer of ReLU units, trained on the squared loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tombola.study.double_descent.examples import Part

FLOAT: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
NEW_VARIANCE = 0.01
"""Of the weights of added units."""
CUTS, CUT = 12, 0.9
"""How often the learning rate of a network below the threshold is cut, and by which factor (500 of 6,000 epochs)."""


@dataclass(frozen=True)
class Schedule:
    """How a network is trained.

    `cut`: whether the learning rate falls on the way; `stop`: whether it ends where no training example is wrong.
    """

    epochs: int
    batch: int
    lr: float
    momentum: float
    cut: bool = False
    stop: bool = False

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.lr * CUT ** (CUTS * epoch // self.epochs) if self.cut else self.lr


@dataclass(frozen=True, eq=False)
class Network:
    """`into` (H, d) and `bias` (H,) of the hidden layer, `out` (K, H) and `out_bias` (K,): float32."""

    into: Tensor
    bias: Tensor
    out: Tensor
    out_bias: Tensor

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """All parameters."""
        return self.into, self.bias, self.out, self.out_bias

    @property
    def norm(self) -> float:
        """The Euclidean norm of all parameters."""
        return math.sqrt(sum(float(part.double().square().sum()) for part in self.parts))

    def outputs(self, x: Tensor) -> Tensor:
        """Outputs (n, K) of inputs (n, d)."""
        return F.linear(F.relu(F.linear(x, self.into, self.bias)), self.out, self.out_bias)

    def __call__(self, x: Tensor) -> Tensor:
        """`outputs` as float64, without gradients."""
        with torch.no_grad():
            return self.outputs(x).double()


def centred(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Training (n, d) and test inputs less the mean training example, over one standard deviation: float32."""
    mean = train.mean(0)
    spread = float((train - mean).square().mean().sqrt()) or 1.0
    return ((train - mean) / spread).float(), ((test - mean) / spread).float()


def first_network(inputs: int, width: int, outputs: int, draws: torch.Generator) -> Network:
    """Weights by Glorot's uniform initialisation, biases 0."""
    into, out = torch.empty(width, inputs, **FLOAT), torch.empty(outputs, width, **FLOAT)
    for weight in (into, out):
        nn.init.xavier_uniform_(weight, generator=draws)
    return Network(into, torch.zeros(width, **FLOAT), out, torch.zeros(outputs, **FLOAT))


def widened(network: Network, width: int, draws: torch.Generator) -> Network:
    """A network of more units: those there are as they are, the weights of the others ~ N(0, NEW_VARIANCE)."""
    more = width - len(network.bias)
    into, out = (
        math.sqrt(NEW_VARIANCE) * torch.randn(*shape, generator=draws, **FLOAT)
        for shape in ((more, network.into.shape[1]), (len(network.out), more))
    )
    return Network(
        torch.cat([network.into, into]),
        torch.cat([network.bias, torch.zeros(more, **FLOAT)]),
        torch.cat([network.out, out], dim=1),
        network.out_bias.clone(),
    )


def train(network: Network, x: Tensor, part: Part, schedule: Schedule, draws: torch.Generator) -> None:
    """Train a network in place on inputs (n, d) and the targets of a part."""
    y = part.y.float()
    for weight in network.parts:
        weight.requires_grad_()
    optimizer = torch.optim.SGD(network.parts, lr=schedule.lr, momentum=schedule.momentum)
    for epoch in range(schedule.epochs):
        if schedule.stop and part.error(network(x)) == 0:
            break
        optimizer.param_groups[0]["lr"] = schedule.rate(epoch)
        for rows in batches(len(x), schedule.batch, draws):
            optimizer.zero_grad()
            loss = (network.outputs(x[rows]) - y[rows]).square().sum(1).mean()
            torch.autograd.backward(loss)
            optimizer.step()
    for weight in network.parts:
        weight.requires_grad_(False)


def batches(count: int, size: int, draws: torch.Generator) -> tuple[Tensor | slice, ...]:
    """The examples of the steps of an epoch, in a new order; all of them where they fit into one batch."""
    if count <= size:
        return (slice(None),)
    return torch.split(torch.randperm(count, generator=draws, device="cpu"), size)
