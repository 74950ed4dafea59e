"""Tombola draws winning tickets from neural networks: find sparse subnetworks, prove that they win, use them.

Importing this package costs next to nothing: every name below is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tombola.errors import TicketError, TombolaError
    from tombola.mask import Mask, prunable
    from tombola.methods.find import find
    from tombola.methods.imp import IterativePruning
    from tombola.study.verify import verify
    from tombola.ticket.ticket import Ticket
    from tombola.train.hold import hold
    from tombola.train.options import Options
    from tombola.train.recipe import Recipe

__version__ = "0.1.0"

__all__ = [
    "IterativePruning",
    "Mask",
    "Options",
    "Recipe",
    "Ticket",
    "TicketError",
    "TombolaError",
    "find",
    "hold",
    "prunable",
    "verify",
]

_HOME = {
    "IterativePruning": "tombola.methods.imp",
    "Mask": "tombola.mask",
    "Options": "tombola.train.options",
    "Recipe": "tombola.train.recipe",
    "Ticket": "tombola.ticket.ticket",
    "TicketError": "tombola.errors",
    "TombolaError": "tombola.errors",
    "find": "tombola.methods.find",
    "hold": "tombola.train.hold",
    "prunable": "tombola.mask",
    "verify": "tombola.study.verify",
}
_PACKAGES = frozenset(
    {
        "data",
        "methods",
        "models",
        "nn",
        "prune",
        "report",
        "rng",
        "runs",
        "select",
        "study",
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


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
