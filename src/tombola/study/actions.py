"""What a ticket's search did to kept and pruned weights, from its provenance: in words, and for verify's arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from tombola.errors import TombolaError
from tombola.study.recorded import check_length, check_optimizer, check_penalty, recorded_part
from tombola.ticket.table import actions
from tombola.ticket.tensors import count_kept, show
from tombola.ticket.ticket import Ticket
from tombola.train.recipe import Recipe


class Actions(NamedTuple):
    """Names of the kept and the pruned action; None each where weights rewind, or are set to 0."""

    kept: str | None = None
    pruned: str | None = None


def actions_of(ticket: Ticket) -> Actions:
    """The actions that the ticket was found with."""
    masks = [{"kept": count_kept(keep), "shape": keep.shape} for keep in ticket.mask.values()]
    return Actions(*actions({"provenance": ticket.provenance, "masks": masks}))


def retrain_of(ticket: Ticket, given: Mapping[str, Any] | None = None, trusted: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of the recipe that the ticket's search changed after its dense level, but for those that are given.

    Raises:
        TombolaError: as `recipe_of`, for what a file may not ask for by itself.
    """
    recorded = recorded_part(ticket, "method").get("retrain")
    if not isinstance(recorded, Mapping) or ticket.density == 1.0:
        return {}
    changed = {name: value for name, value in recorded.items() if name not in (given or {})}
    if not {one.name for one in fields(Recipe)} >= set(changed):
        raise TombolaError("the ticket does not say how its later levels were trained; give a Recipe")
    if isinstance(changed.get("length"), str):
        check_length(changed["length"])
    if "optimizer" in changed:
        check_optimizer(str(changed["optimizer"]), trusted)
    if changed.get("penalty") is not None:
        check_penalty(str(changed["penalty"]), trusted)
    return changed


def in_words(ticket: Ticket, retrain: Mapping[str, Any]) -> str:
    """What the arms of a verdict do besides: sentences; "" where weights rewind and pruned ones are 0."""
    kept, pruned = actions_of(ticket)
    parts = []
    if kept is not None:
        parts.append(
            f"The ticket's kept weights begin with what kept action {kept} gave them, those of its random and "
            "reinitialised controls with fresh ones."
        )
    if ticket.pruned_rule == "train":
        parts.append(
            "Pruned weights begin at 0 and are trained too, in the ticket and in its controls: the mask says what "
            "training begins with, and no network stays sparse."
        )
    elif pruned is not None:
        parts.append(
            f"Pruned weights are held at what pruned action {pruned} gave them; in the controls as many are 0, and the "
            "others are frozen at their fresh values."
        )
    if retrain:
        changed = ", ".join(f"{name} {show(value)[1:-1]}" for name, value in retrain.items())
        parts.append(f"All arms but the dense one are trained as the search trained its tickets ({changed}).")
    return " ".join(parts)
