"""What two masks of the same network share: overlap against chance, densities, signs and sizes, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tombola.errors import TicketError, TombolaError
from tombola.mask import Mask
from tombola.results.overlap import MaskSide, PairOverlap, SharedLayer, TicketPair
from tombola.results.record import Figure
from tombola.results.statistics import figure
from tombola.ticket.tensors import hash_state
from tombola.ticket.ticket import Ticket

SIZE_BINS = 20

__all__ = [
    "Kept",
    "Overlap",
    "compare_files",
    "compare_tickets",
    "figure",
    "kept_weights",
    "over_replicates",
    "overlap",
    "overlap_within",
    "pooled",
    "strata_by_input",
    "strata_by_size",
    "whole",
]


@dataclass(frozen=True)
class Overlap:
    """Counts of two masks over the same `total` positions, of which `both` are kept by both.

    `expected` and `variance` are those of `both` for independent random masks of the same counts: the
    hypergeometric ones. Of several layers they are sums over the layers, so that the densities of the layers,
    which the masks may well share, do not count as overlap.
    """

    total: int
    first: int
    second: int
    both: int
    expected: float
    variance: float

    @classmethod
    def of(cls, total: int, first: int, second: int, both: int) -> Overlap:
        """One layer's: mean k_a k_b / n, variance k_a k_b (n - k_a)(n - k_b) / (n^2 (n - 1)); 0 for n < 2."""
        expected = first * second / total if total else 0.0
        spread = expected * (total - first) * (total - second) / (total * (total - 1)) if total > 1 else 0.0
        return cls(total, first, second, both, expected, spread)

    @property
    def ratio(self) -> float | None:
        """Shared weights over those expected by chance; None where none are expected."""
        return self.both / self.expected if self.expected else None

    @property
    def jaccard(self) -> float | None:
        """Kept by both over kept by either; None where neither keeps anything."""
        either = self.first + self.second - self.both
        return self.both / either if either else None

    @property
    def z(self) -> float | None:
        """Standard deviations above chance; None where chance leaves no choice (a mask keeps all or nothing)."""
        return (self.both - self.expected) / math.sqrt(self.variance) if self.variance else None


def overlap(first: Mask, second: Mask) -> dict[str, Overlap]:
    """Every layer's overlap, by name; `whole` joins them.

    Raises:
        TombolaError: the masks run over other layers or shapes, so they are not of the same network.
    """
    shared = (first & second).counts()
    counts, others = first.counts(), second.counts()
    return {name: Overlap.of(total, counts[name][0], others[name][0], both) for name, (both, total) in shared.items()}


def whole(layers: Iterable[Overlap]) -> Overlap:
    """Several layers as one."""
    parts = list(layers)
    return Overlap(
        sum(layer.total for layer in parts),
        sum(layer.first for layer in parts),
        sum(layer.second for layer in parts),
        sum(layer.both for layer in parts),
        math.fsum(layer.expected for layer in parts),
        math.fsum(layer.variance for layer in parts),
    )


def overlap_within(first: Tensor, second: Tensor, strata: Tensor) -> Overlap:
    """One layer's overlap where chance is random within each stratum, with each mask's own count there.

    What is left above chance is not explained by what the strata stand for.

    Args:
        first, second: bool, of one shape.
        strata: the number of each position's stratum, from 0; int64 of the same shape.
    """
    width = int(strata.max()) + 1 if strata.numel() else 0
    total, *kept = (
        torch.bincount(strata[chosen], minlength=width).tolist()
        for chosen in (torch.ones_like(first), first, second, first & second)
    )
    return whole(Overlap.of(*counts) for counts in zip(total, *kept, strict=True))


