"""Fingerprints of callables, modules and values: the same in every process, different where they behave differently.

Nothing of a memory address, a hash seed, the order of a set or dictionary, or the location of the code goes in. The
user's own functions and classes count by their source (by bytecode where there is none), by the values of their
defaults, closures and of the globals that they read, and by the functions that these call in turn; code of installed
packages counts by name and version, compiled modules by their file.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from tombola.fingerprint import code, modules, objects
from tombola.fingerprint.walk import Fingerprint, Walk

__all__ = ["Fingerprint", "fingerprint", "warn_unseen"]

# the first reader whose types fit; `objects` ends with one for whatever is left
_READERS = (*code.READERS, *modules.READERS, *objects.READERS)


def fingerprint(value: Any, *, hashed_elsewhere: Iterable[Tensor] = ()) -> Fingerprint:
    """The fingerprint of a callable, module, tensor or any other value.

    `hashed_elsewhere`: tensors that are hashed elsewhere; of these only dtype, shape and whether they take gradients
    count.
    """
    walk = Walk(_READERS, frozenset(map(id, hashed_elsewhere)))
    walk.value(value)
    return walk.fingerprint()


def warn_unseen(fingerprints: Mapping[str, Fingerprint], remedy: str) -> None:
    """Warn, in one line for each, of what cannot be inspected."""
    for what, part in fingerprints.items():
        if part.unseen:
            more = f" and {len(part.unseen) - 3} more" if len(part.unseen) > 3 else ""
            warnings.warn(
                f"{what} holds {', '.join(part.unseen[:3])}{more}, whose state cannot be read: a finished run that "
                f"differs only there would be taken for this one; {remedy}",
                stacklevel=3,
            )
