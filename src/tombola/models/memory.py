"""A check that a network fits into this machine's memory, before any of it is allocated."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from tombola.errors import TombolaError

if TYPE_CHECKING:
    from torch import nn

_WIDTH = "ask for a smaller one (width, hidden)"


def check_memory(name: str, build: Callable[[], nn.Module]) -> None:
    """TombolaError if the parameters of what `build` gives exceed this machine's memory; nothing is allocated."""
    from tombola.machine.defaults import plainly

    try:
        with plainly("meta"):
            network = build()
    except TombolaError:
        raise
    except (RuntimeError, TypeError, OverflowError) as error:  # sizes that are no 64-bit numbers
        raise TombolaError(f"{name} is too large for any memory; {_WIDTH}") from error
    needed = sum(p.numel() * p.element_size() for p in network.parameters())
    available = physical_memory()
    if available is not None and needed > available:
        raise TombolaError(
            f"{name} has {needed / 2**30:,.1f} GiB of parameters, and this machine "
            f"{available / 2**30:,.1f} GiB of memory; {_WIDTH}"
        )


def physical_memory() -> int | None:
    """Bytes of memory of this machine; None where the system does not report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
