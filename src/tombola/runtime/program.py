"""Compiled steps and what runs them: one call runs all steps on all threads, with a barrier after each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Step:
    """A compiled C function `void f(int64_t *args, int64_t thread, int64_t threads)` and its arguments.

    The function does the share of thread `thread` (0 .. threads - 1); what it writes must not depend on `threads`.
    """

    function: int
    """The function's address."""
    args: NDArray[np.int64]
    """Addresses and sizes, as the function wants them; the address of an input may be changed between runs."""
    keep: tuple[Any, ...] = ()
    """What must live as long as the step: arrays that `args` points into, the compiled code."""
