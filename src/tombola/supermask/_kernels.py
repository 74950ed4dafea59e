"""The two compiled loops of a masked weight on the CPU. Importing this imports numba.

They take addresses, not arrays: to view a tensor as an array costs more than the loop does over a small layer.
All arrays are float32, the mask is bool, each of `n` elements without gaps; the lock is let go of meanwhile.
"""

from __future__ import annotations

from ctypes import c_void_p

import numpy as np
from numba.np.numpy_support import carray

from tombola._loops import compiled


@compiled(3)
def keep(values: c_void_p, mask: c_void_p, out: c_void_p, n: int) -> None:
    """out = values where the mask is true, else 0."""
    x, m, y = carray(values, n, np.float32), carray(mask, n, np.bool_), carray(out, n, np.float32)
    zero = np.float32(0)
    for i in range(n):
        y[i] = x[i] if m[i] else zero


@compiled(4)
def signed_product(gradient: c_void_p, values: c_void_p, scores: c_void_p, out: c_void_p, n: int) -> None:
    """out = gradient * values * sign(scores), with sign(0) = 0."""
    g, x = carray(gradient, n, np.float32), carray(values, n, np.float32)
    s, y = carray(scores, n, np.float32), carray(out, n, np.float32)
    zero = np.float32(0)
    for i in range(n):
        product = g[i] * x[i]
        score = s[i]
        y[i] = product if score > zero else (-product if score < zero else zero)
