"""Networks with one hidden layer, over its width (Belkin et al., PNAS 2019, arXiv 1812.11118, appendix).

A network of H hidden ReLU units, d inputs and K outputs has (d + 1) H + (H + 1) K parameters. It is trained from
Glorot's uniform initialisation by SGD with momentum 0.95 on the squared loss; n examples of K outputs can be fitted
from about n K parameters on. Below that threshold the paper cuts the learning rate by a tenth at every twelfth of the
training, and stops where no training example is classified wrongly; above it neither. With `reuse`, each network below
the threshold begins with the trained units of the narrower one before it, and with weights ~ N(0, 0.01) (a variance,
as it is read here) in the units that it has more.

The paper gives neither learning rate nor batch size. Inputs are centred by the mean training example, and scaled by
one number to variance 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from tombola.errors import TombolaError
from tombola.formats import plural
from tombola.results.double_descent import Axis, DescentFit
from tombola.study.double_descent.base import Kind, Points, check_multiples, check_one_of, check_sizes

if TYPE_CHECKING:
    from tombola.study.double_descent.examples import Examples
    from tombola.study.double_descent.one_hidden_layer import Schedule

MULTIPLES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0)
"""Parameters over the threshold."""
LR = {"digits": 0.01}
"""Learning rates that train at all widths; what `lr` left open means on other data is OTHER_LR."""
OTHER_LR = 0.003
WIDEST = 100_000


def parameters(width: int, inputs: int, outputs: int) -> int:
    """Weights and biases of a network with one hidden layer."""
    return (inputs + 1) * width + (width + 1) * outputs


@dataclass(frozen=True)
class Width(Kind):
    """Networks with one hidden layer, by its width.

    Args:
        multiples: sizes of the models over the threshold (null: those of the kind)
        widths: hidden units (null: those whose parameters are the multiples of the threshold)
        reuse: whether networks below the threshold begin with the trained units of the narrower one before
        epochs: passes over the training examples (the paper has 6,000)
        batch: examples per step of SGD
        lr: learning rate (null: 0.01 on digits, 0.003 elsewhere)
        momentum: momentum of SGD
    """

    name: ClassVar[str] = "width"
    axis: ClassVar[Axis] = "parameters"
    few: ClassVar[Mapping[str, int]] = {"digits": 200, "mnist": 1000, "fashion-mnist": 1000, "cifar10": 1000}

    multiples: tuple[float, ...] | None = None
    widths: tuple[int, ...] | None = None
    reuse: bool = False
    epochs: int = 1000
    batch: int = 200
    lr: float | None = None
    momentum: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.multiples is not None:
            object.__setattr__(self, "multiples", tuple(self.multiples))
            check_multiples(self.multiples)
        if self.widths is not None:
            object.__setattr__(self, "widths", tuple(sorted(self.widths)))
            check_sizes("widths", self.widths, WIDEST)
        check_one_of(self.multiples, widths=self.widths)
        if not 1 <= self.epochs <= 1_000_000:
            raise TombolaError(f"epochs is {self.epochs}; it must be 1 to 1,000,000")
        if self.batch < 1:
            raise TombolaError(f"batch is {self.batch}; it must be at least 1")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise TombolaError(f"lr is {self.lr}; it must be above 0, and finite")
        if not 0 <= self.momentum < 1:
            raise TombolaError(f"momentum is {self.momentum}; it must be at least 0 and below 1")

    def filled(self, examples: Examples) -> Self:
        multiples = self.multiples or MULTIPLES
        wanted, each = examples.n * examples.outputs, examples.inputs + 1 + examples.outputs
        fitting = sorted({max(1, round((size * wanted - examples.outputs) / each)) for size in multiples})
        if self.widths is None and fitting[-1] > WIDEST:
            raise TombolaError(
                f"{max(multiples):g} times the threshold of {wanted:,} parameters is a width of {fitting[-1]:,}; set "
                f"train_examples to fewer, or widths to at most {WIDEST:,}"
            )
        widths = self.widths or tuple(fitting)
        below = [width for width in widths if parameters(width, examples.inputs, examples.outputs) < wanted]
        if self.reuse and len(below) < 2:
            raise TombolaError(
                f"reuse has no effect: {plural(len(below), 'network')} of the curve lies below the threshold of "
                f"{wanted:,} parameters, and it takes two; leave it out, or give smaller widths"
            )
        return replace(self, multiples=None, widths=widths, lr=self.lr or LR.get(examples.name, OTHER_LR))

    def threshold(self, examples: Examples, points: Sequence[DescentFit]) -> float | None:
        return float(examples.n * examples.outputs)

    def count(self) -> int:
        return len(self.widths or ())

    def fits(self, examples: Examples, seed: int, points: Points) -> Iterator[DescentFit]:
        from tombola.rng.seeds import generator
        from tombola.study.double_descent.one_hidden_layer import centred, first_network, train, widened

        train_x, test_x = centred(examples.train.x, examples.test.x)
        widths, limit = list(self.widths or ()), examples.n * examples.outputs
        below = [parameters(width, examples.inputs, examples.outputs) < limit for width in widths]
        done = [points.finished(at) for at in range(len(widths))]
        # what a chain of reused networks lacks is trained again from its beginning, to the same bits
        chained = self.reuse and any(fit is None for fit, small in zip(done, below, strict=True) if small)
        network = None
        for at, (width, small, fit) in enumerate(zip(widths, below, done, strict=True)):
            if fit is not None and not (chained and small):
                yield fit
                continue
            draws = generator(seed, "width", width)
            if network is not None and self.reuse and small:
                network = widened(network, width, draws)
            else:
                network = first_network(examples.inputs, width, examples.outputs, draws)
            train(network, train_x, examples.train, self._schedule(small), draws)
            if fit is None:
                size = parameters(width, examples.inputs, examples.outputs)
                found = examples.measured(network(train_x), network(test_x), network.norm, parameters=size)
                fit = points.keep(at, found)
            yield fit

    def _schedule(self, small: bool) -> Schedule:
        from tombola.study.double_descent.one_hidden_layer import Schedule

        return Schedule(self.epochs, self.batch, self.lr or OTHER_LR, self.momentum, cut=small, stop=small)
