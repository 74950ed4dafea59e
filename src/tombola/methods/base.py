"""What a method is: options that find levels, and all that may be asked of it, with its default (torch-free).

A method is a frozen dataclass. Its fields are the options on the command line and in YAML, their help stands in the
docstring under `Args:`. One that lies outside of this package is named by its import path.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, get_origin, get_type_hints

from tombola import levels
from tombola.errors import TombolaError, in_short
from tombola.fields import check_fields
from tombola.levels.detector import Detector, Watching
from tombola.names import check_known
from tombola.train.length import Length

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.mask import Mask
    from tombola.models.spec import ModelSpec
    from tombola.train.hooks import Hook
    from tombola.train.recipe import Recipe

ACTIVATIONS = ("float", "binary")
SCOPES = ("layer", "global")


@dataclass(frozen=True)
class Method(ABC):
    """A way to find a ticket. `find` is all that has to be written; everything else has a default.

    What stands here as a property is an option of many methods: a field of the same name takes its place, and the
    values that it may have are checked here.
    """

    name: ClassVar[str]
    """Short name, or the import path of the class where it sets none."""
    version: ClassVar[int] = 1
    """Counted up when the same options come to find something else."""
    prunes: ClassVar[bool] = True
    """Whether weights are removed at all."""
    prunes_in_levels: ClassVar[bool] = False
    """Whether the density falls level by level, so that a curve can be drawn of one search."""
    trains_scores_only: ClassVar[bool] = False
    """Whether weights rest in the search, so that its recipe, of scores if of anything, does not suit weights."""
    goes_on_from_tickets: ClassVar[bool] = False
    """Whether a search keeps to (pruning), or begins with (scores), what the mask of a ticket keeps."""

    starts_fresh: ClassVar[bool] = False
    """Whether such a search begins with weights of another draw, and not with the ticket's."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in vars(cls):
            cls.name = f"{cls.__module__}.{cls.__qualname__}"

    def __post_init__(self) -> None:
        check_declared(type(self))
        check_fields(self)
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is tuple:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.density is not None:
            check_density(self.density)
        check_known("scope", self.scope, SCOPES)
        check_known("activations", self.activations, ACTIVATIONS)

    @property
    def density(self) -> float | None:
        """Fraction of the prunable weights that the ticket keeps; None where it is an outcome, or said otherwise."""
        return None

    @property
    def scope(self) -> str:
        """Over what the density holds: layer or global."""
        return "layer"

    @property
    def include(self) -> tuple[str, ...]:
        """Name patterns of further parameters to prune."""
        return ()

    @property
    def exclude(self) -> tuple[str, ...]:
        """Name patterns of weights to leave alone."""
        return ()

    @property
    def rewind(self) -> str:
        """What kept weights return to before they are trained."""
        return "init"

    @property
    def activations(self) -> str:
        """float or binary."""
        return "float"

    def init(self) -> str | None:
        """The initialisation of networks by name that are given none; None: the network's own."""
        return None

    def init_args(self) -> Mapping[str, Any]:
        """What the initialisation is called with."""
        return {}

    def network(self, spec: ModelSpec) -> ModelSpec:
        """One of Tombola's own networks in the form that is needed."""
        return spec

    def hooks(self, search: levels.Search) -> Sequence[Hook]:
        """What runs within the training loop."""
        return ()

    def code(self) -> Mapping[str, object]:
        """What the options name by import path, by what it is: a run is known by its code."""
        return {}

    def trains_weights(self) -> bool:
        """Whether any level trains the weights themselves, so that a penalty on them means something."""
        return not self.trains_scores_only

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError if these options cannot work here; nothing is trained.

        Args:
            network: a copy, which may be changed.
            total: iterations of the training.
            mask: what the ticket that the search goes on from keeps.
        """
        return None

    def planned_levels(self, network: nn.Module, mask: Mask | None = None) -> Sequence[int] | None:
        """The numbers of the levels after the first; None where they are not known before the search."""
        return None

    def dry_run(self, search: levels.Search) -> None:
        """One step of everything, on copies; TombolaError for what cannot work. By default a step of training."""
        from tombola.train.dry_run import try_training

        try_training(search.setup, search.network(), seed=search.seed)

    @abstractmethod
    def find(self, search: levels.Search) -> list[levels.Level]:
        """Run the search; the last level holds the ticket."""


@dataclass(frozen=True)
class WatchedMethod(Method):
    """A method whose masks are read while it trains: a training may end as soon as its mask is stable.

    Args:
        stop_when_stable: end a training as soon as the mask that it would give is stable
        detector: what says so: mask (distances between the masks of successive epochs), displacement (of what is
            trained), or, in imp alone, correlation or gradient (as in the dense network at the end of level 0, which
            these two therefore never end)
        stable_distance: below what the detector calls a mask stable (null: mask 0.1, displacement the density,
            correlation 0.11, gradient 0.5)
        stable_window: distances between successive masks that detector mask looks at
        stable_compare: consecutive (each mask with the one before), or newest-vs-all (the newest with each older one of
            the last stable_window)
    """

    detectors: ClassVar[tuple[str, ...]] = ("mask", "displacement")
    """The detectors that work here."""

    _: KW_ONLY
    stop_when_stable: bool = False
    detector: str = "mask"
    stable_distance: float | None = None
    stable_window: int = 5
    stable_compare: str = "consecutive"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known("detector", self.detector, self.detectors)
        detector_of(self)

    def watching(self, begin: int = 0) -> Watching:
        """How the masks of a training are watched; those from before an iteration do not count."""
        return Watching(detector_of(self), self.stop_when_stable, begin)


def detector_of(method: WatchedMethod) -> Detector:
    """The detector that a method's options ask for; TombolaError if there is none such."""
    return Detector(method.stable_distance, method.stable_window, method.stable_compare, method.detector)


