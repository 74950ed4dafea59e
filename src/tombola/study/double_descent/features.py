"""Random features: drawn in blocks, so that any of them can be made without those before."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.rng.seeds import generator

BLOCK = 512
"""Features that are drawn together."""
SAMPLE = 1000
"""Examples whose distances give the width of the kernel."""


@dataclass(frozen=True)
class Draws:
    """Features of inputs with `inputs` numbers: `feature(x, v, b)` of v ~ N(0, I) (N, inputs) and b ~ U[0, 2 pi) (N,).

    The draws depend on the seed and the feature's number alone.
    """

    inputs: int
    seed: int
    feature: Callable[[Tensor, Tensor, Tensor], Tensor]

    def __call__(self, x: Tensor, first: int, end: int) -> Tensor:
        """Features `first` to `end` of examples (n, inputs): float64 (n, end - first)."""
        blocks = range(first // BLOCK, (end - 1) // BLOCK + 1)
        drawn = [self._block(block) for block in blocks]
        begin = blocks[0] * BLOCK
        v, b = (torch.cat(parts)[first - begin : end - begin] for parts in zip(*drawn, strict=True))
        return self.feature(x, v, b)

    def _block(self, block: int) -> tuple[Tensor, Tensor]:
        draws = generator(self.seed, "features", block)
        v = torch.randn(BLOCK, self.inputs, dtype=torch.float64, generator=draws, device="cpu")
        return v, 2 * math.pi * torch.rand(BLOCK, dtype=torch.float64, generator=draws, device="cpu")


def fourier(x: Tensor, v: Tensor, b: Tensor) -> Tensor:
    """sqrt(2) cos(<v, x> + b): (n, N)."""
    return torch.addmm(b, x, v.T).cos_().mul_(math.sqrt(2))


def relu(x: Tensor, v: Tensor) -> Tensor:
    """max(<v, x>, 0) of directions v, which are brought to length 1: (n, N)."""
    return (x @ torch.nn.functional.normalize(v, dim=1).T).clamp_(min=0)


def half_median_distance(x: Tensor) -> float:
    """Half the median distance between two of the first examples (n, d).

    Raises:
        TombolaError: it is 0.
    """
    distances = torch.pdist(x[:SAMPLE])
    half = float(distances.median()) / 2 if len(distances) else 0.0
    if not half > 0:
        raise TombolaError(
            "most training examples are equal, so that their distances give no sigma; set sigma to the width of the "
            "kernel"
        )
    return half
