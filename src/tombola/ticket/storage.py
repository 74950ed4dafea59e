"""How many bits the weights of a ticket carry, whatever file they lie in."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tombola.ticket.bitcode import histogram
from tombola.ticket.parts import Parts
from tombola.ticket.tensors import count_kept


def entropy(kept: int, total: int) -> float:
    """Bits per weight of a mask that keeps `kept` of `total`: H(kept / total), 0 for all or nothing."""
    if kept in (0, total):
        return 0.0
    p = kept / total
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def bits_per_weight(ticket: Parts) -> float:
    """Bits per masked weight that inference needs: the masks' entropy, layer by layer, plus the kept values.

    A kept weight of one magnitude per layer or output (signed constant, binary) takes its sign, 1 bit: such a
    network is ternary, not binary (an author of multi-prize tickets agrees). Any other kept weight takes the bits of
    its dtype. Weights drawn from a seed need no bits but the mask's, if whoever runs them draws them again.
    """
    bits, total = 0.0, 0
    for name, keep in ticket.mask.items():
        kept, count = count_kept(keep), keep.numel()
        signs_only = (
            ticket.representation.kind in ("signed_constant", "binary") and name in ticket.representation.scales
        )
        each = 1.0 if signs_only and ticket.representation.on == "both" else _bits_of_values(ticket, name)
        bits += count * entropy(kept, count) + kept * each
        total += count
    return bits / total if total else 0.0


def _bits_of_values(ticket: Parts, name: str) -> int:
    """The width of a layer's weights; those drawn from a seed are float32."""
    values = (ticket.trained or {}).get(name, ticket.origin.views().get(name))
    return 32 if values is None else 8 * values.element_size()


def bound_bytes(ticket: Parts) -> float:
    """The information bound of the ticket's file, without names and provenance.

    Layer by layer the mask's entropy; of multipliers and signs the entropy over the kept weights; the bytes of all
    other tensors (other trained values, pruned values, scales, state, a stored origin).
    """
    masks = sum(keep.numel() * entropy(count_kept(keep), keep.numel()) for keep in ticket.mask.values())
    trained = (ticket.trained or {}).values()
    symbols = [value for value in trained if value.dtype == torch.int8]
    symbols += [factor[ticket.mask[name]] for name, factor in (ticket.multiplier or {}).items()]
    plain = [value for value in trained if value.dtype != torch.int8]
    for part in (ticket.pruned_values, ticket.representation.scales, ticket.state, ticket.origin.tensors):
        plain += (part or {}).values()
    return (masks + sum(map(_symbol_bits, symbols))) / 8 + sum(tensor.nbytes for tensor in plain)


def _symbol_bits(values: Tensor) -> float:
    """The empirical entropy of all `values` (int8) together."""
    counts = [count for count in histogram(values.numpy()).tolist() if count]
    return -math.fsum(count * math.log2(count / values.numel()) for count in counts)
