"""Masks that hold their density exactly, as rows of one tensor: drawn, swapped, crossed, and fitted to a count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod

import torch
from torch import Tensor

from tombola.mask import Mask

_FEW, _TIMES = 200, 16


@dataclass(frozen=True)
class Part:
    """Weights `begin` to `end` of a row, of which a mask keeps exactly `kept`."""

    begin: int
    end: int
    kept: int

    @property
    def size(self) -> int:
        """How many weights these are."""
        return self.end - self.begin


@dataclass(frozen=True)
class Space:
    """All masks of a density: in each layer round(density·n) weights are kept, or in all layers together so many.

    A mask is a row: bool (n,) on the CPU, the layers one after the other; a population has the shape (count, n).
    Everything random comes from the generator that is given.
    """

    shapes: Mapping[str, tuple[int, ...]]
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], density: float, scope: str = "layer") -> Space:
        """The masks of these weights; `scope`: layer (the density holds in each) or global (in all together)."""
        sizes = [weight.numel() for weight in weights.values()]
        ends = [0, *accumulate(sizes)]
        borders = list(pairwise(ends)) if scope == "layer" else [(0, ends[-1])]
        parts = tuple(Part(begin, end, round(density * (end - begin))) for begin, end in borders)
        return cls({name: tuple(weight.shape) for name, weight in weights.items()}, parts)

    @property
    def size(self) -> int:
        """Weights of a row."""
        return self.parts[-1].end

    @property
    def kept(self) -> int:
        """Weights that each mask keeps."""
        return sum(part.kept for part in self.parts)

    @property
    def is_one(self) -> bool:
        """Whether there is no more than one such mask."""
        return all(part.kept in (0, part.size) for part in self.parts)

    def mask(self, row: Tensor) -> Mask:
        """A row by layers."""
        return Mask(self.layers(row))

    def layers(self, rows: Tensor) -> dict[str, Tensor]:
        """Rows (..., n) by layers: views (..., *shape)."""
        pieces = torch.split(rows, [prod(shape) for shape in self.shapes.values()], -1)
        named = zip(self.shapes.items(), pieces, strict=True)
        return {name: piece.view(*piece.shape[:-1], *shape) for (name, shape), piece in named}

    def row(self, mask: Mapping[str, Tensor]) -> Tensor:
        """The row of a mask over these layers, whatever it keeps."""
        return torch.cat([mask[name].flatten() for name in self.shapes]).cpu()

    def random(self, count: int, generator: torch.Generator) -> Tensor:
        """So many masks, each drawn uniformly: (count, n)."""
        rows = torch.zeros(count, self.size, dtype=torch.bool, device="cpu")
        for row in rows:
            for part in self.parts:
                row[part.begin + torch.randperm(part.size, generator=generator, device="cpu")[: part.kept]] = True
        return rows

    def fitted(self, row: Tensor, generator: torch.Generator) -> Tensor:
        """A copy that keeps as many as it should: what is too much is dropped at random, what is missing added."""
        row = row.clone()
        for part in self.parts:
            piece = row[part.begin : part.end]
            excess = int(piece.sum()) - part.kept
            among = piece if excess > 0 else ~piece
            piece[_some(among, abs(excess), generator)] = excess < 0
        return row

    def swapped(self, row: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """A copy with `count` kept weights, drawn from all, exchanged for as many pruned ones of their layer or scope.

        Where fewer are pruned there, only so many.
        """
        dropped, pruned, swapped = _some(row, count, generator), ~row, row.clone()
        for part in self.parts:
            out = dropped[(dropped >= part.begin) & (dropped < part.end)]
            new = part.begin + _some(pruned[part.begin : part.end], len(out), generator)
            swapped[out[: len(new)]] = False
            swapped[new] = True
        return swapped

    def crossed(self, first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
        """Uniform crossover: what both parents keep or prune stays so, of the rest half is kept, drawn at random."""
        child = first & second
        for part in self.parts:
            piece = child[part.begin : part.end]
            differing = (first ^ second)[part.begin : part.end]
            piece[_some(differing, part.kept - int(piece.sum()), generator)] = True
        return child


def _some(among: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The positions of `count` of the true entries, or of all if there are fewer, in random order."""
    if count <= _FEW and _TIMES * count < len(among):  # soon met by chance
        drawn = torch.randint(len(among), (_TIMES * count,), generator=generator, device="cpu")
        met = list(dict.fromkeys(drawn[among[drawn]].tolist()))
        if len(met) >= count:
            return torch.tensor(met[:count], dtype=torch.int64, device="cpu")
    positions = among.nonzero().flatten()
    return positions[torch.randperm(len(positions), generator=generator, device="cpu")[:count]]


def best_first(losses: Sequence[float]) -> list[int]:
    """Positions by rising loss; equal ones in their order."""
    return sorted(range(len(losses)), key=losses.__getitem__)
