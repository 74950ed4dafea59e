"""Networks by name; this module itself imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from tombola.errors import TombolaError
from tombola.models.checkpoint import load_checkpoint_
from tombola.models.foreign import build_foreign
from tombola.models.memory import check_memory
from tombola.models.spec import written_out
from tombola.names import is_import_path, unknown

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MODELS", "Entry", "build_network", "default_init", "has_norms", "is_known", "load_checkpoint_", "names"]


@dataclass(frozen=True)
class Entry:
    """A network, or a family of networks whose names carry numbers.

    Args:
        build: called with input_shape, classes, `fixed`, the pattern's groups (as str) and the options.
        init: default initialisation scheme.
        options: names of the arguments that a user may give.
        fixed: arguments that the name implies, e.g. the depth.
        pattern: for a family, a regular expression for the whole name, its groups named as arguments.
    """

    build: Callable[..., nn.Module]
    init: str
    options: tuple[str, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    pattern: str | None = None


def _late(function: str, module: str) -> Callable[..., nn.Module]:
    """`tombola.models.<module>.<function>`, imported when it is first called."""

    def build(**args: Any) -> nn.Module:
        return cast("nn.Module", getattr(import_module(f"tombola.models.{module}"), function)(**args))

    return build


def _entries() -> dict[str, Entry]:
    glorot, he = "xavier_normal", "kaiming_normal"
    plain, normed = ("bias", "activation", "affine", "norms", "dropout"), ("width", "affine", "activation")
    entries = {
        "mlp": Entry(_late("mlp", "mlp"), glorot, ("hidden", *plain)),
        "lenet-300-100": Entry(_late("lenet_300_100", "lenet"), glorot, ("width", *plain)),
    }
    for depth in (2, 4, 6, 8):
        entries[f"conv-{depth}"] = Entry(_late("conv", "conv"), glorot, ("width", *plain), {"depth": depth})
    for depth in (18, 34):
        entries[f"resnet-{depth}"] = Entry(_late("resnet", "resnet"), he, ("stem", *normed), {"depth": depth})
    for depth in (50, 101):
        build = _late("bottleneck_resnet", "resnet")
        entries[f"resnet-{depth}"] = Entry(build, he, ("stem", *normed), {"depth": depth})
    for depth in (20, 32, 44, 56):
        entries[f"resnet-{depth}"] = Entry(_late("cifar_resnet", "resnet"), he, normed, {"depth": depth})
    for depth in (16, 19):
        entries[f"vgg-{depth}"] = Entry(_late("vgg", "vgg"), he, normed, {"depth": depth})
    entries["vgg-small"] = Entry(_late("vgg_small", "vgg"), he, normed)
    pattern = r"wrn-(?P<depth>\d{1,6})-(?P<width>\d{1,6}(\.\d{1,6})?)"
    entries["wrn-28-K"] = Entry(_late("wrn", "wrn"), he, ("affine", "dropout", "activation"), pattern=pattern)
    return entries


MODELS: Mapping[str, Entry] = MappingProxyType(_entries())


def names() -> tuple[str, ...]:
    """The names of Tombola's networks, for help and errors; a family is shown by one example, as wrn-28-K."""
    return tuple(MODELS)


def is_known(name: str) -> bool:
    """Whether this is one of Tombola's networks (and not an import path)."""
    return _find(name) is not None


def default_init(name: str) -> str | None:
    """The initialisation that the field uses for a network of Tombola's; None (keep as built) for others."""
    match = _find(name)
    return None if match is None else match[0].init


def has_norms(name: str) -> bool:
    """Whether a network of Tombola's has norm layers in its ReLU form too."""
    match = _find(name)
    return match is not None and "affine" in match[0].options and "bias" not in match[0].options


def has_dropout(name: str) -> bool:
    """Whether a network of Tombola's takes the argument dropout."""
    match = _find(name)
    return match is not None and "dropout" in match[0].options


def build_network(
    name: str,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    args: Mapping[str, Any] = MappingProxyType({}),
    device: str = "cpu",
) -> nn.Module:
    """A network of Tombola's, or whatever the import path `name` gives when called with `args`.

    Weights are as torch makes them; see `tombola.nn.init.initialise_` for seeded ones. A callable whose
    signature names num_classes (or classes) and input_shape is given them unless `args` does.

    Args:
        name: one of `names()`, torchvision/NAME, timm/NAME, or an import path such as mypackage.mymodule.MyNet.
        input_shape: shape of one example, e.g. (3, 32, 32).
        classes: width of the output.
        args: further arguments.
        device: its device; its dtype is float32. Neither depends on torch's defaults. A foreign network may choose its
            own.

    Raises:
        TombolaError: for an unknown name, bad arguments, a failed import, or a result that is no nn.Module.
    """
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise TombolaError(f"{name}: classes is {classes!r}; a positive integer is needed")
    from tombola.machine.defaults import plainly

    name, args = written_out(name, args)
    match = _find(name)
    if match is None:
        check_name(name)
        with plainly(device):
            return build_foreign(name, input_shape=tuple(input_shape), classes=classes, args=args)
    entry, from_name = match
    for given in args:
        if given not in entry.options:
            raise TombolaError(f"{name}: {unknown('argument', given, entry.options)}")
    build = partial(entry.build, input_shape=tuple(input_shape), classes=classes, **entry.fixed, **from_name, **args)
    check_memory(name, build)
    with plainly(device):
        return build()


def _find(name: str) -> tuple[Entry, dict[str, str]] | None:
    """The entry of a name and the arguments that its pattern reads from it."""
    for known, entry in MODELS.items():
        if entry.pattern is None:
            if name == known:
                return entry, {}
        elif match := re.fullmatch(entry.pattern, name):
            return entry, match.groupdict()
    return None


def check_name(name: str) -> None:
    """TombolaError, with the allowed names and close ones, unless `name` is a network or an import path."""
    if not is_known(name) and not is_import_path(name):
        raise TombolaError(
            unknown(
                "model", name, names(), ", torchvision/NAME, timm/NAME, or an import path such as package.module.Net"
            )
        )
