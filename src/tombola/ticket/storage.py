"""How many bits the weights of a ticket carry, whatever file they lie in."""

from __future__ import annotations

import math

from tombola.ticket.parts import Parts


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
        kept, count = int(keep.sum()), keep.numel()
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
