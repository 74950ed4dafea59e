"""What a ticket stores of the values that its training began with, where these are not all the origin's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tombola.mask import Mask
from tombola.ticket.representation import Representation, signs_of
from tombola.ticket.tensors import same_bits
from tombola.ticket.ticket_data import PrunedRule


@dataclass(frozen=True)
class Beginning:
    """Fields of a ticket (see `TicketData`): what its weights begin with, kept and pruned."""

    begin: Mapping[str, Tensor] = field(default_factory=dict)
    representation: Representation = field(default_factory=Representation)
    pruned_rule: PrunedRule = "zero"
    pruned_values: Mapping[str, Tensor] = field(default_factory=dict)


def beginning_of(
    origin: Mapping[str, Tensor],
    mask: Mask,
    values: Mapping[str, Tensor],
    trained: Mapping[str, Tensor] | None = None,
) -> Beginning:
    """The smallest fields that give `values` back, bit for bit.

    Args:
        origin: the weights of the ticket's origin by name.
        values: what all masked weights begin with, in full: where pruned, what they are held at.
        trained: the final weights, where pruned ones, which must begin at 0, are trained as well.
    """
    begin, scales = _begin(origin, mask, values)
    representation = Representation("signed_constant", scales, on="origin") if scales else Representation()
    if trained is not None:
        pruned = {name: trained[name].detach().to("cpu")[~keep] for name, keep in mask.items()}
        return Beginning(begin, representation, "train", pruned)
    return Beginning(begin, representation, *_pruned(origin, mask, values))


def _begin(
    origin: Mapping[str, Tensor], mask: Mask, values: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """First values of kept weights; of layers of one size their signs, if these are not the origin's, and a scale."""
    begin, scales = {}, {}
    for name, keep in mask.items():
        kept, before = values[name][keep], origin[name].detach().to("cpu")[keep]
        if same_bits(kept, before):
            continue
        pair = signs_of(kept)
        if pair is None:
            begin[name] = kept
            continue
        signs, scales[name] = pair
        if not torch.equal(torch.sign(before).to(torch.int8), signs):
            begin[name] = signs
    return begin, scales


def _pruned(
    origin: Mapping[str, Tensor], mask: Mask, values: Mapping[str, Tensor]
) -> tuple[PrunedRule, dict[str, Tensor]]:
    """The rule that leaves fewest weights over, and their layers' values."""
    pruned = {name: values[name][~keep] for name, keep in mask.items()}
    frozen = {
        name
        for name, value in pruned.items()
        if value.numel() and same_bits(value, origin[name].detach().to("cpu")[~mask[name]])
    }
    at_zero = {name for name, value in pruned.items() if same_bits(value, torch.zeros_like(value))}
    rest = {"zero": pruned.keys() - at_zero, "origin": pruned.keys() - frozen}
    left = {rule: sum(pruned[name].numel() for name in names) for rule, names in rest.items()}
    rule: PrunedRule = "origin" if left["origin"] < left["zero"] else "zero"
    return rule, {
        name: _picked(value, origin[name].detach().to("cpu")[~mask[name]])
        for name, value in pruned.items()
        if name in rest[rule] and value.numel()
    }


def _picked(values: Tensor, before: Tensor) -> Tensor:
    """int8, 1 at the origin's value and 0 at zero, where there are no other values."""
    stay = values != 0
    picked = same_bits(values, torch.where(stay, before, torch.zeros_like(before)))
    return stay.to(torch.int8) if picked and before.dtype != torch.int8 else values
