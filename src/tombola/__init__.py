"""Tombola draws winning tickets from neural networks: find sparse subnetworks, prove that they win, use them.

Importing this package costs next to nothing: every name below is loaded when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tombola.errors import TicketError, TombolaError
    from tombola.hold import hold
    from tombola.mask import Mask, prunable
    from tombola.methods.base import Method
    from tombola.methods.edge_popup import EdgePopup
    from tombola.methods.imp import IterativePruning
    from tombola.methods.joint import Joint
    from tombola.methods.learned_mask import LearnedMask
    from tombola.runtime.deploy import deploy
    from tombola.search.find import find
    from tombola.select.select import select
    from tombola.study.verify import verify
    from tombola.supermask.attach import attach
    from tombola.supermask.detach import detach, make_permanent
    from tombola.supermask.masks import read, refresh
    from tombola.supermask.rules import TopK
    from tombola.ticket.ticket import Ticket
    from tombola.train.gradient import gradient
    from tombola.train.options import Options
    from tombola.train.recipe import Recipe

__version__ = "0.1.0"

__all__ = [
    "EdgePopup",
    "IterativePruning",
    "Joint",
    "LearnedMask",
    "Mask",
    "Method",
    "Options",
    "Recipe",
    "Ticket",
    "TicketError",
    "TombolaError",
    "TopK",
    "attach",
    "deploy",
    "detach",
    "find",
    "gradient",
    "hold",
    "make_permanent",
    "prunable",
    "read",
    "refresh",
    "select",
    "verify",
]

_HOME = {
    "EdgePopup": "tombola.methods.edge_popup",
    "Joint": "tombola.methods.joint",
    "LearnedMask": "tombola.methods.learned_mask",
    "TopK": "tombola.supermask.rules",
    "attach": "tombola.supermask.attach",
    "detach": "tombola.supermask.detach",
    "make_permanent": "tombola.supermask.detach",
    "read": "tombola.supermask.masks",
    "refresh": "tombola.supermask.masks",
    "select": "tombola.select.select",
    "IterativePruning": "tombola.methods.imp",
    "Mask": "tombola.mask",
    "Method": "tombola.methods.base",
    "Options": "tombola.train.options",
    "Recipe": "tombola.train.recipe",
    "Ticket": "tombola.ticket.ticket",
    "TicketError": "tombola.errors",
    "TombolaError": "tombola.errors",
    "deploy": "tombola.runtime.deploy",
    "find": "tombola.search.find",
    "gradient": "tombola.train.gradient",
    "hold": "tombola.hold",
    "prunable": "tombola.mask",
    "verify": "tombola.study.verify",
}
_PACKAGES = frozenset(
    {
        "compact",
        "data",
        "levels",
        "methods",
        "models",
        "nn",
        "report",
        "results",
        "rng",
        "runs",
        "runtime",
        "search",
        "study",
        "supermask",
        "ticket",
        "train",
    }
)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if name in _PACKAGES:
        return import_module(f"tombola.{name}")
    raise AttributeError(f"module 'tombola' has no attribute {name!r}")


class _Package(ModuleType):
    """This module: a public name stays what `__all__` says, also where a subpackage is called the same.

    `tombola.select` is the function; importing from the package of that name would put the package in its place.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _HOME or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