class Definition(NamedTuple):
    """What a method of learned masks does to one layer: forward, and backward from g = dL/d(effective weight)."""

    effective: Tensor
    """What the layer computes with in the weight's place."""
    score_gradient: Tensor | None
    """dL/ds, by which the scores learn; None: they rest."""
    weight_gradient: Tensor | None = None
    """dL/dw, by which the weights learn; None: they rest."""


@dataclass(frozen=True)
class SupermaskMethod(WatchedMethod):
    """A method that learns a mask by gradient descent: `learning` says how, and what its network is trained by then."""

    goes_on_from_tickets: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.detector == "displacement":
            detector_of(self).threshold(self.density_of_masks())

    @abstractmethod
    def definition(self, w: Tensor, s: Tensor, g: Tensor, u: Tensor) -> Definition:
        """What the method computes, in plain torch; what is trained computes the same, faster.

        Args:
            w: weights of a layer.
            s: their scores.
            g: dL/d(effective weight).
            u: draws from [0, 1), for masks that are drawn.
        """

    @abstractmethod
    def learning(self, network: nn.Module) -> levels.Learning:
        """These options as axes of the parametrisation; hooks are those of `hooks`."""

    def second_level(self) -> tuple[str, float] | None:
        """Length and learning rate of a level after the mask is found; None: there is none."""
        return None

    tunes_norms: ClassVar[bool] = False
    """Whether that level trains scale and bias of the norms, under frozen weights, and not the weights."""

    def density_of_masks(self) -> float | None:
        """What every mask of the training keeps, at least from where it settles; None where that is an outcome."""
        return self.density

    def settles(self, steps_per_epoch: int, total: int) -> int | None:
        """The iteration from which on the mask has the density asked for and is learned; None: only at the end."""
        return 0

    def find(self, search: levels.Search) -> list[levels.Level]:
        """Level 1 learns the mask; level 2, if asked for, trains the weights or the norms under it."""
        begin = self.settles(search.setup.steps_per_epoch, search.setup.total_steps)
        watching = self.watching(search.setup.total_steps if begin is None else begin)
        learned = levels.learn_mask(search, self.learning(search.network()), watching=watching)
        if (recipe := self._second_recipe(search)) is None:
            return [learned]
        return [learned, (levels.tune_norms if self.tunes_norms else levels.fine_tune)(search, learned, recipe)]

    def trains_weights(self) -> bool:
        """Those that train scores only may have a second level for the weights."""
        then = None if self.tunes_norms else self.second_level()
        return super().trains_weights() or (then is not None and not is_nothing(then[0]))

    def _second_recipe(self, search: levels.Search) -> Recipe | None:
        then = self.second_level()
        return None if then is None else levels.second_recipe(search, *then)

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError if these options cannot work on this network."""
        self.check_stopping(steps_per_epoch, total)
        levels.check_learning(network, self.learning(network), mask)

    def check_stopping(self, steps_per_epoch: int, total: int) -> None:
        """TombolaError if the search is to end with a stable mask, and there can be none before it ends anyway."""
        begin = self.settles(steps_per_epoch, total)
        if self.stop_when_stable and (begin is None or begin >= total):
            raise TombolaError(
                f"stop_when_stable is set, but the mask of {self.name} becomes what it is only with the last of "
                f"{total} iterations here; leave it out{self._or_instead}"
            )

    _or_instead: ClassVar[str] = ""

    def dry_run(self, search: levels.Search) -> None:
        """One step of everything, on copies; TombolaError for what cannot work."""
        from tombola.levels.learn import dry_run

        dry_run(search, self.learning(search.network()), self._second_recipe(search), norms=self.tunes_norms)


# ---- checks of declarations and options ------------------------------------------------------------------


def check_declared(kind: type[Method]) -> None:
    """TombolaError unless the fields of a method can be options: none hides a part of `Method` that is no option."""
    for field in fields(kind):
        part = vars(Method).get(field.name)
        if isinstance(field.default, property):
            raise TombolaError(
                f"field {field.name} of method {kind.__qualname__} has no default; write {field.name}: TYPE = VALUE"
            )
        if not isinstance(part, property) and (part is not None or field.name in Method.__annotations__):
            raise TombolaError(
                f"field {field.name} of method {kind.__qualname__} hides what tombola.Method calls so; take another "
                "name, or say ClassVar if it is no option"
            )
    try:
        get_type_hints(kind)
    except Exception as error:  # whatever stands in the annotations
        raise TombolaError(f"the fields of method {kind.__qualname__} cannot be read: {in_short(error)}") from None


def check_density(density: float) -> None:
    """TombolaError unless it lies in (0, 1]."""
    if isinstance(density, bool) or not 0.0 < density <= 1.0:
        raise TombolaError(f"density is {density}, but it must lie in (0, 1]: the fraction of weights kept")


def check_not_negative(**options: float | None) -> None:
    """TombolaError unless each is a finite number of at least 0, or None."""
    for name, value in options.items():
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise TombolaError(f"{name} is {value}; it must be a number of at least 0")


def check_fraction(**options: float) -> None:
    """TombolaError unless each lies in [0, 1]."""
    for name, value in options.items():
        if not 0.0 <= value <= 1.0:
            raise TombolaError(f"{name} is {value}, but it must lie in [0, 1]")


def is_nothing(length: str) -> bool:
    """Whether a length such as "0it" is no iteration at all; TombolaError if it is no length."""
    return Length.parse(length) == Length()


def fixed_density(pattern: str, density: float) -> float:
    """The density, which N:M fixes: there the methods' default of 0.5 gives way."""
    from tombola.select.patterns import NM, parse_pattern

    shape = parse_pattern(pattern)
    return shape.n / shape.m if isinstance(shape, NM) and density == 0.5 else density


