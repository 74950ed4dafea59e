"""Sparse double descent (He, Xie, Zhu, Qin, ICML 2022): errors over the density of a network that is pruned in levels.

With wrong labels in a small training set (`--label_noise`, `--train_examples`), a network that is pruned by magnitude
goes through four phases: see `phases`. At every level the arms train what the levels of the search keep:

- lottery: the search itself, iterative pruning with rewinding; kept weights return to theirs at the rewind point;
- finetune: a search of its own from the same dense network, whose kept weights stay and train on at a smaller rate, a
  hundredth as in the paper;
- reinit: the masks of the lottery on other initial weights;
- distill: the masks and weights of the lottery, trained by KL(dense || sparse) to the outputs of the trained dense
  network instead of the labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

from tombola.errors import TombolaError
from tombola.methods.imp import IterativePruning
from tombola.models.spec import ModelSpec
from tombola.names import check_known
from tombola.results.double_descent import Axis, DescentFit, DescentPoint, Phase
from tombola.study.double_descent.base import Kind, Points
from tombola.train.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from tombola.data.splits import Split
    from tombola.levels.search import Level
    from tombola.search.driver import Workspace
    from tombola.search.request import Request
    from tombola.study.double_descent.examples import Examples
    from tombola.ticket.ticket import Ticket
    from tombola.train.evaluate import Score
    from tombola.train.options import Options
    from tombola.train.trial import TrainingSetup

ARMS = ("lottery", "finetune", "reinit", "distill")
RECIPE: Mapping[str, Any] = {
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "batch_size": 100,
    "length": "60ep",
    "eval_every": "20ep",
}
"""Long enough that LeNet-300-100 fits 2,000 images of MNIST with a fifth of wrong labels (our own trial)."""
SLOWER = 0.01
"""The paper's rate of fine-tuning, 0.001, over its rate of training."""


