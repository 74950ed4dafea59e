"""Least squares on random features, the smallest norm among all that fit (Belkin et al., PNAS 2019, arXiv 1812.11118).

h(x) = sum_k a_k phi(x; v_k): `rff` has random Fourier features phi = sqrt(2) cos(<v, x> + b) with v ~ N(0, sigma^-2 I)
and b ~ U[0, 2 pi), `relu` has phi = max(<v, x>, 0) with v uniform on the unit sphere. The v_k are drawn once and stay;
a minimises sum_i |h(x_i) - y_i|^2 for one-hot targets y, and among several minimisers it is the one of smallest |a|.
With as many features as examples, N = n, every example can be fitted: there the test loss has its peak. The paper
writes features as complex exponentials; real ones put the threshold at N = n exactly.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from tombola.errors import TombolaError
from tombola.results.double_descent import Axis, DescentFit
from tombola.study.double_descent.base import Kind, Points, check_multiples, check_one_of, check_sizes, sizes_of

if TYPE_CHECKING:
    from tombola.study.double_descent.examples import Examples
    from tombola.study.double_descent.features import Draws

MULTIPLES = (
    *(0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    *(1.1, 1.2, 1.3, 1.4, 2.0, 4.0, 6.0),
)
"""Features over examples in the paper's figure of MNIST."""
MOST = 20_000
"""Examples, at most: a matrix of so many squared takes 3 GiB, and five are needed."""
PAPER_SIGMA = {"mnist": 5.0}
"""Widths that the paper gives (appendix C.1)."""


@dataclass(frozen=True)
class _RandomFeatures(Kind):
    """Features drawn once, and the coefficients fitted to them.

    Args:
        multiples: sizes of the models over the threshold (null: those of the kind)
        features: numbers of features (null: the multiples of the number of training examples)
    """

    axis: ClassVar[Axis] = "features"

    few: ClassVar[Mapping[str, int]] = {"mnist": 2000, "fashion-mnist": 2000, "cifar10": 2000}

    multiples: tuple[float, ...] | None = None
    features: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.multiples is not None:
            object.__setattr__(self, "multiples", tuple(self.multiples))
            check_multiples(self.multiples)
        if self.features is not None:
            object.__setattr__(self, "features", tuple(sorted(self.features)))
            check_sizes("features", self.features)
        check_one_of(self.multiples, features=self.features)

    def filled(self, examples: Examples) -> Self:
        if examples.n > MOST:
            raise TombolaError(
                f"there are {examples.n:,} training examples, and {self.name} needs five matrices of that number "
                f"squared; set train_examples to at most {MOST:,} (the paper has 10,000)"
            )
        features = self.features or sizes_of(self.multiples or MULTIPLES, examples.n)
        return replace(self, multiples=None, features=features)

    def threshold(self, examples: Examples, points: Sequence[DescentFit]) -> float | None:
        return float(examples.n)

    def count(self) -> int:
        return len(self.features or ())

    def fits(self, examples: Examples, seed: int, points: Points) -> Iterator[DescentFit]:
        from tombola.study.double_descent.least_squares import minimum_norm

        counts = list(self.features or ())
        done = {count: fit for at, count in enumerate(counts) if (fit := points.finished(at)) is not None}
        train, test = examples.train, examples.test
        drawn = self.drawn(examples.inputs, seed)
        fitted = minimum_norm(drawn, train.x, train.y, counts, [test.x], done)
        for at, count in enumerate(counts):
            if count in done:
                yield done[count]
                continue
            _, found = next(fitted)
            on_train, on_test = found.outputs
            yield points.keep(at, examples.measured(on_train, on_test, found.norm, features=count))

    @abstractmethod
    def drawn(self, inputs: int, seed: int) -> Draws:
        """The features of inputs with so many numbers."""


@dataclass(frozen=True)
class FourierFeatures(_RandomFeatures):
    """Random Fourier features: sqrt(2) cos(<v, x> + b).

    Args:
        sigma: width of the Gaussian kernel that they approximate, in units of the inputs; pixels lie in [0, 1] (null: 5
            on MNIST, as in the paper; elsewhere half the median distance of training examples, 5.1 on MNIST)
    """

    name: ClassVar[str] = "rff"

    sigma: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma is not None and not 0 < self.sigma < math.inf:
            raise TombolaError(f"sigma is {self.sigma}; it must be above 0, and finite")

    def filled(self, examples: Examples) -> Self:
        from tombola.study.double_descent.features import half_median_distance

        filled = super().filled(examples)
        sigma = self.sigma or PAPER_SIGMA.get(examples.name) or half_median_distance(examples.train.x)
        return replace(filled, sigma=sigma)

    def drawn(self, inputs: int, seed: int) -> Draws:
        from tombola.study.double_descent.features import Draws, fourier

        return Draws(inputs, seed, lambda x, v, b: fourier(x, v / (self.sigma or 1.0), b))


@dataclass(frozen=True)
class ReluFeatures(_RandomFeatures):
    """Random ReLU features: max(<v, x>, 0)."""

    name: ClassVar[str] = "relu"

    def drawn(self, inputs: int, seed: int) -> Draws:
        from tombola.study.double_descent.features import Draws, relu

        return Draws(inputs, seed, lambda x, v, b: relu(x, v))
