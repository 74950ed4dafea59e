"""The Hessian of a loss at some weights, by its products with vectors alone.

H·v is the derivative of the gradient along v (Pearlmutter 1994), forward over reverse by torch.func. The largest
eigenvalue is found by Lanczos' method (ARPACK's, through SciPy), the trace by Hutchinson's estimate: the mean of
v'Hv over vectors of random signs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

Product = Callable[[Tensor], Tensor]
"""v -> H·v, both 1-D."""

_DENSE = 16
"""Matrices of so few rows are written out."""
_TOLERANCE = 1e-4
"""Relative, of the eigenvalue."""


def hessian_product(loss: Callable[[Tensor], Tensor], point: Tensor) -> Product:
    """v -> H·v of a scalar function of a vector, at a point (n,)."""
    gradient = torch.func.grad(loss)

    def product(vector: Tensor) -> Tensor:
        vector = vector.to(point)
        try:
            with warnings.catch_warnings():  # torch's own first use of forward derivatives
                warnings.filterwarnings("ignore", r".*torch\.jit\.script.* is deprecated", FutureWarning)
                warnings.filterwarnings("ignore", r".*torch\.jit\.script.* is deprecated", DeprecationWarning)
                pushed: Any = torch.func.jvp(gradient, (point,), (vector,))
            moved: Tensor = pushed[1]
        except (RuntimeError, NotImplementedError):  # an operation without a forward derivative
            pulled: Any = torch.func.vjp(gradient, point)
            (moved,) = pulled[1](vector)
        return moved.detach()

    return product


def largest_eigenvalue(product: Product, size: int, draws: Generator) -> float | None:
    """Of a symmetric matrix, the algebraically largest.

    None of no rows, of numbers that are not finite, or where Lanczos' method does not converge.

    Args:
        draws: of the vector that it begins with.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    if size == 0:
        return None
    if size <= _DENSE:
        rows = torch.stack([product(row) for row in torch.eye(size, dtype=torch.float64, device="cpu")]).double()
        return float(torch.linalg.eigvalsh((rows + rows.T) / 2)[-1]) if bool(rows.isfinite().all()) else None

    def times(vector: Any) -> Any:
        return product(torch.from_numpy(np.ascontiguousarray(vector).ravel())).double().numpy()

    begin = torch.randn(size, generator=draws, dtype=torch.float64, device="cpu").numpy()
    first = times(begin)
    if not first.any() or not np.isfinite(first).all():  # ARPACK fails on either
        return None if first.any() else 0.0
    matrix = LinearOperator((size, size), matvec=times, dtype=np.float64)
    try:
        (found,) = eigsh(matrix, k=1, which="LA", v0=begin, tol=_TOLERANCE, maxiter=100, return_eigenvectors=False)
    except ArpackNoConvergence:
        return None
    return float(found)


def trace(product: Product, size: int, draws: Generator, probes: int) -> float:
    """Hutchinson's estimate over `probes` vectors of random signs (Hutchinson 1990), exact for a diagonal matrix."""
    total = 0.0
    for _ in range(probes):
        signs = torch.randint(2, (size,), generator=draws, device="cpu").double() * 2 - 1
        total += float(signs @ product(signs).double())
    return total / probes
