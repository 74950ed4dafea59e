"""Compiled loops over tensors in CPU memory, by address. Importing this imports numba.

They take addresses, not arrays: viewing a tensor as an array costs more than the loop over a small layer. The GIL is
released while they run.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_void_p
from typing import Any

import numba
import numpy as np
from numba import types
from numba.np.numpy_support import carray

_ADDRESS, _COUNT = types.voidptr, types.intp


def compiled(addresses: int) -> Callable[[Callable[..., None]], Any]:
    """The function as a C function of `addresses` addresses and a count."""
    signature = types.void(*[_ADDRESS] * addresses, _COUNT)

    def compiled(function: Callable[..., None]) -> Any:
        try:
            whole = numba.cfunc(signature, cache=True)(function)
        except RuntimeError:  # no folder for the cache can be written
            whole = numba.cfunc(signature)(function)
        call: Any = whole.ctypes
        call.code = whole  # which must not be freed before it
        return call

    return compiled


@compiled(2)
def clear(words: c_void_p, keep: c_void_p, n: int) -> None:
    """Each of `n` 4-byte words becomes 0 where the bool `keep` is false."""
    x, k = carray(words, n, np.uint32), carray(keep, n, np.uint8)
    for i in range(n):
        x[i] = x[i] & np.uint32(-np.int32(k[i]))


@compiled(3)
def put(words: c_void_p, keep: c_void_p, values: c_void_p, n: int) -> None:
    """As `clear`, with the word of `values`, which are 0 where `keep` is true, instead of 0."""
    x, k, v = carray(words, n, np.uint32), carray(keep, n, np.uint8), carray(values, n, np.uint32)
    for i in range(n):
        x[i] = (x[i] & np.uint32(-np.int32(k[i]))) | v[i]


@compiled(3)
def keep(values: c_void_p, mask: c_void_p, out: c_void_p, n: int) -> None:
    """out = values where the mask is true, else 0; float32."""
    x, m, y = carray(values, n, np.float32), carray(mask, n, np.bool_), carray(out, n, np.float32)
    zero = np.float32(0)
    for i in range(n):
        y[i] = x[i] if m[i] else zero


@compiled(4)
def signed_product(gradient: c_void_p, values: c_void_p, scores: c_void_p, out: c_void_p, n: int) -> None:
    """out = gradient * values * sign(scores), with sign(0) = 0; float32."""
    g, x = carray(gradient, n, np.float32), carray(values, n, np.float32)
    s, y = carray(scores, n, np.float32), carray(out, n, np.float32)
    zero = np.float32(0)
    for i in range(n):
        product = g[i] * x[i]
        score = s[i]
        y[i] = product if score > zero else (-product if score < zero else zero)
