"""Every random draw of a run comes from a seed derived here, by name, from the run's one seed."""

from __future__ import annotations

import hashlib
import operator
from typing import TYPE_CHECKING, SupportsIndex

from tombola.errors import TombolaError

if TYPE_CHECKING:
    import torch


def derive(seed: int, *labels: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. `derive(run_seed, "order", epoch)`.

    Distinct labels give unrelated seeds; the same labels give the same seed on every machine and version.
    The labels are joined with their types, so that `derive(0, 1)` and `derive(0, "1")` differ.
    """
    text = "\x1f".join([str(int(seed)), *(f"{type(label).__name__}:{label}" for label in labels)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def checked_seed(seed: SupportsIndex) -> int:
    """The seed as an int; TombolaError unless it is a whole number that every file and report can hold."""
    whole = operator.index(seed) if hasattr(seed, "__index__") else -1
    if not 0 <= whole < 2**63:
        raise TombolaError(f"seed is {seed!r}, but it must be a whole number from 0 to 2^63-1")
    return whole


def generator(seed: int, *labels: str | int) -> torch.Generator:
    """A CPU generator seeded with `derive(seed, *labels)`."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *labels))
