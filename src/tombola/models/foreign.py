"""Networks of the user's own, by import path; this module itself imports no torch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tombola.errors import TombolaError, in_short
from tombola.fields import described
from tombola.names import imported

if TYPE_CHECKING:
    from torch import nn


def filled_args(
    path: str,
    *,
    input_shape: tuple[int, ...],
    classes: int | None,
    args: Mapping[str, Any],
    certain: bool = True,
) -> dict[str, Any]:
    """The arguments of the call: `args`, and those of num_classes, classes, input_shape that the callable names.

    Where `classes` is None the callable's own default holds; also where it is not `certain` and there is a default.

    Raises:
        TombolaError: if `path` cannot be imported or is not callable.
    """
    return {**_wanted(network_at(path), input_shape, classes, args, certain), **args}


def build_foreign(path: str, *, input_shape: tuple[int, ...], classes: int, args: Mapping[str, Any]) -> nn.Module:
    """Import `path` and call it with `args`, with num_classes, classes and input_shape if it names them.

    Raises:
        TombolaError: if it cannot be imported or called like this, or gives no nn.Module.
    """
    from torch import nn

    given = filled_args(path, input_shape=input_shape, classes=classes, args=args)
    target = network_at(path)
    try:
        model = target(**given)
    except TombolaError:
        raise
    except Exception as error:
        named = ", ".join(given) or "no arguments"
        raise TombolaError(f"{path} called with {named}: {in_short(error)}{_signature_hint(target)}") from error
    if not isinstance(model, nn.Module):
        raise TombolaError(f"{path} gave a {type(model).__name__}; it must give a torch nn.Module")
    return model


def network_at(path: str) -> Any:
    """The class or function at an import path that makes a network.

    Raises:
        TombolaError: if `path` cannot be imported or is not callable.
    """
    target = imported("model", path)
    if not callable(target) or (hasattr(target, "state_dict") and not isinstance(target, type)):
        raise TombolaError(f"{path} is {described(target)}; a class or function that makes an nn.Module is needed")
    return target


def _wanted(
    target: Any, input_shape: tuple[int, ...], classes: int | None, args: Mapping[str, Any], certain: bool
) -> dict[str, Any]:
    """The facts about the data that the callable's signature asks for by name."""
    parameters = _parameters(target)
    facts = {"num_classes": classes, "classes": classes, "input_shape": input_shape}
    asked = {name for name, p in parameters.items() if certain or name == "input_shape" or p.default is p.empty}
    wanted = {name: fact for name, fact in facts.items() if name in asked and fact is not None}
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    builder = str(getattr(target, "__module__", "")).startswith(("torchvision.", "timm."))
    if takes_any and builder and classes is not None and not args.get("weights"):
        wanted["num_classes"] = classes  # both zoos' builders pass it on through **kwargs; their default is 1000
    return wanted


def _parameters(target: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):
        return {}


def _signature_hint(target: Any) -> str:
    known = list(_parameters(target))
    return f"; it takes: {', '.join(known)}" if known else ""