@dataclass(frozen=True)
class SparseDescent(Kind):
    """A network pruned in levels, trained anew at each by several arms.

    Args:
        network: which network is pruned
        rate: fraction of the remaining weights pruned per level
        levels: number of levels after the dense one
        scope: layer (each layer by its own rate, the output layer at half of it) or global
        rewind: what the lottery returns to: init, or a step such as 500it
        arms: lottery, which comes first, and any of finetune, reinit, distill
        recipe: fields of the training recipe of all arms, e.g. {"length": "100ep"} (SGD at 0.1, 60 epochs)
        finetune_lr: learning rate of the arm finetune (null: a hundredth of the recipe's)
    """

    name: ClassVar[str] = "density"
    axis: ClassVar[Axis] = "density"
    peak_of: ClassVar[str] = "test_error"
    loss: ClassVar[str] = "the task's loss"
    note: ClassVar[str] = (
        "lottery: kept weights return to their first values; finetune: they stay, and train on at a smaller rate; "
        "reinit: the lottery's masks on another initialisation; distill: the lottery's networks, trained to the "
        "outputs of the dense one. Errors in training count the wrong labels as they are. The threshold is the lowest "
        "density, from dense to sparse, up to which the training error is at most 1 %."
    )

    network: str = "lenet-300-100"
    rate: float = 0.36
    levels: int = 12
    scope: str = "layer"
    rewind: str = "init"
    arms: tuple[str, ...] = ARMS
    recipe: Mapping[str, Any] | None = field(default=None, hash=False)
    finetune_lr: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "arms", tuple(self.arms))
        for arm in self.arms:
            check_known("arm", arm, ARMS)
        if self.arms[:1] != ARMS[:1] or len(set(self.arms)) < len(self.arms):
            raise TombolaError(
                f"arms is {list(self.arms)}; lottery comes first, which finds the masks, and every arm once"
            )
        if self.levels < 1:
            raise TombolaError(f"levels is {self.levels}; it must be at least 1")
        if self.rewind.partition(":")[0] == "lr":
            raise TombolaError("rewind is lr, by which weights stay: that is the arm finetune; give init or a step")
        if self.finetune_lr is not None:
            if "finetune" not in self.arms:
                raise TombolaError(
                    "finetune_lr is the rate of the arm finetune, which arms leaves out; leave it out too"
                )
            if not 0 <= self.finetune_lr < math.inf:
                raise TombolaError(f"finetune_lr is {self.finetune_lr}; it must be at least 0, and finite")
        try:
            self._recipe()
        except TombolaError as error:
            raise TombolaError(f"recipe: {error}") from None
        self._searches()

    @property
    def model(self) -> str | None:
        return self.network

    @property
    def parts(self) -> tuple[nn.Module | ModelSpec, ...]:
        return (ModelSpec(self.network),)

    def filled(self, examples: Examples) -> Self:
        if examples.train.labels is None:
            raise TombolaError("the targets are no classes, and sparse double descent is one of errors; give labels")
        from tombola.plain import as_plain

        rate = self._finetune_lr() if "finetune" in self.arms else None
        return replace(self, finetune_lr=rate, recipe=as_plain(self._recipe()))

    def threshold(self, examples: Examples, points: Sequence[DescentFit]) -> float | None:
        from tombola.study.double_descent.phases import fewest_fitting

        return fewest_fitting(*_errors(points)[:2])

    def phases(self, points: Sequence[DescentFit]) -> tuple[Phase, ...]:
        from tombola.study.double_descent.phases import phases

        return phases(*_errors(points))

    def remark(self, points: Sequence[DescentPoint]) -> str:
        from tombola.study.double_descent.phases import TOLERANCE
        from tombola.study.double_descent.sentence import unfitted_in_words

        return unfitted_in_words(points, TOLERANCE)

    def count(self) -> int:
        return 1 + self.levels * len(self.arms)

    def check(self, work: Workspace, options: Options, seed: int) -> None:
        """One step of every search on copies; outputs that cannot teach are refused."""
        from tombola.levels.distill import check_classes
        from tombola.search.find import validate

        if "distill" in self.arms:
            check_classes(work.splits.task, "kl")
        for name, method in self._searches().items():
            if name in self.arms:
                validate(self._request(method, work, options, seed), work.splits, work.progress, work.starts)

    def fits(self, examples: Examples, seed: int, points: Points) -> Iterator[DescentFit]:
        from tombola.study.regime.measure import wrong_labels

        work = points.work
        bench = _Bench(self, points, seed, wrong_labels(work.data, work.splits))
        lottery = bench.search("lottery")
        dense = lottery[0].ticket
        yield from (bench.of_level("lottery", level, dense) for level in lottery)
        for arm in self.arms[1:]:
            if arm == "finetune":
                yield from (bench.of_level(arm, level, dense) for level in bench.search(arm)[1:])
            else:
                yield from (bench.retrained(arm, level, dense) for level in lottery[1:])

    def place(self, arm: str, level: int) -> int:
        """The number of a point."""
        return level + self.levels * self.arms.index(arm)

    def _recipe(self) -> Recipe:
        from tombola.search.request import made

        return made(Recipe, RECIPE, self.recipe)

    def _searches(self) -> dict[str, IterativePruning]:
        shared: dict[str, Any] = {"rate": self.rate, "levels": self.levels, "scope": self.scope}
        return {
            "lottery": IterativePruning(**shared, rewind=self.rewind),
            "finetune": IterativePruning(**shared, rewind="lr", retrain={"lr": self._finetune_lr()}),
        }

    def _finetune_lr(self) -> float:
        return self._recipe().lr * SLOWER if self.finetune_lr is None else self.finetune_lr

    def _request(self, method: IterativePruning, work: Workspace, options: Options, seed: int) -> Request:
        from tombola.search.request import Request

        return Request(ModelSpec(self.network), work.data, method, self._recipe(), seed, options=options)


