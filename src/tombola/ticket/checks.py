"""Checks that the parts of a ticket fit each other, and the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import get_args

import torch
from torch import Tensor

from tombola.errors import TicketError
from tombola.ticket.quantised import rows_of
from tombola.ticket.rounding import is_rounded
from tombola.ticket.tensors import count_kept, first_few, mismatches, show
from tombola.ticket.ticket_data import PrunedRule, TicketData, picks


def check(ticket: TicketData) -> None:
    """TicketError unless the ticket's parts fit each other."""
    mask, rep, trained = ticket.mask, ticket.representation, ticket.trained or {}
    multiplier, values, begin = ticket.multiplier or {}, ticket.pruned_values or {}, ticket.begin or {}
    steps = ticket.steps or {}
    if ticket.pruned_rule not in get_args(PrunedRule):
        raise TicketError(f"pruned rule {show(ticket.pruned_rule)} is unknown; use one of {get_args(PrunedRule)}")
    if not isinstance(ticket.provenance, dict):
        raise TicketError("provenance is not a mapping; give names and JSON-able values")
    if not all(isinstance(rewrite, dict) and isinstance(rewrite.get("kind"), str) for rewrite in ticket.rewrites):
        raise TicketError('every rewrite is a mapping with a text under "kind"')
    for part, names in (("scale", rep.scales), ("multiplier", multiplier), ("pruned values", values),
                        ("trained values", trained), ("first values", begin), ("steps", steps),
                        ("frozen part", ticket.frozen), ("tie", ticket.tied.values())):  # fmt: skip
        for name in names:
            if name not in mask:
                raise TicketError(f"{part} for {show(name)}, which has no mask; masked are {len(mask)} other names")
    for name, keep in mask.items():
        shape, kept = tuple(keep.shape), count_kept(keep)
        rep.check_scale(name, shape)
        factor, pruned, value = multiplier.get(name), values.get(name), trained.get(name)
        if factor is not None and (factor.dtype != torch.int8 or not torch.equal(factor != 0, keep)):
            raise TicketError(f"multiplier of {show(name)} must be int8 and nonzero exactly where the mask keeps")
        if pruned is not None and tuple(pruned.shape) not in ((), (keep.numel() - kept,)):
            raise TicketError(f"pruned values of {show(name)} have shape {tuple(pruned.shape)}; "
                              f"give one number or {keep.numel() - kept} in flat order")  # fmt: skip
        if value is not None and tuple(value.shape) != (kept,):
            raise TicketError(f"trained values of {show(name)} have shape {tuple(value.shape)}; the mask keeps {kept}")
        _check_steps(name, shape, value, steps.get(name), signs=rep.keeps_signs_only(name))
    _check_begin(ticket)
    for name in (*ticket.state, *ticket.tied):
        if name in mask or (name in ticket.state and name in ticket.tied):
            raise TicketError(f"{show(name)} is stored twice: under the mask, as a tie or in the state; keep one")
    if ticket.origin.omitted:
        _check_alone(ticket)
    if ticket.origin.base is not None:
        _check_on_base(ticket, ticket.origin.base)
    elif ticket.origin.tensors is not None:
        check_against(ticket, ticket.origin.views())


def _check_steps(name: str, shape: tuple[int, ...], value: Tensor | None, steps: Tensor | None, *, signs: bool) -> None:
    """TicketError unless trained values are int8 exactly where they are signs, or numbers of steps."""
    if value is not None and (signs or steps is not None) != (value.dtype == torch.int8):
        raise TicketError(
            f"trained values of {show(name)} are {value.dtype}; int8 is for signs and numbers of steps, only for them"
        )
    if steps is None:
        return
    if value is None or signs or steps.dtype != torch.float32 or tuple(steps.shape) != (rows_of(shape),):
        raise TicketError(
            f"steps of {show(name)} are {steps.dtype} of shape {tuple(steps.shape)}; give float32, one for each of "
            f"{rows_of(shape)} rows, of trained values that are no signs"
        )
    if not bool((steps.isfinite() & (steps >= 0)).all()):
        raise TicketError(f"steps of {show(name)} are not all finite and 0 or more")