def strata_by_size(weight: Tensor, bins: int = SIZE_BINS) -> Tensor:
    """Which of `bins` quantiles of |weight| each weight lies in; equal sizes lie in one. int64, the weight's shape."""
    sizes = weight.detach().to("cpu", torch.float64).abs()
    ordered = sizes.flatten().sort().values
    edges = ordered[[len(ordered) * index // bins for index in range(1, bins)]] if len(ordered) else ordered
    return torch.bucketize(sizes, edges, right=True)


def strata_by_input(weight: Tensor) -> Tensor:
    """The input unit or channel that each weight reads (dimension 1); one stratum for vectors."""
    if weight.ndim < 2:
        return torch.zeros(weight.shape, dtype=torch.int64, device="cpu")
    inputs = torch.arange(weight.shape[1], device="cpu").view(1, -1, *([1] * (weight.ndim - 2)))
    return inputs.expand(weight.shape)


@dataclass(frozen=True)
class Kept:
    """Which weights a mask keeps of a layer. None: there is nothing to tell it from.

    Args:
        kept: how many weights
        positive: fraction of them that are above 0 at the origin
        positive_by_chance: the same of all the layer's weights: what a random mask would keep
        magnitude: mean |weight| at the origin of those kept, over that of the layer; 1 by chance
        flipped: fraction of them whose sign training changed; None for an untrained layer
    """

    kept: int
    positive: float | None
    positive_by_chance: float | None
    magnitude: float | None
    flipped: float | None


def kept_weights(keep: Tensor, origin: Tensor, trained: Tensor | None = None) -> Kept:
    """One layer's kept weights.

    Args:
        keep: bool, in the weight's shape.
        origin: the layer's weights before training, same shape, any real dtype.
        trained: kept weights after training, 1-D in flat order, or int8 signs of them; None: not trained.
    """
    every = origin.detach().to("cpu", torch.float64)
    chosen = every[keep.to("cpu")]
    size = float(every.abs().mean()) if every.numel() else 0.0
    some = len(chosen) > 0
    flipped = None
    if trained is not None and some:
        flipped = float((torch.sign(trained.detach().to("cpu", torch.float64)) != torch.sign(chosen)).double().mean())
    return Kept(
        kept=len(chosen),
        positive=float((chosen > 0).double().mean()) if some else None,
        positive_by_chance=float((every > 0).double().mean()) if every.numel() else None,
        magnitude=float(chosen.abs().mean()) / size if some and size else None,
        flipped=flipped,
    )


def pooled(layers: Sequence[Kept]) -> Kept:
    """Several layers as one: means weighted by what is kept, so that layers of other scales do not mix."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [(layer.kept, value) for layer, value in zip(layers, values, strict=True) if value is not None]
        weight = sum(kept for kept, _ in known)
        return math.fsum(kept * value for kept, value in known) / weight if weight else None

    kept = sum(layer.kept for layer in layers)
    return Kept(
        kept,
        positive=mean([layer.positive for layer in layers]),
        positive_by_chance=mean([layer.positive_by_chance for layer in layers]),
        magnitude=mean([layer.magnitude for layer in layers]),
        flipped=mean([layer.flipped for layer in layers]),
    )


def compare_tickets(
    first: Ticket, second: Ticket, *, model: nn.Module | None = None, trusted: Sequence[str] = ()
) -> PairOverlap[float | None]:
    """What two tickets share: `layers`, the `whole`, and whether they have the `same_origin`.

    `ratio_same_inputs` and `ratio_same_sizes` are against chance that keeps, for each mask, how many weights of every
    input unit, or of every 20th part by initial size, it keeps: what is above 1 there is more than both masks'
    liking for the same inputs, or for large weights. Sizes need a shared origin.
    `model`, `trusted` as in `Ticket.build`. Signs and sizes are those of each ticket's own origin; a sign has
    changed where the ticket's trained weight differs in it.

    Raises:
        TombolaError: the tickets are of different networks, or an origin cannot be built.
    """
    layers = overlap(first.mask, second.mask)
    pairs = {name: (first.mask[name].to("cpu"), second.mask[name].to("cpu")) for name in layers}
    states = [ticket.origin.state_dict(model, trusted) for ticket in (first, second)]
    sides = [_sides(ticket, state) for ticket, state in zip((first, second), states, strict=True)]
    same_origin = hash_state(states[0]) == hash_state(states[1])
    inputs = {name: overlap_within(*pair, strata_by_input(pair[0])) for name, pair in pairs.items()}
    sizes = {name: overlap_within(*pair, strata_by_size(states[0][name])) for name, pair in pairs.items()}
    rows = tuple(
        _row(name, found, inputs[name], sizes[name] if same_origin else None, *(side[name] for side in sides))
        for name, found in layers.items()
    )
    total = _row(
        "all layers",
        whole(layers.values()),
        whole(inputs.values()),
        whole(sizes.values()) if same_origin else None,
        *(pooled(list(side.values())) for side in sides),
    )
    return PairOverlap(layers=rows, whole=total, same_origin=same_origin)


def compare_files(
    first: str | Path, second: str | Path, *, trusted: Sequence[str] = (), max_weights: int | None = None
) -> TicketPair:
    """`compare_tickets` of two ticket files, in the form of a study's result; nothing is trained.

    `max_weights` as in `Ticket.load`.
    """
    tickets = Ticket.load(first, max_weights=max_weights), Ticket.load(second, max_weights=max_weights)
    try:
        found = over_replicates([compare_tickets(*tickets, trusted=trusted)])
    except TombolaError as error:
        raise TombolaError(f"{first} and {second} cannot be compared: {error}") from None
    return TicketPair(
        names=(str(first), str(second)),
        replicates=1,
        layers=found.layers,
        whole=found.whole,
        same_origin=found.same_origin,
    )


def _sides(ticket: Ticket, state: Mapping[str, Tensor]) -> dict[str, Kept]:
    sides = {}
    for name, keep in ticket.mask.items():
        origin = _weight(state, name, keep)
        # a trained ticket leaves out the layers that training left as they were
        latent = ticket.latent(name)
        trained = None if ticket.trained is None else origin[keep] if latent is None else latent
        sides[name] = kept_weights(keep, origin, trained)
    return sides


def _weight(state: Mapping[str, Tensor], name: str, keep: Tensor) -> Tensor:
    if name not in state or state[name].shape != keep.shape:
        raise TicketError(
            f"the ticket does not fit the network: its origin has no {name!r} of shape {tuple(keep.shape)}"
        )
    return state[name]


def _row(
    name: str, found: Overlap, inputs: Overlap, sizes: Overlap | None, first: Kept, second: Kept
) -> SharedLayer[float | None]:
    return SharedLayer(
        name=name,
        total=found.total,
        both=found.both,
        expected=found.expected,
        ratio=found.ratio,
        ratio_same_inputs=inputs.ratio,
        ratio_same_sizes=None if sizes is None else sizes.ratio,
        jaccard=found.jaccard,
        z=found.z,
        first=_side(found.total, first),
        second=_side(found.total, second),
    )


def _side(total: int, side: Kept) -> MaskSide[float | None]:
    return MaskSide(
        kept=side.kept,
        density=side.kept / total if total else 1.0,
        positive=side.positive,
        positive_by_chance=side.positive_by_chance,
        magnitude=side.magnitude,
        flipped=side.flipped,
    )


def over_replicates(found: Sequence[PairOverlap[float | None]]) -> PairOverlap[Figure]:
    """`compare_tickets` of several replicates as one: every number becomes its `figure`."""
    return PairOverlap(
        layers=tuple(_joined(rows) for rows in zip(*(pair.layers for pair in found), strict=True)),
        whole=_joined([pair.whole for pair in found]),
        same_origin=all(pair.same_origin for pair in found),
    )


def _joined(rows: Sequence[SharedLayer[float | None]]) -> SharedLayer[Figure]:
    return SharedLayer(
        name=rows[0].name,
        total=rows[0].total,
        both=figure([row.both for row in rows]),
        expected=figure([row.expected for row in rows]),
        ratio=figure([row.ratio for row in rows]),
        ratio_same_inputs=figure([row.ratio_same_inputs for row in rows]),
        ratio_same_sizes=figure([row.ratio_same_sizes for row in rows]),
        jaccard=figure([row.jaccard for row in rows]),
        z=figure([row.z for row in rows]),
        first=_joined_sides([row.first for row in rows]),
        second=_joined_sides([row.second for row in rows]),
    )


def _joined_sides(sides: Sequence[MaskSide[float | None]]) -> MaskSide[Figure]:
    return MaskSide(
        kept=figure([side.kept for side in sides]),
        density=figure([side.density for side in sides]),
        positive=figure([side.positive for side in sides]),
        positive_by_chance=figure([side.positive_by_chance for side in sides]),
        magnitude=figure([side.magnitude for side in sides]),
        flipped=figure([side.flipped for side in sides]),
    )
