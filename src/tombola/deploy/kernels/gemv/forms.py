"""Sparse linear layers on one input vector: bound by memory, so the weights are few bytes that are read once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola.deploy.jit.native import Code
from tombola.deploy.jit.program import Step
from tombola.deploy.kernels.gemv.emitted import Ending, gaps_step, planes_step
from tombola.deploy.kernels.gemv.gaps import PER_WORD, Coding, code, coded_bytes, columns
from tombola.deploy.kernels.gemv.planes import COLUMNS, Planes, planes, planes_bytes
from tombola.deploy.nonzeros import Nonzeros
from tombola.deploy.ops import Activation
from tombola.errors import TombolaError
from tombola.machine.memory import address, array_address

Form = Coding | Planes
"""How a weight is stored."""
BOUND = 1.5
"""What the weights of signed constants may take, as a multiple of mask entropy plus one sign bit per kept weight."""

_SHARED = (2, 4, 8)  # rows that may share a list
_WASTE = 1.25  # how many times more weights may be read when rows share a list
_SLOW = 1.6  # forms estimated this many times slower than the fastest are not tried


@dataclass(frozen=True)
class _Cost:
    """Estimated cost of a form: bytes, and nanoseconds of one thread (of Zen 3; only ratios count)."""

    nbytes: float
    nanoseconds: float


@dataclass(frozen=True, eq=False)
class Gemv:
    """y = activation(W x + bias + residual), compiled but for the addresses of x, y and the residual.

    The function `step` of `code` has the arguments (source, target, residual or 0, *args): addresses of contiguous
    float32 vectors, then `args`, arrays as the addresses of their data. The target may be the residual, but not the
    source. The result is the same bit for bit at any number of threads. An input that is not finite may make NaN of any
    output, as in a dense product.
    """

    code: Code
    args: tuple[int | NDArray[Any], ...]
    shape: tuple[int, int]
    """(out, in)"""
    nbytes: int
    """Of all that the weights are stored as: codes, weights, order of the rows, scales, bias."""

    def step(self, source: Tensor, target: Tensor, residual: Tensor | None = None) -> Step:
        """For float32 vectors (in,), (out,) and (out,); they are words 0, 1 and 2 of the step's arguments.

        Raises:
            TombolaError: a tensor of another size, dtype or device.
        """
        out, columns = self.shape
        sides = [address(source, torch.float32, columns), address(target, torch.float32, out)]
        sides.append(0 if residual is None else address(residual, torch.float32, out))
        rest = (array_address(arg) if isinstance(arg, np.ndarray) else arg for arg in self.args)
        args = np.array([*sides, *rest], np.int64)
        return Step(self.code.address("step"), args, (self.code, self.args, source, target, residual))


def forms(nonzeros: Nonzeros) -> tuple[Form, ...]:
    """The forms worth trying for those of a weight (out, in), the most promising first.

    A coding of gaps lists kept columns of some rows at a time with the weights, or with signs alone where the kept
    weights of each row are ± one number; planes are for such weights too. Forms of signed constants stay within `BOUND`
    where one can.
    """
    matrix = _matrix(nonzeros)
    signs, mask, kept = nonzeros.constants is not None, nonzeros.mask, nonzeros.count
    tried: dict[Form, _Cost] = {}
    for rows in (1, *_SHARED):
        if rows == 1 or (rows <= len(mask) and 0 < nonzeros.read(rows) <= (1.0 if signs else _WASTE) * kept):
            coding, guess = _smallest(matrix, rows, signs)
            tried[coding] = guess
    size = planes_bytes(*mask.shape)
    smallest = min(guess.nbytes for guess in tried.values())
    if signs and mask.shape[1] >= COLUMNS and size <= max(smallest, BOUND * signed_bound(mask.size, kept)):
        tried[Planes()] = _Cost(size, 0.08 * mask.size)
    limit = _SLOW * min(guess.nanoseconds for guess in tried.values())
    by_time = sorted(tried, key=lambda form: tried[form].nanoseconds)
    return tuple(form for form in by_time if tried[form].nanoseconds <= limit)


def build(
    nonzeros: Nonzeros,
    bias: Tensor | None,
    form: Form,
    *,
    activation: Activation | None = None,
    residual: bool = False,
) -> Gemv:
    """Code a weight and compile its product.

    Args:
        nonzeros: of a weight (out, in).
        bias: (out,) or None.
        form: one of `forms`, also of those for another weight.
        residual: whether a vector is added.

    Raises:
        TombolaError: a weight without elements or of another number of dimensions; a form that does not
            fit the weight.
    """
    matrix = _matrix(nonzeros)
    signs = isinstance(form, Planes) or form.signs
    scale = nonzeros.constants if signs else None
    if signs and scale is None:
        raise TombolaError(f"{form} is for signed constants, and the rows have other weights; choose weights")
    listed: tuple[int | NDArray[Any], ...]
    if isinstance(form, Planes):
        if matrix.shape[1] < COLUMNS:
            raise TombolaError(f"{form} is for {COLUMNS} inputs or more, not {matrix.shape[1]}; choose gaps")
        listed = (planes(matrix), *matrix.shape)
    else:
        if form.signs and nonzeros.read(form.rows) != nonzeros.count:
            raise TombolaError(f"{form} is for rows that share their columns; choose rows1")
        gaps = code(matrix, form)
        listed = (gaps.words, gaps.starts, len(gaps.starts) - 1, gaps.order)
    ending = Ending(scale is not None, bias is not None, residual, activation)
    compiled = planes_step(ending) if isinstance(form, Planes) else gaps_step(form, ending)
    shift = 0 if bias is None else _bias(bias, len(matrix))
    args = (0 if scale is None else scale, 4 if scale is not None and len(scale) > 1 else 0, shift, *listed)
    nbytes = sum(arg.nbytes for arg in args if isinstance(arg, np.ndarray))
    return Gemv(compiled, args, (matrix.shape[0], matrix.shape[1]), nbytes)


def signed_bound(weights: int, kept: int) -> float:
    """Bytes of mask entropy, weights · H(kept / weights), and one sign bit per kept weight."""
    share = kept / weights
    entropy = -sum(p * math.log2(p) for p in (share, 1 - share) if p > 0)
    return (weights * entropy + kept) / 8


def _matrix(nonzeros: Nonzeros) -> NDArray[np.float32]:
    weight = nonzeros.weight
    if weight.dim() != 2 or 0 in weight.shape or weight.shape[1] >= 2**31:
        raise TombolaError(f"the weight is {tuple(weight.shape)}; give (out, in), each at least 1, in below 2^31")
    return nonzeros.matrix


def _bias(bias: Tensor, out: int) -> NDArray[np.float32]:
    if tuple(bias.shape) != (out,):
        raise TombolaError(f"the bias is {tuple(bias.shape)}; give ({out},), one for each row of the weight")
    vector: NDArray[np.float32] = bias.detach().to("cpu", torch.float32).contiguous().numpy().copy()
    return vector


def _smallest(matrix: NDArray[np.float32], rows: int, signs: bool) -> tuple[Coding, _Cost]:
    """The coding of the fewest bytes, by a sample of the rows."""
    part = _sample(matrix)
    kept, factor = columns(part, rows), len(matrix) / len(part)
    tried = [Coding(per, rows, signs) for per in PER_WORD[signs] if not signs or rows < 32 // per]
    sizes = [(factor * coded_bytes(kept, coding), coding) for coding in tried]
    size, coding = min(sizes, key=lambda pair: pair[0])
    entries = size / coding.word_bytes * coding.per_word
    return coding, _Cost(size, max(size / 14, entries * (3 + 0.6 * rows if signs else 2.4 + 0.3 * rows)))


def _sample(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows spread over the matrix: four runs of 64."""
    if len(matrix) <= 256:
        return matrix
    starts = [(len(matrix) - 64) * i // 24 * 8 for i in range(4)]  # runs of whole units
    return np.concatenate([matrix[start : start + 64] for start in starts])
