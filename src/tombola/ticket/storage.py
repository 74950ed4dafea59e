"""The bits that a ticket's file must hold, counted here alone, for results, tables and `tombola info`.

Counted are a mask's entropy, layer by layer, but for what a key gives of it; the entropy of signs and multipliers over
the kept weights; the bytes of everything else, in its own dtype: trained values, pruned values, scales, state, a stored
origin. Weights drawn from a seed cost nothing, since a reader draws them again. Not counted: names, provenance, the
container.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from tombola.mask import Mask
from tombola.ticket.bitcode import histogram
from tombola.ticket.frozen import FrozenPart
from tombola.ticket.omit import MaskedFields, masked, masked_alone
from tombola.ticket.tensors import count_kept
from tombola.ticket.ticket_data import TicketData


def entropy(kept: int, total: int) -> float:
    """Bits per weight of a mask that keeps `kept` of `total`: H(kept / total), 0 for all or nothing."""
    if kept in (0, total):
        return 0.0
    p = kept / total
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def bits_per_weight(ticket: TicketData) -> float:
    """What a file that will only be run must hold of its masked layers, in bits per weight under the mask.

    That is the ticket's own file where its origin is seeded or a base; where it is stored, the file that
    `save(origin=False)` writes. 0 for a mask over nothing.
    """
    held = 0 if ticket.origin.base is None else sum(value.nbytes for value in (ticket.origin.tensors or {}).values())
    return (masked_bits(ticket.mask, masked_alone(ticket), ticket.frozen) + 8 * held) / max(ticket.mask.total, 1)


def bound_bytes(ticket: TicketData) -> float:
    """What the ticket's file must hold, in bytes: its masked layers, its state, and a stored origin."""
    others = [*ticket.state.values(), *(ticket.origin.tensors or {}).values()]
    return masked_bits(ticket.mask, masked(ticket), ticket.frozen) / 8 + sum(tensor.nbytes for tensor in others)


def masked_bits(mask: Mask, layers: MaskedFields, frozen: Mapping[str, FrozenPart]) -> float:
    """What `layers` hold, in bits, the masks included, but for their frozen parts."""
    return math.fsum(_bits_of(name, keep, layers, frozen.get(name)) for name, keep in mask.items())


def _bits_of(name: str, keep: Tensor, layers: MaskedFields, part: FrozenPart | None) -> float:
    kept, total = count_kept(keep), keep.numel()
    if part is not None:
        kept, total = kept - part.kept, total - part.size
    bits = total * entropy(kept, total)
    trained, factor = layers.trained.get(name), layers.multiplier.get(name)
    plain = [layers.representation.scales.get(name), layers.steps.get(name)]
    for values in (trained, layers.begin.get(name), layers.pruned_values.get(name)):
        if values is not None and values.dtype == torch.int8:
            bits += _symbol_bits(values)
        else:
            plain.append(values)
    if factor is not None:
        bits += _symbol_bits(factor[keep])
    return bits + 8 * sum(tensor.nbytes for tensor in plain if tensor is not None)


def _symbol_bits(values: Tensor) -> float:
    """The empirical entropy of all `values` (int8) together."""
    counts = [count for count in histogram(values.numpy()).tolist() if count]
    return -math.fsum(count * math.log2(count / values.numel()) for count in counts)
