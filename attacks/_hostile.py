"""What the attacks share: a real ticket to be made hostile, and what a victim does with it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import _fuzz
import tombola
from tombola.data.config import DataSpec
from tombola.data.registry import load_data
from tombola.data.splits import Splits
from tombola.models.spec import ModelSpec
from tombola.results.verification import VerificationResult
from tombola.ticket.ticket import Ticket

RECIPE = {"length": "1it", "batch_size": 8, "eval_every": "1it", "train_eval": 8}


@functools.cache
def real() -> Ticket:
    """A small ticket of a search on digits."""
    return tombola.find(ModelSpec("mlp", {"hidden": [16]}), digits(), {"density": 0.5, "rounds": 1}, recipe=RECIPE)


@functools.cache
def digits() -> Splits:
    """The data, read once."""
    return load_data(DataSpec("digits"))


def ticket(**provenance: Any) -> Ticket:
    """The real ticket with parts of its provenance replaced, mappings merged; whoever writes the file can do so."""
    found = dict(real().provenance)
    for part, value in provenance.items():
        whole = isinstance(value, Mapping) and isinstance(found.get(part), Mapping)
        found[part] = {**found[part], **value} if whole else value
    return replace(real(), provenance=found)


def verified(given: Ticket, out: Path | None, trusted: tuple[str, ...] = ()) -> VerificationResult:
    """What a victim does who was sent the ticket."""
    return tombola.verify(given, digits(), replicates=1, out=out, trusted=trusted)


def refused(act: Callable[..., Any], *args: Any, **more: Any) -> str:
    """The one line by which Tombola refuses; AssertionError if it does not, or in another way."""
    try:
        act(*args, **more)
    except tombola.TombolaError as error:
        return _fuzz.printable_line(error, below=1500)
    except Exception as error:
        raise AssertionError(f"refused by {type(error).__name__} instead of a TombolaError: {error}") from error
    raise AssertionError("it was not refused")
