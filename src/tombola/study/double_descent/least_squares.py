"""Least squares on growing sets of random features: the solution of the smallest norm, for every number of features.

With features Z (n, N) and targets Y (n, K) it is A = Z^+ Y. One factorisation serves many N, as the features of a
smaller N are the first columns of a larger one:

- N <= n: Z = QR by Householder reflections of the widest Z; the first N columns have the leading block of R as their
  factor, so that each N costs one triangular solve, without the squared condition number of a Gram matrix.
- N > n: A = Z^T (Z Z^T)^-1 Y by Cholesky's factor of the Gram matrix (n, n), to which further features are added.
  Where that is too close to singular (N near n), by the QR factor of Z^T instead.
- Where the features have no full rank (an example that occurs twice): by the eigenvectors of the smaller Gram matrix,
  without eigenvalues below DROPPED of the largest.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

DROPPED = 1e-10
"""Eigenvalues below this part of the largest count as 0, where the rank is not full."""
SINGULAR = 1e-12
"""A reciprocal condition number below which a factor is not trusted."""
CHUNK = 2048
"""Features that are made at once."""


class Features(Protocol):
    """Features of examples, by their numbers."""

    def __call__(self, x: Tensor, first: int, end: int) -> Tensor:
        """Features `first` to `end` of examples (n, d): float64 (n, end - first)."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """Outputs (n, K) of a solution for every set of examples, and the Euclidean norm of its coefficients."""

    outputs: tuple[Tensor, ...]
    norm: float


def chunks(first: int, end: int) -> Iterator[tuple[int, int]]:
    """A range in parts of at most CHUNK; where it is cut does not depend on where it begins."""
    while first < end:
        stop = min(end, (first // CHUNK + 1) * CHUNK)
        yield first, stop
        first = stop


def minimum_norm(
    features: Features,
    x: Tensor,
    y: Tensor,
    counts: Sequence[int],
    others: Sequence[Tensor] = (),
    done: Collection[int] = (),
) -> Iterator[tuple[int, Fitted]]:
    """The solution for each number of features, `counts` rising; outputs for `x` (n, d) and every set in `others`.

    Those in `done` are left out, and the bits of the others do not depend on it. Memory: about five matrices of n
    numbers squared, float64.
    """
    few, many = [count for count in counts if count <= len(x)], [count for count in counts if count > len(x)]
    sets = (x, *others)
    if set(few) - set(done):
        yield from _narrow(features, y, few, sets, done)
    if set(many) - set(done):
        yield from _wide(features, y, many, sets, done)


def _narrow(
    features: Features, y: Tensor, counts: Sequence[int], sets: Sequence[Tensor], done: Collection[int]
) -> Iterator[tuple[int, Fitted]]:
    """No more features than examples. Those that are 0 for every example get the coefficient 0."""
    z = stacked(features, sets[0], counts[-1])
    alive = z.abs().amax(0) > 0
    factor, reflections = torch.geqrf(z if bool(alive.all()) else z[:, alive])
    del z
    turned = torch.ormqr(factor, reflections, y, transpose=True)
    for count in counts:
        if count in done:
            continue
        rank = int(alive[:count].sum())
        upper, solution = factor[:rank, :rank].triu(), y.new_zeros(count, y.shape[1])
        if reciprocal_condition(upper) > SINGULAR:
            solution[alive[:count]] = torch.linalg.solve_triangular(upper, turned[:rank], upper=True)
        else:
            solution = _truncated(stacked(features, sets[0], count), y)
        yield count, _fitted(features, solution, count, sets)


def _wide(
    features: Features, y: Tensor, counts: Sequence[int], sets: Sequence[Tensor], done: Collection[int]
) -> Iterator[tuple[int, Fitted]]:
    """More features than examples."""
    x, added = sets[0], 0
    gram = torch.zeros(len(x), len(x), dtype=torch.float64, device="cpu")
    last = max(count for count in counts if count not in done)
    for count in counts[: counts.index(last) + 1]:
        for first, end in chunks(added, count):
            _add_products(gram, features(x, first, end))
        added = count
        if count not in done:
            yield count, _fitted(features, _dual(features, gram, x, y, count), count, sets)


def _add_products(gram: Tensor, z: Tensor) -> None:
    """Add z z^T to the lower triangle of a Gram matrix, in bands, which saves nearly half of the products."""
    for first, end in chunks(0, len(z)):
        gram[first:end, :end].addmm_(z[first:end], z[:end].T)


def _dual(features: Features, gram: Tensor, x: Tensor, y: Tensor, count: int) -> Tensor:
    """(Z Z^T)^+ y: float64 (n, K)."""
    lower, failed = torch.linalg.cholesky_ex(gram)  # reads the lower triangle alone
    if not failed and reciprocal_condition(lower.T) ** 2 > SINGULAR:
        return torch.cholesky_solve(y, lower)
    del lower
    if count <= 2 * len(x):
        upper = torch.geqrf(stacked(features, x, count).T.contiguous())[0][: len(x)].triu()
        if reciprocal_condition(upper) > SINGULAR:
            half = torch.linalg.solve_triangular(upper.T, y, upper=False)
            solved: Tensor = torch.linalg.solve_triangular(upper, half, upper=True)
            return solved
    return _inverted(gram.tril() + gram.tril(-1).T) @ y


def _truncated(z: Tensor, y: Tensor) -> Tensor:
    """Z^+ y of features (n, N), N <= n, without full rank."""
    return _inverted(z.T @ z) @ (z.T @ y)


def _inverted(gram: Tensor) -> Tensor:
    """The pseudo-inverse of a Gram matrix, small eigenvalues dropped."""
    values, vectors = torch.linalg.eigh(gram)
    kept = values > DROPPED * values[-1]
    inverse: Tensor = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    return inverse


def reciprocal_condition(upper: Tensor) -> float:
    """An estimate of 1 / (|R| |R^-1|) of a triangular matrix, in the 1-norm (LAPACK's trcon)."""
    from scipy.linalg import lapack

    if not len(upper):
        return 1.0
    return float(lapack.dtrcon(upper.numpy())[0])


def stacked(features: Features, x: Tensor, count: int) -> Tensor:
    """The first `count` features of examples (n, d): float64 (n, count)."""
    z = torch.empty(len(x), count, dtype=torch.float64, device="cpu")
    for first, end in chunks(0, count):
        z[:, first:end] = features(x, first, end)
    return z


def _fitted(features: Features, solution: Tensor, count: int, sets: Sequence[Tensor]) -> Fitted:
    """What coefficients (N, K), or dual ones (n, K) where N > n, give for all sets; Z^T makes coefficients of those."""
    outputs = [torch.zeros(len(x), solution.shape[1], dtype=torch.float64, device="cpu") for x in sets]
    dual, squares = count > len(sets[0]), 0.0
    for first, end in chunks(0, count):
        own = features(sets[0], first, end)
        part = own.T @ solution if dual else solution[first:end]
        squares += float(part.square().sum())
        for output, x in zip(outputs, sets, strict=True):
            output.addmm_(own if x is sets[0] else features(x, first, end), part)
    return Fitted(tuple(outputs), math.sqrt(squares))
