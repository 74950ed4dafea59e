"""SparseGPT: a layer's kept weights make up for its pruned ones, column by column (Frantar & Alistarh 2023).

With H = 2 X Xᵀ + damping and U the upper Cholesky factor of H⁻¹, pruning weight w of column j adds least error where
w² / U_jj² is small; setting it to 0 is made up for in the columns to its right by -(w / U_jj) U_j. Masks are chosen
block of columns by block of columns, of the weights as they have become; those of N:M group by group.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tombola.select.patterns import NM, Inputs, Pattern, Units
from tombola.select.select import selection

BLOCK = 128
"""Columns between two selections; what their pruning does to the columns after them is applied at once."""
LARGEST = 2**24
"""Numbers in a layer's matrices, at most: 128 MB in float64, which 4,096 inputs take."""
DAMPING = 0.01
"""Of the mean of H's diagonal, added to it."""


@dataclass(frozen=True)
class Share:
    """How many units are kept: `density` of them, exactly, over all parts of a layer together."""

    density: float

    def of(self, before: int, units: int) -> int:
        """Of so many units, after so many that came before."""
        return round(self.density * (before + units)) - round(self.density * before)


def width_of_parts(inputs: int, pattern: object) -> int:
    """How many columns have one matrix: all, or as many as keep a layer's matrices within `LARGEST`.

    What is pruned in one part is then not made up for in another. Groups of N:M and units of inputs are not cut.
    """
    return whole_groups(inputs if inputs**2 <= LARGEST else max(BLOCK, LARGEST // inputs), pattern)


def whole_groups(width: int, pattern: object) -> int:
    """So many columns, or fewer, that no group of N:M and no unit of inputs is cut."""
    group = pattern.m if isinstance(pattern, NM) else pattern.v if isinstance(pattern, Inputs) else 1
    return max(width - width % group, group)


@torch.no_grad()
def sparse_gpt(
    rows: Tensor,
    grams: Iterable[Tensor],
    density: float,
    pattern: Pattern,
    *,
    width: int | None = None,
    block: int = BLOCK,
    damping: float = DAMPING,
) -> tuple[Tensor, Tensor]:
    """A layer's new weights and its mask.

    Args:
        rows: (groups, outputs, inputs), float.
        grams: 2 X Xᵀ / N, float64, for each group, or for each part of `width` columns of each; gone through once.
        density: exactly round(density * units) are kept of the layer; N:M has its own.
        pattern: element, block:V, inputs:V or N:M. Of units, within each block of columns.

    Returns:
        weights in the shape and dtype of `rows`, exactly 0 where pruned, and the mask.
    """
    values, kept = torch.empty_like(rows), torch.zeros_like(rows, dtype=torch.bool)
    share, before, width = Share(density), 0, width or rows.shape[2]
    parts = [(group, start) for group in range(len(rows)) for start in range(0, rows.shape[2], width)]
    for (group, start), gram in zip(parts, grams, strict=True):
        columns = slice(start, start + width)
        weight = rows[group, :, columns].to(torch.float64, copy=True)
        new, mask = _one_part(weight, gram.clone(), pattern, share, before, block, damping)
        values[group, :, columns], kept[group, :, columns] = new.to(rows.dtype), mask
        before += 0 if isinstance(pattern, NM) else pattern.units(weight.shape)
    return values, kept


def _one_part(
    weight: Tensor, hessian: Tensor, pattern: Pattern, share: Share, before: int, block: int, damping: float
) -> tuple[Tensor, Tensor]:
    dead = hessian.diagonal() == 0  # inputs that are always 0: their weights do nothing
    upper = _upper_of_inverse(hessian, dead, damping)
    kept = torch.zeros_like(weight, dtype=torch.bool)
    block = whole_groups(block, pattern)
    for start in range(0, weight.shape[1], block):
        stop = min(start + block, weight.shape[1])
        part, factor = weight[:, start:stop], upper[start:stop, start:stop]
        if not isinstance(pattern, NM):
            kept[:, start:stop], units = _chosen(part, factor, dead[start:stop], pattern, share, before)
            before += units
        errors = torch.zeros_like(part)
        for j in range(stop - start):
            if isinstance(pattern, NM) and j % pattern.m == 0:
                ahead = slice(j, min(j + pattern.m, stop - start))
                kept[:, start:stop][:, ahead] = pattern.keep(_salience(part, factor, dead[start:stop])[:, ahead])
            errors[:, j] = part[:, j].masked_fill(kept[:, start + j], 0.0) / factor[j, j]
            part[:, j:] -= errors[:, j : j + 1] * factor[j, j:]
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return weight.masked_fill_(~kept, 0.0), kept


def _upper_of_inverse(hessian: Tensor, dead: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped matrix, which is changed."""
    diagonal = hessian.diagonal()
    diagonal[dead] = 1.0
    diagonal += damping * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    upper: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return upper


def _salience(weight: Tensor, factor: Tensor, dead: Tensor) -> Tensor:
    """What pruning each weight alone would add to the squared error of its output, w² / U_jj²."""
    return (weight / factor.diagonal()).square().masked_fill(dead, 0.0)


def _chosen(
    part: Tensor, factor: Tensor, dead: Tensor, pattern: Units, share: Share, before: int
) -> tuple[Tensor, int]:
    """The mask of a block of columns, and how many units it has."""
    units = pattern.units(part.shape)
    count = share.of(before, units)
    scores = {"block": _salience(part, factor, dead)}
    return selection(scores, counts={"block": count}, pattern=pattern, ties=False).mask["block"], units