def _check_begin(ticket: TicketData) -> None:
    """TicketError unless the values that kept weights begin with have a meaning."""
    rep, begin = ticket.representation, ticket.begin or {}
    if begin and (ticket.multiplier or (rep.scales and rep.on == "both")):
        raise TicketError(
            "the ticket has first values of kept weights beside a multiplier or a representation of trained ones; "
            "keep one"
        )
    for name, value in begin.items():
        kept = count_kept(ticket.mask[name])
        if tuple(value.shape) != (kept,):
            raise TicketError(f"first values of {show(name)} have shape {tuple(value.shape)}; the mask keeps {kept}")
        signs = rep.kind in ("signed_constant", "binary") and name in rep.scales
        if signs != (value.dtype == torch.int8):
            raise TicketError(f"first values of {show(name)} are {value.dtype}; int8 is for signs, and only for them")


def _check_alone(ticket: TicketData) -> None:
    """TicketError unless the ticket needs no origin to be built."""
    missing = [name for name in ticket.mask if name not in (ticket.trained or {})]
    missing += [name for name, value in (ticket.pruned_values or {}).items() if value.dtype == torch.int8]
    strange = [owner for owner in ticket.origin.tied.values() if owner not in ticket.state]
    strange += [alias for alias in ticket.origin.tied if alias in (*ticket.state, *ticket.tied, *ticket.mask)]
    if ticket.pruned_rule != "zero" or ticket.begin or missing or strange:
        raise TicketError(
            f"a ticket without an origin holds all kept weights and needs none of the pruned ones; here pruned is "
            f"{ticket.pruned_rule}, {first_few([show(name) for name in missing]) or 'nothing'} is missing, and ties of "
            f"{first_few([show(name) for name in strange]) or 'nothing'} do not fit"
        )


def _check_on_base(ticket: TicketData, named: Mapping[str, str]) -> None:
    """TicketError unless every masked weight is either the base's or held, and nothing else is held of the origin."""
    held = ticket.origin.tensors or {}
    odd = [name for name in ticket.mask if (name in named) == (name in held)]
    odd += [name for name, value in held.items() if name not in ticket.mask or value.shape != ticket.mask[name].shape]
    if odd:
        listed = first_few([show(name) for name in odd])
        raise TicketError(f"masked weights are either the base's or held, in the mask's shape; {listed} is neither")


def check_known(ticket: TicketData, names: Iterable[str]) -> None:
    """TicketError if a ticket on a base knows nothing of some tensors of a network."""
    origin = ticket.origin
    known = {*(origin.base or {}), *ticket.mask, *ticket.state, *ticket.tied, *origin.tied}
    if foreign := [show(name) for name in names if name not in known]:
        raise TicketError(
            f"the ticket does not fit this network, of which it knows no {first_few(foreign)}; give its own as model="
        )


def check_against(ticket: TicketData, base: Mapping[str, Tensor]) -> None:
    """TicketError unless mask, trained weights and state fit the full state `base` of the network."""
    problems = mismatches(base, ticket.state, subset=True)
    for name, keep in ticket.mask.items():
        if name not in base:
            problems.append(f"masked {show(name)} is not in the model")
        elif base[name].shape != keep.shape:
            shapes = f"{tuple(keep.shape)}, the model's weight {tuple(base[name].shape)}"
            problems.append(f"the mask of {show(name)} has shape {shapes}")
        else:
            value = (ticket.trained or {}).get(name)
            fits = value is None or value.dtype in (base[name].dtype, torch.int8) or is_rounded(value, base[name])
            pruned, begin = (part.get(name) for part in (ticket.pruned_values or {}, ticket.begin or {}))
            fits = fits and (begin is None or begin.dtype in (base[name].dtype, torch.int8))  # int8 is checked above
            if pruned is not None and picks(pruned, base[name]):
                fits = fits and pruned.ndim == 1 and not bool(((pruned != 0) & (pruned != 1)).any())
            elif pruned is not None:
                fits = fits and pruned.dtype == base[name].dtype
            if not fits:
                problems.append(f"values for {show(name)} are not {base[name].dtype} as the weight is")
    for alias, owner in ticket.tied.items():
        pair = base.get(alias), base.get(owner)
        if pair[0] is None or pair[1] is None or mismatches({alias: pair[0]}, {alias: pair[1]}):
            problems.append(f"{show(alias)} cannot be tied to {show(owner)}")
    if problems:
        raise TicketError(f"the ticket does not fit the network: {first_few(problems)}")
