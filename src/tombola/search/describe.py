"""The scientific configuration of a search as JSON-able values: what its run is named by, and its ticket remembers."""

from __future__ import annotations

from typing import Any

from torch import nn

from tombola.data.config import ASPECT, DataSpec
from tombola.data.splits import Splits
from tombola.fingerprint import fingerprint, warn_unseen
from tombola.fingerprint.origins import package_of
from tombola.methods.base import Method
from tombola.models.checkpoint import digest_of
from tombola.models.foreign import network_at
from tombola.models.registry import check_name, is_known
from tombola.models.spec import ModelSpec
from tombola.parameters import unwrap
from tombola.plain import as_plain
from tombola.search.request import Request
from tombola.ticket.tensors import hash_state
from tombola.train.optimizer import is_foreign, optimizer_class
from tombola.train.penalty import PENALTIES, regulariser
from tombola.train.recipe import Recipe

SCORES_ONLY = "scores_only"
"""In a ticket's provenance: the recipe trained scores of weights that rested. Nothing named there is imported."""


def describe(request: Request, splits: Splits) -> dict[str, Any]:
    """The scientific configuration as JSON-able values: no paths, no display settings."""
    return {
        **describe_training(request.method, request.recipe),
        "model": describe_model(request.model),
        "data": describe_data(request.data, splits),
        "task": splits.task.identity,
        **({} if request.start is None else {"start": request.start.digest}),
    }


def describe_training(method: Method, recipe: Recipe) -> dict[str, Any]:
    """A method and a recipe: their options, and the code of what they name of the user's own."""
    named = {"name": method.name, "version": method.version, **as_plain(method)}
    code = {**_code_of_method(method), **code_of(recipe)}
    return {"method": named, "recipe": as_plain(recipe), **({"code": code} if code else {})}


def code_of(recipe: Recipe) -> dict[str, str]:
    """The fingerprints of an optimiser and a penalty that are no names of Tombola's own."""
    code = {"optimizer": fingerprint(optimizer_class(recipe)).digest} if is_foreign(recipe) else {}
    if recipe.penalty is not None and recipe.penalty not in PENALTIES:
        code["penalty"] = fingerprint(regulariser(recipe.penalty)).digest
    return code


def _code_of_method(method: Method) -> dict[str, str]:
    """The fingerprints of a method of the user's own, and of what a method names of the user's own."""
    parts = {what: fingerprint(part) for what, part in method.code().items()}
    if package_of(type(method).__module__) is None:
        parts = {"method": fingerprint(method), **parts}
    warn_unseen({f"the {what}": part for what, part in parts.items()}, "use another folder of runs after a change")
    return {what: part.digest for what, part in parts.items()}


def describe_model(model: nn.Module | ModelSpec) -> dict[str, Any]:
    """A network's name, arguments and initialisation, and the code of a user's own.

    Of a live one the hash of its weights, and the fingerprint of everything else: what its classes do, dropout,
    frozen parameters, attributes, hooks.
    """
    if isinstance(model, nn.Module):
        own = unwrap(model)
        return {
            "name": type(own).__name__,
            "weights": hash_state(dict(own.state_dict())),
            "settings": describe_module(own),
        }
    plain = as_plain(model)
    check_name(model.name)
    if not is_known(model.name):
        found = fingerprint(network_at(model.name))
        warn_unseen({f"network {model.name}": found}, "use another folder of runs after a change")
        plain["code"] = found.digest
    if model.checkpoint is not None:
        plain["checkpoint"] = digest_of(model.checkpoint)
    if not model.checkpoint_without:
        del plain["checkpoint_without"]  # runs from before it keep their names
    return plain


def describe_module(module: nn.Module) -> str:
    """The fingerprint of a live network but for the tensors of its state_dict."""
    found = fingerprint(module, hashed_elsewhere=module.state_dict(keep_vars=True).values())
    warn_unseen({"the network": found}, "use another folder of runs after a change")
    return found.digest


_OFF = {"train_examples": None, "label_noise": 0.0, "resize": None}


def describe_data(data: Splits | DataSpec, splits: Splits) -> dict[str, Any]:
    """What the data is: name, fingerprint of its content, classes, normalisation, augmentation, a named set's cue."""
    spec = as_plain(data) if isinstance(data, DataSpec) else {}
    # names of runs from before there were these options stay
    unused = [name for name, off in _OFF.items() if spec.get(name) == off]
    if "label_noise" in unused:
        unused.append("label_noise_kind")
    for name in ("root", "in_memory_limit", "workers", *unused):
        spec.pop(name, None)
    augment = as_plain(splits.augment)
    if splits.augment.aspect == ASPECT:
        augment.pop("aspect")
    norm = splits.normalisation
    return {
        **spec,
        "name": splits.name,
        "fingerprint": splits.fingerprint,
        "classes": splits.classes,
        "augment": augment,
        "normalisation": None if norm is None else {"mean": list(norm.mean), "std": list(norm.std)},
    }