def _errors(points: Sequence[DescentFit]) -> tuple[list[float], list[float], list[float]]:
    """Densities and both errors of the points that have all."""
    known = [
        (point.density, point.train_error, point.test_error)
        for point in points
        if point.density is not None and point.train_error is not None and point.test_error is not None
    ]
    return [one[0] for one in known], [one[1] for one in known], [one[2] for one in known]


@dataclass(frozen=True)
class _Bench:
    """One replicate's trainings; a point that has finished is not measured again."""

    kind: SparseDescent
    points: Points
    seed: int
    wrong: Any

    def search(self, arm: str) -> list[Level]:
        """The levels of a search, under `<run>/<arm>/replicate-<r>/`; both prune the dense network of the lottery."""
        from tombola.search.find import search

        work, replicate = self.points.work, self.points.replicate
        request = self.kind._request(self.kind._searches()[arm], work, self.points.options, self.seed)
        return search(
            request,
            work.progress,
            splits=work.splits,
            directory=work.directory,
            starts=work.starts,
            prefix=f"{arm}/replicate-{replicate}",
            dense=None if arm == "lottery" else f"lottery/replicate-{replicate}",
        )

    def of_level(self, arm: str, level: Level, dense: Ticket) -> DescentFit:
        """What a level of a search has trained."""
        place = self.kind.place(arm, level.level)
        done = self.points.finished(place)
        if done is not None:
            return done
        return self.points.keep(place, self._fit(arm, level.ticket, self._built(level.ticket, "final"), dense))

    def retrained(self, arm: str, level: Level, dense: Ticket) -> DescentFit:
        """A level's mask trained by another arm."""
        from tombola.levels.distill import Distill
        from tombola.rng.seeds import derive
        from tombola.study.arms import VerificationSetup, reinit_arm, ticket_arm
        from tombola.train.trial import train_trial

        place = self.kind.place(arm, level.level)
        done = self.points.finished(place)
        if done is not None:
            return done
        subject = VerificationSetup(level.ticket, trusted=(self.kind.network,))
        make = {"reinit": reinit_arm, "distill": ticket_arm}[arm]
        made = make(subject, derive(self.seed, arm, level.level))
        first = deepcopy(made.model)
        hooks = [Distill(partial(self._built, dense, "final"), "kl")] if arm == "distill" else []
        train_trial(
            self._setup(),
            made.model,
            seed=self.seed,
            label=f"{arm} {level.level}  {level.ticket.density:6.1%}",
            mask=made.mask,
            start=made.start,
            hooks=hooks,
            stage=self.points.stage(place),
        )
        begun = first if arm == "reinit" else dense
        return self.points.keep(place, self._fit(arm, level.ticket, made.model.cpu(), begun))

    def _setup(self) -> TrainingSetup:
        from tombola.study.measured import training_setup

        return training_setup(self.points.work, self.kind._recipe(), self.points.options)

    def _built(self, ticket: Ticket, weights: Any) -> nn.Module:
        return ticket.build(weights, trusted=(self.kind.network,))

    def _fit(self, arm: str, ticket: Ticket, network: nn.Module, begun: nn.Module | Ticket) -> DescentFit:
        """`begun`: the network at its initialisation, or the dense ticket that has it; pruned as the network is."""
        from torch import nn

        from tombola.study.regime.measure import measured
        from tombola.study.regime.place import norm

        setup, size = self._setup(), norm(network)
        first = begun if isinstance(begun, nn.Module) else self._built(begun, "origin")
        ticket.mask.apply_(first)

        def score(model: nn.Module, split: Split) -> Score:
            return setup.scorer(model.to(setup.fabric.device), split)()

        figures = asdict(measured(network, first, setup.splits, self.wrong, score))
        del figures["relative_distance"]
        return DescentFit(series=arm, density=ticket.density, norm=size, **figures)
