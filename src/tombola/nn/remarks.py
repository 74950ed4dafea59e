"""Remarks about a network with binary activations: where values are not -1 and +1, and unusual orders of layers."""

from __future__ import annotations

from collections.abc import Sequence

from tombola.nn.calls import Call

_ORDER = "the published order is conv, pool, norm, activation"


def remarks(calls: Sequence[Call]) -> list[str]:
    """One line each, in order, for the calls of a pass of a network whose activations are binary."""
    lines: list[str] = []
    origins: dict[Call, Call | None] = {}
    for call in calls:
        origins[call] = _origin(call, origins)
        source = call.inputs[0]
        odd = origins.get(source, source)
        if call.role == "weight" and odd is not None and odd.role != "given":
            lines.append(f"{call.location} sees other values than -1 and +1, from {_what(odd)}")
        elif call.role == "max pool" and odd is None:
            lines.append(f"{call.location} takes the maximum of signs, nearly always +1; {_ORDER}")
        elif call.role == "activation" and (before := _before(source)).role == "weight":
            lines.append(f"{before.location} goes to the activation {call.location} with no norm between; {_ORDER}")
    return lines


def _origin(call: Call, origins: dict[Call, Call | None]) -> Call | None:
    """None where the call's values are -1 and +1; else the call that makes them others."""
    if call.role == "activation":
        return None
    before = [origins.get(source, source) for source in call.inputs]
    if call.role in ("same", "max pool"):
        return before[0]
    if call.name in ("torch.cat", "torch.concat", "torch.stack"):
        return next((odd for odd in before if odd is not None), None)
    return call


def _before(call: Call) -> Call:
    """The first call upstream that is more than a pool, dropout or change of shape."""
    while call.role in ("same", "max pool", "average pool", "dropout"):
        call = call.inputs[0]
    return call


def _what(call: Call) -> str:
    return call.location if call.role == "other" else f"the {call.role.replace('weight', 'layer')} {call.location}"
