"""Random forests: first the leaves of one tree grow, then the number of trees (Belkin et al., PNAS 2019).

One tree, grown without bootstrap, gets more and more leaves until it fits every training example; from there on more
such trees are averaged. The size of a forest is the number of its leaves, over all trees. A tree splits on the best of
sqrt(d) features that it draws at every node, and its outputs are the class shares of its leaves.

Buschjäger & Morik 2021 ("There is no double descent in random forests", arXiv 2111.04409) dispute the curve: it changes
one thing up to the threshold and another beyond. The series "20 trees" is the control for that: as many trees at every
number of leaves, so that only the leaves grow. If the second descent came with capacity, it would have a peak too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from tombola.errors import TombolaError
from tombola.results.double_descent import Axis, DescentFit
from tombola.study.double_descent.base import Kind, Points, check_sizes, sizes_of

if TYPE_CHECKING:
    from tombola.study.double_descent.examples import Examples

LEAVES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 1.0)
"""The most leaves of a tree over the number of training examples; none can have more than that number."""
TREES = (1, 2, 3, 4, 5, 7, 10, 15, 20)
MOST_TREES = 10_000
JOINT = "leaves, then trees"


@dataclass(frozen=True)
class Forest(Kind):
    """Random forests, by the leaves of a tree and then by trees.

    Args:
        leaves: the most leaves of a tree (null: from 0.005 to 1 times the number of training examples)
        trees: numbers of trees, beyond the one that has all leaves
        control: whether the largest number of trees is grown at every number of leaves too
    """

    name: ClassVar[str] = "forest"
    axis: ClassVar[Axis] = "parameters"
    few: ClassVar[Mapping[str, int]] = {"mnist": 4000, "fashion-mnist": 4000, "cifar10": 4000}
    note: ClassVar[str] = (
        "The curve is disputed: it grows leaves up to the threshold and trees beyond it (Buschjäger & Morik 2021)."
    )

    leaves: tuple[int, ...] | None = None
    trees: tuple[int, ...] = TREES
    control: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "trees", tuple(sorted(self.trees)))
        check_sizes("trees", self.trees, MOST_TREES)
        if self.leaves is not None:
            object.__setattr__(self, "leaves", tuple(sorted(self.leaves)))
            check_sizes("leaves", self.leaves)
            if self.leaves[0] < 2:
                raise TombolaError(f"leaves has {self.leaves[0]}; a tree that splits has at least 2")

    def filled(self, examples: Examples) -> Self:
        if examples.train.labels is None:
            raise TombolaError("forests here classify, but the targets are no class numbers; give labels")
        wanted = self.leaves or tuple(size for size in sizes_of(LEAVES, examples.n) if size > 1)
        return replace(self, leaves=wanted)

    def threshold(self, examples: Examples, points: Sequence[DescentFit]) -> float | None:
        fitting = [point.parameters for point in points if point.train_error == 0 and point.parameters is not None]
        return float(min(fitting)) if fitting else None

    def count(self) -> int:
        return len(self.places())

    def places(self) -> list[tuple[str, int, int]]:
        """(series, leaves, trees) of every point of a filled kind."""
        leaves = list(self.leaves or ())
        most, trees = leaves[-1], self.trees[-1]
        joint = [*((JOINT, size, 1) for size in leaves), *((JOINT, most, many) for many in self.trees if many > 1)]
        alone = [(f"{trees} trees", size, trees) for size in leaves] if self.control and trees > 1 else []
        return [*joint, *alone]

    def fits(self, examples: Examples, seed: int, points: Points) -> Iterator[DescentFit]:
        from tombola.study.double_descent.trees import forest_fit

        for at, (series, leaves, trees) in enumerate(self.places()):
            done = points.finished(at)
            yield done or points.keep(at, forest_fit(examples, leaves, trees, seed).replace(series=series))
