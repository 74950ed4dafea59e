"""torch.autocast and weights that are written: it keeps the narrow copies that it has made of parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


def forget_casts() -> None:
    """After weights are written in place: within torch.autocast the next forward pass casts them anew.

    Else it goes on with the narrow copies of what they were, until autocast is left.
    """
    torch.clear_autocast_cache()


@contextmanager
def without_autocast() -> Iterator[None]:
    """Everything in its own dtype, whatever autocast the caller is in: also sums that need their digits."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda", "xpu", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
