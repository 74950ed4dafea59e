"""How a ticket was found, from its provenance. Names in it choose among what Tombola knows; none is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from tombola.data.config import Augment, Cue, DataSpec
from tombola.data.registry import names
from tombola.errors import TombolaError
from tombola.methods.dense import DenseTraining
from tombola.names import imported_if_trusted, is_import_path
from tombola.search.describe import SCORES_ONLY
from tombola.search.presets import preset
from tombola.search.request import made
from tombola.ticket.tensors import show
from tombola.ticket.ticket import Ticket
from tombola.train.length import Length
from tombola.train.optimizer import OPTIMIZERS
from tombola.train.penalty import PENALTIES
from tombola.train.recipe import Recipe


def recorded_part(ticket: Ticket, part: str) -> Mapping[str, Any]:
    """One part of a ticket's provenance, {} where the file's writer put something else there."""
    value = ticket.provenance.get(part)
    return value if isinstance(value, Mapping) else {}


def recorded_name(ticket: Ticket, part: str) -> str | None:
    """The name of a part of a ticket's provenance, "method" for one; None unless it is short and printable."""
    name = recorded_part(ticket, part).get("name")
    return name if isinstance(name, str) and name.isprintable() and 0 < len(name) <= 200 else None


def recipe_of(ticket: Ticket, given: Mapping[str, Any] | None = None, trusted: Sequence[str] = ()) -> Recipe:
    """The recipe that the ticket's weights are trained by: that which it was found with, changed by what is given.

    A search that trained scores alone has a recipe for scores; there the preset of weight training holds, if any.
    An optimiser or penalty that the ticket names by import path is imported only if it lies under a `trusted` prefix;
    otherwise it must be among what is given, as must a length of years.
    """
    if ticket.provenance.get(SCORES_ONLY) is True:
        model, data = (recorded_name(ticket, part) or "" for part in ("model", "data"))
        named = preset(DenseTraining, model, data).recipe
        if not named and not given:
            raise TombolaError(
                "the ticket's search trained no weights, so that its recipe does not suit them; give a recipe for the "
                "weights (lr, optimizer, length and so on)"
            )
        return made(Recipe, named, given)
    recorded = ticket.provenance.get("recipe")
    if not isinstance(recorded, Mapping) or not {one.name for one in fields(Recipe)} >= set(recorded):
        raise TombolaError("the ticket does not say how it was trained; give a Recipe")
    recipe = made(Recipe, recorded, given)
    if "length" not in (given or {}):
        check_length(recipe.length)
    if "optimizer" not in (given or {}):
        check_optimizer(recipe.optimizer, trusted)
    if "penalty" not in (given or {}):
        check_penalty(recipe.penalty, trusted)
    return recipe


_LONGEST = Length(10_000, 10_000_000)
"""What a ticket may ask for by itself: a file that somebody sent must not take a machine for years."""


def check_length(text: str) -> None:
    """TombolaError if the training that a ticket asks for is absurdly long."""
    length = Length.parse(text)
    if length.epochs > _LONGEST.epochs or length.iterations > _LONGEST.iterations:
        raise TombolaError(
            f"the ticket asks for a training of {text}, and at most {_LONGEST.epochs:,} epochs or "
            f"{_LONGEST.iterations:,} iterations are taken from a ticket; if it is meant, give the length yourself"
        )


def check_optimizer(name: str, trusted: Sequence[str]) -> None:
    """TombolaError if the optimiser that a ticket names would have to be imported, and is not trusted."""
    if name not in OPTIMIZERS:
        _check_trusted("optimizer", name, trusted)


def check_penalty(name: str | None, trusted: Sequence[str]) -> None:
    """TombolaError if the penalty that a ticket names would have to be imported, and is not trusted."""
    if name is not None and name not in PENALTIES:
        _check_trusted("penalty", name, trusted)


def _check_trusted(what: str, name: str, trusted: Sequence[str]) -> None:
    shown = name if len(name) <= 80 and is_import_path(name) else "package.Name"
    instead = f"name it yourself ({what} {shown}, in the recipe or among the options), or name a trusted prefix,"
    imported_if_trusted(f"the ticket's {what}", name, trusted, instead)


_KNOWN = ("name", "val_size", "train_examples", "label_noise", "label_noise_kind", "image_size", "resize", "args")


def data_of(ticket: Ticket, root: str) -> DataSpec:
    """The data set that the ticket was found on, to be read from `root`; a ticket never causes an import."""
    recorded = recorded_part(ticket, "data")
    name = recorded.get("name")
    if not isinstance(name, str) or name not in names() or "val_size" not in recorded:
        raise TombolaError(
            f"the ticket was found on {show(name) if name else 'unnamed data'}, which it cannot load by itself; give "
            "the data (if you trust it, by its import path)"
        )
    if not isinstance(recorded.get("args", {}), Mapping):
        raise TombolaError("the arguments of the ticket's data are no mapping; give the data")
    known = {key: recorded[key] for key in _KNOWN if key in recorded}
    try:
        augment, cue = Augment(**recorded["augment"]), Cue(**recorded.get("cue", {}))
        return DataSpec(**known, root=root, augment=augment, cue=cue)
    except (KeyError, TypeError):
        raise TombolaError("the ticket does not say how its data was augmented; give the data") from None
    except TombolaError as error:
        raise TombolaError(f"the ticket describes its data by impossible values ({error}); give the data") from None
