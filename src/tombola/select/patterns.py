"""The shape that is kept or dropped as one: element, block of V output rows, V inputs of a row, N:M, channel.

A weight is seen as (output rows, flattened inputs): its first dimension, and all others in one. (A transposed
convolution stores its inputs first, so there it is the inputs that are grouped; of transformers' Conv1D `select` can be
told.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.names import unknown
from tombola.select.barred import bars

__all__ = ["NM", "Block", "Channel", "Element", "Inputs", "Pattern", "parse_pattern"]


@dataclass(frozen=True)
class Element:
    """Every weight on its own; its score is the score as given."""

    def units(self, shape: torch.Size) -> int:
        """How many units a tensor of this shape has."""
        return shape.numel()

    def score(self, scores: Tensor, signed: bool = False) -> Tensor:
        """Unit scores, flat, in the order of the units."""
        return scores.reshape(-1)

    def whole(self, kept: Tensor) -> Tensor:
        """Flat bool: the units of which every weight is True in `kept`."""
        return kept.reshape(-1)

    def spread(self, units: Tensor, shape: torch.Size) -> Tensor:
        """The mask in the weight's shape, from a flat bool over units."""
        return units.view(shape)

    def __str__(self) -> str:
        return "element"


@dataclass(frozen=True)
class Block:
    """`v` consecutive output rows at one input position are a unit; a ragged last block is a unit too.

    Units run along the inputs first: unit u is block u // inputs at input u % inputs.
    """

    v: int

    def __post_init__(self) -> None:
        if self.v < 1:
            raise TombolaError(f"block of {self.v} rows: a block has 1 row or more, e.g. block:4")

    def units(self, shape: torch.Size) -> int:
        """How many units a tensor of this shape has."""
        out, inputs = _matrix(shape)
        return -(-out // self.v) * inputs

    def score(self, scores: Tensor, signed: bool = False) -> Tensor:
        """Unit scores, flat: the mean of the |scores| (of the scores as given if `signed`); see `_mean`."""
        rows = self._padded(scores, -torch.inf)
        return _mean(rows, 1, signed).reshape(-1)

    def whole(self, kept: Tensor) -> Tensor:
        """Flat bool: the units of which every weight is True in `kept`."""
        return self._padded(kept, True).all(dim=1).reshape(-1)

    def spread(self, units: Tensor, shape: torch.Size) -> Tensor:
        """The mask in the weight's shape, from a flat bool over units."""
        out, inputs = _matrix(shape)
        return units.view(-1, inputs).repeat_interleave(self.v, dim=0)[:out].reshape(shape)

    def _padded(self, tensor: Tensor, fill: float) -> Tensor:
        out, inputs = _matrix(tensor.shape)
        blocks = -(-out // self.v)
        rows = tensor.reshape(out, inputs)
        if blocks * self.v > out:
            rows = torch.cat([rows, rows.new_full((blocks * self.v - out, inputs), fill)])
        return rows.view(blocks, self.v, inputs)

    def __str__(self) -> str:
        return f"block:{self.v}"


@dataclass(frozen=True)
class Inputs:
    """`v` consecutive inputs of one output row are a unit, in a convolution `v` input channels at one kernel position.

    A ragged last one is a unit too. What a dot product of 8-bit numbers reads at once is four inputs. Units run along
    the kernel positions first, then along the inputs.
    """

    v: int

    def __post_init__(self) -> None:
        if self.v < 1:
            raise TombolaError(f"units of {self.v} inputs: a unit has 1 input or more, e.g. inputs:4")

    def units(self, shape: torch.Size) -> int:
        """How many units a tensor of this shape has."""
        out, inputs, places = _volume(shape)
        return out * -(-inputs // self.v) * places

    def score(self, scores: Tensor, signed: bool = False) -> Tensor:
        """Unit scores, flat: the mean of the |scores| (of the scores as given if `signed`); see `_mean`."""
        return _mean(self._padded(scores, -torch.inf), 2, signed).reshape(-1)

    def whole(self, kept: Tensor) -> Tensor:
        """Flat bool: the units of which every weight is True in `kept`."""
        return self._padded(kept, True).all(dim=2).reshape(-1)

    def spread(self, units: Tensor, shape: torch.Size) -> Tensor:
        """The mask in the weight's shape, from a flat bool over units."""
        out, inputs, places = _volume(shape)
        wide = units.view(out, -1, places).repeat_interleave(self.v, dim=1)
        return wide[:, :inputs].reshape(shape)

    def _padded(self, tensor: Tensor, fill: float) -> Tensor:
        """(out, units of a row, v, kernel positions)"""
        out, inputs, places = _volume(tensor.shape)
        count = -(-inputs // self.v)
        rows = tensor.reshape(out, inputs, places)
        if count * self.v > inputs:
            rows = torch.cat([rows, rows.new_full((out, count * self.v - inputs, places), fill)], dim=1)
        return rows.view(out, count, self.v, places)

    def __str__(self) -> str:
        return f"inputs:{self.v}"


@dataclass(frozen=True)
class Channel:
    """An output row (a neuron, a filter) is the unit."""

    def units(self, shape: torch.Size) -> int:
        """How many units a tensor of this shape has."""
        return _matrix(shape)[0]

    def score(self, scores: Tensor, signed: bool = False) -> Tensor:
        """Unit scores, flat: the mean of the |scores| (of the scores as given if `signed`); see `_mean`."""
        return _mean(scores.reshape(_matrix(scores.shape)), 1, signed)

    def whole(self, kept: Tensor) -> Tensor:
        """Flat bool: the units of which every weight is True in `kept`."""
        return kept.reshape(_matrix(kept.shape)).all(dim=1)

    def spread(self, units: Tensor, shape: torch.Size) -> Tensor:
        """The mask in the weight's shape, from a flat bool over units."""
        out, inputs = _matrix(shape)
        return units.view(out, 1).expand(out, inputs).reshape(shape)

    def __str__(self) -> str:
        return "channel"


@dataclass(frozen=True)
class NM:
    """At most `n` of every `m` consecutive inputs of an output row are kept, so the density is fixed at n /
    m.

    Within a group the scores as given decide. A tail of t < m inputs keeps round(n * t / m) of them.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n <= self.m:
            raise TombolaError(f"pattern {self.n}:{self.m}: N of M needs 1 <= N <= M, e.g. 2:4")

    def keep(self, scores: Tensor, candidates: Tensor | None = None) -> Tensor:
        """Bool in the shape of the scores; only positions True in `candidates` may be kept."""
        out, inputs = _matrix(scores.shape)
        rows = scores.reshape(out, inputs)
        allowed = None if candidates is None else candidates.reshape(out, inputs)
        full = inputs - inputs % self.m
        parts = [_best(_groups(rows[:, :full], self.m), _groups(allowed, self.m, full), self.n).view(out, full)]
        if full < inputs:
            tail = round(self.n * (inputs - full) / self.m)
            parts.append(_best(rows[:, full:], None if allowed is None else allowed[:, full:], tail))
        return torch.cat(parts, dim=1).view(scores.shape)

    def filled(
        self, scores: Tensor, candidates: Tensor | None, fill: torch.Generator | None, where: str
    ) -> tuple[Tensor, int]:
        """`keep`, and how many of the kept have score -inf: drawn from a group's barred ones where it has no others.

        Raises:
            TombolaError: there are such and `fill` is None; `where` names the layer.
        """
        kept = self.keep(scores, candidates)
        barred = scores == -torch.inf if bars(scores) else None
        missing = 0 if barred is None else int(torch.count_nonzero(kept & barred))
        if barred is None or missing == 0:
            return kept, 0
        if fill is None:
            count = int(torch.count_nonzero(kept))
            raise TombolaError(
                f"{where} is to keep {count} weights as {self}, but only {count - missing} of the best in their groups "
                "have a score above -inf; take another criterion, or give fill=torch.Generator() to draw the rest at "
                "random"
            )
        draws = torch.rand(scores.shape, generator=fill, device=fill.device, dtype=torch.float64).to(scores.device)
        ranks = torch.where(barred, draws, torch.where(kept, 2.0, -1.0))  # the best, then barred ones by their draw
        return self.keep(ranks, candidates), missing

    def tied(self, scores: Tensor, kept: Tensor, candidates: Tensor | None) -> int:
        """How many weights are kept for their position alone: one of the same score is pruned from their group."""
        allowed = torch.ones_like(kept) if candidates is None else candidates
        count = 0
        for s, k, a in zip(*(self._grouped(tensor) for tensor in (scores, kept, allowed)), strict=True):
            lowest = s.double().masked_fill(~k, torch.inf).amin(1, keepdim=True)
            level = (s == lowest) & (lowest > -torch.inf)
            out = (level & a & ~k).any(1, keepdim=True)
            count += int(torch.count_nonzero(level & k & out))
        return count

    def _grouped(self, tensor: Tensor) -> list[Tensor]:
        """The full groups as rows, then the tails as rows, where there are any."""
        out, inputs = _matrix(tensor.shape)
        rows = tensor.reshape(out, inputs)
        full = inputs - inputs % self.m
        return [part for part in (rows[:, :full].reshape(-1, self.m), rows[:, full:]) if part.numel()]

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


Units = Element | Block | Inputs | Channel
"""Patterns whose units are ranked in a layer or over all layers."""

Pattern = Units | NM


PATTERNS = ("element", "block:V", "inputs:V", "N:M", "channel")
"""How patterns are written."""


def parse_pattern(text: str | Pattern, known: Sequence[str] = PATTERNS) -> Pattern:
    """`"element"`, `"block:4"`, `"inputs:4"`, `"2:4"` or `"channel"` as a pattern; a pattern is returned unchanged.

    `known`: what is allowed, for the error.
    """
    if not isinstance(text, str):
        return text
    if text == "element":
        return Element()
    if text == "channel":
        return Channel()
    if match := re.fullmatch(r"block:(\d{1,9})", text):
        return Block(int(match[1]))
    if match := re.fullmatch(r"inputs:(\d{1,9})", text):
        return Inputs(int(match[1]))
    if match := re.fullmatch(r"(\d{1,9}):(\d{1,9})", text):
        return NM(int(match[1]), int(match[2]))
    raise TombolaError(unknown("pattern", text, known, "; e.g. block:4, inputs:4 or 2:4"))


def _matrix(shape: torch.Size) -> tuple[int, int]:
    """(output rows, inputs) of a weight; a vector has one input, a scalar is 1 x 1."""
    if not shape:
        return 1, 1
    return shape[0], shape[1:].numel()


def _volume(shape: torch.Size) -> tuple[int, int, int]:
    """(output rows, inputs, kernel positions) of a weight."""
    out, inputs = _matrix(shape)
    places = shape[2:].numel()
    return out, inputs // places if places else inputs, places


def _mean(scores: Tensor, dim: int, signed: bool) -> Tensor:
    """The mean over what is not -inf; -inf where nothing is, so that such a unit is barred."""
    if not scores.is_floating_point():
        scores = scores.double()
    elif scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    barred = scores == -torch.inf
    count = (~barred).sum(dim)
    sizes = scores if signed else scores.abs()
    mean = sizes.masked_fill(barred, 0.0).sum(dim) / count.clamp(min=1)
    return mean.masked_fill(count == 0, -torch.inf)


def _groups(rows: Tensor | None, m: int, stop: int | None = None) -> Tensor | None:
    return None if rows is None else rows[:, :stop].reshape(-1, m)


def _best(groups: Tensor | None, allowed: Tensor | None, n: int) -> Tensor:
    """Bool like `groups`: the `n` largest of each row, ties to the left, among what is allowed."""
    assert groups is not None
    width = groups.shape[1]
    if n >= width or width == 0:
        return torch.ones_like(groups, dtype=torch.bool) if allowed is None else allowed.clone()
    if width > 16:
        return _best_by_sorting(groups, allowed, n)
    columns = list(groups.t().contiguous())
    open_ = None if allowed is None else list(allowed.t().contiguous())
    ahead = torch.zeros((width, groups.shape[0]), dtype=torch.uint8, device=groups.device)  # how many beat each
    for right in range(1, width):
        for left in range(right):
            wins = columns[left] >= columns[right]
            if open_ is not None:
                wins = (wins | ~open_[right]) & (open_[left] | ~open_[right])
            ahead[right] += wins
            ahead[left] += ~wins
    kept = (ahead < n).t()
    return (kept if allowed is None else kept & allowed).contiguous()


def _best_by_sorting(groups: Tensor, allowed: Tensor | None, n: int) -> Tensor:
    order = torch.sort(groups, dim=1, descending=True, stable=True).indices
    if allowed is not None:  # a second stable sort: the allowed ones first
        second = torch.sort((~allowed.gather(1, order)).to(torch.uint8), dim=1, stable=True).indices
        order = order.gather(1, second)
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order[:, :n], True)
    return kept if allowed is None else kept & allowed