# ---- binary networks ----------------------------------------------------------------------------------------


def sign(w: Tensor) -> Tensor:
    """+1 or -1 in the dtype of w; sign(0) = +1."""
    return (w >= 0).to(w) * 2 - 1


def mean_size(w: Tensor, mask: Tensor, per_channel: bool = False) -> Tensor:
    """α = Σ|w|M / ΣM over the layer, or over every output row, as a factor of w."""
    rows = tuple(range(1, w.dim())) if per_channel else tuple(range(w.dim()))
    return (w.abs() * mask).sum(rows, keepdim=per_channel) / mask.sum(rows, keepdim=per_channel).clamp(min=1)


def binary_form(spec: ModelSpec, activations: str, affine: bool) -> ModelSpec:
    """One of Tombola's own networks in the block order and with the norms that are asked for.

    What the user has set in the network's arguments stays; networks made elsewhere are rewritten instead.
    """
    from tombola.models.registry import has_norms

    binary = activations == "binary"
    wanted: dict[str, Any] = {"activation": "binary"} if binary else {}
    if binary or has_norms(spec.name):
        wanted["affine"] = affine
    return replace(spec, args={**wanted, **spec.args})


def with_norms(spec: ModelSpec) -> ModelSpec:
    """One of Tombola's own networks with norms that have scales, also where it has none by default.

    What the user has set in the network's arguments stays.
    """
    from tombola.models.registry import has_norms, is_known

    if not is_known(spec.name):
        return spec
    normed = has_norms(spec.name) or spec.args.get("activation") == "binary"
    return replace(spec, args={**({} if normed else {"norms": True}), "affine": True, **spec.args})


def with_dropout(spec: ModelSpec, dropout: float) -> ModelSpec:
    """One of Tombola's own networks with that dropout; what the user has set in its arguments stays.

    Raises:
        TombolaError: the network does not take it.
    """
    from tombola.models.registry import has_dropout

    if not has_dropout(spec.name):
        raise TombolaError(
            f"dropout is {dropout:g}, but {spec.name} takes none; leave it out, or put dropout into the network itself"
        )
    return replace(spec, args={"dropout": dropout, **spec.args})


HAND_ON = ("last", "best")
"""Which network of a training is tested and handed on: that at its end, or that of the lowest validation loss."""


def binary_rewrites(
    network: nn.Module, activations: str, include: Sequence[str], exclude: Sequence[str]
) -> tuple[Mapping[str, Any], ...]:
    """What a network is rewritten with: binary layers for all that is masked; binary activations where they are
    asked for and the network does not have them."""
    from tombola.nn.relus import RELU_LIKE
    from tombola.nn.rewrite import has_binary_activations
    from tombola.parameters import prunable

    rewrites: list[Mapping[str, Any]] = [{"kind": "binary-layers", "names": list(prunable(network, include, exclude))}]
    float_ = any(isinstance(module, RELU_LIKE) for module in network.modules())
    if activations == "binary" and (float_ or not has_binary_activations(network)):
        rewrites.insert(0, {"kind": "binary-activations"})
    return tuple(rewrites)
