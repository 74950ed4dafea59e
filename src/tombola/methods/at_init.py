"""Pruning at initialisation: score the untrained network, keep the largest scores, train what is left.

    random      a draw from U(0, 1)                                         (control)
    magnitude   |w|                                                         (control)
    snip        |g·w|, g = dL/dw                                            (Lee et al. 2019)
    grasp       w·(Hg), outputs divided by a temperature of 200             (Wang et al. 2020)
    synflow     |w|·dR/d|w|, R the outputs for an input of ones under |w|   (Tanaka et al. 2020)
    ntk_sap     |m·d/dm ‖f(m·w) - f(m·(w + ε·ξ))‖²|, w, inputs and ξ drawn  (Wang et al. 2023)
    px          w²·dR/dw², R a bound of the tangent kernel's trace          (Iurada et al. 2024)

or any other criterion. In n iterations the mask keeps d^(1/n), d^(2/n), .., d of the weights, and each scores the
network under the mask of the one before: the authors' n is 100 for synflow and px, 20 for ntk_sap, 1 for the others.

Layer densities may explain the result alone: `shuffle` keeps them, and draws the positions within every layer at random
(Frankle et al. 2021, "Missing the Mark"). The random control of `tombola verify` is the same for any ticket.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any, ClassVar

from tombola.errors import TombolaError
from tombola.fields import described
from tombola.methods.base import Method, check_density
from tombola.names import check_known

if TYPE_CHECKING:
    from torch import nn

    from tombola.levels.prune import Counts, Pruning
    from tombola.levels.search import Level, Search
    from tombola.mask import Mask
    from tombola.select.context import Criterion
    from tombola.select.patterns import Pattern

ITERATIONS: Mapping[str, int] = {"synflow": 100, "ntk_sap": 20, "px": 100}
"""Criterion -> how often its authors score; the others once."""
LAYERS = ("uniform", "erk", "given")
_MOST = 10_000
"""Iterations, and batches of a criterion, at most."""


@dataclass(frozen=True)
class AtInit(Method):
    """Draw the mask before any training, by the scores of the untrained network; then train under it.

    Args:
        density: fraction of the prunable weights that the ticket keeps (null: 0.1, what N:M or layer_densities say)
        criterion: snip, grasp, synflow, ntk-sap, px, magnitude, random, any other criterion by name, or an import path
        iterations: how often the network is scored, on the way down to the density (null: its authors' number)
        criterion_batches: batches that one scoring takes gradients over; those of one epoch at most
        temperature: what grasp divides the outputs by before the loss is taken (null: 200)
        scope: global (the largest scores over all layers), or layer (the largest of each)
        layers: densities of layers: uniform, erk (as in RigL, small layers denser), or given; sets scope to layer
        layer_densities: density by name pattern, e.g. {"fc.*": 0.3, "*": 0.1}; the longest that fits counts
        pattern: what is pruned as one: element, block:V (V output rows), inputs:V (V inputs of a row), or N:M such as
            2:4
        shuffle: draw the positions of what is kept at random within each layer (the layer-shuffled control)
        include: name patterns of further parameters to prune, e.g. ["*.bias"]
        exclude: name patterns of weights to leave alone, e.g. ["fc.*"]
    """

    name: ClassVar[str] = "at-init"
    version: ClassVar[int] = 1
    goes_on_from_tickets: ClassVar[bool] = True

    density: float | None = None
    criterion: str = "snip"
    iterations: int | None = None
    criterion_batches: int = 1
    temperature: float | None = None
    scope: str = "global"
    layers: str | None = None
    layer_densities: Mapping[str, float] = field(default_factory=dict, hash=False)
    pattern: str = "element"
    shuffle: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.criterion, str):  # a run records it by name
            path = f"{getattr(self.criterion, '__module__', 'package')}.{getattr(self.criterion, '__name__', 'name')}"
            raise TombolaError(f"criterion is {described(self.criterion)}; give its name or import path, e.g. {path!r}")
        super().__post_init__()
        self._set(criterion=self.criterion.replace("-", "_"))
        for name, count in (("iterations", self.iterations), ("criterion_batches", self.criterion_batches)):
            if count is not None and not 1 <= count <= _MOST:
                raise TombolaError(f"{name} is {count}, but it must lie between 1 and {_MOST:,}")
        if self.temperature is not None and self.criterion != "grasp":
            raise TombolaError(f"temperature is of criterion grasp alone; leave it out for {self.criterion}")
        if self.temperature is not None and not 0 < self.temperature < float("inf"):
            raise TombolaError(f"temperature is {self.temperature}, but it must be a number above 0")
        self._check_layers()
        self._check_pattern()
        if self.density is None and not self.layer_densities:
            self._set(density=0.1)

    def _check_layers(self) -> None:
        given = self.layer_densities
        if not isinstance(given, Mapping):
            raise TombolaError(
                f'layer_densities is {described(given)}, but it must be a mapping such as {{"fc.*": 0.3, "*": 0.1}}'
            )
        for name, density in given.items():
            if not isinstance(name, str):
                raise TombolaError(
                    f"layer_densities name {described(name)}, but a name pattern must be a text: '{name}'"
                )
            if not isinstance(density, int | float):
                raise TombolaError(f"layer_densities of {name!r} is {described(density)}, but it must be a number")
            check_density(density)
        layers = "given" if given and self.layers is None else self.layers
        if layers is None and self.scope == "layer":
            layers = "uniform"
        if layers is not None:
            check_known("layers", layers, LAYERS)
        if (layers == "given") != bool(given):
            raise TombolaError(
                "layers and layer_densities go together: give name pattern -> density, and leave layers out"
            )
        if given and self.density is not None:
            raise TombolaError(f"density is {self.density}, and layer_densities say another; leave one of them out")
        self._set(layers=layers, scope="layer" if layers else self.scope, layer_densities=dict(given))

    def _check_pattern(self) -> None:
        from tombola.select.patterns import NM, Channel

        pattern = self._pattern()
        if isinstance(pattern, Channel):
            raise TombolaError(
                "pattern channel is not for at-init; use element, block:V, inputs:V or N:M, or method early-bird"
            )
        if not isinstance(pattern, NM):
            return
        fixed = pattern.n / pattern.m
        if self.layers not in (None, "uniform") or self.iterations not in (None, 1):
            raise TombolaError(
                f"pattern {self.pattern} fixes the density of every layer at {fixed:g} in one iteration; leave layers, "
                "layer_densities and iterations out"
            )
        if self.density is not None and abs(self.density - fixed) > 1e-9:
            raise TombolaError(f"pattern {self.pattern} fixes the density at {fixed:g}; leave density out")
        self._set(density=fixed, scope="layer", layers="uniform", iterations=1)

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def find(self, search: Search) -> list[Level]:
        """One level: the mask, and the network trained under it from its initial weights."""
        from tombola.levels.foresight import prune_untrained

        return [prune_untrained(search, self.pruning(), shuffle=self.shuffle)]

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError if these settings cannot work on this network."""
        from tombola.levels.prune import plan_levels

        plan_levels(network, self.pruning(), mask)

    def dry_run(self, search: Search) -> None:
        """One step and one scoring on copies; TombolaError for what cannot work."""
        from tombola.levels.foresight import dry_run

        dry_run(search, self.pruning(), shuffle=self.shuffle)

    def code(self) -> Mapping[str, object]:
        """A criterion that is none of Tombola's own."""
        from tombola.select.criteria import CRITERIA, criterion

        return {} if self.criterion in CRITERIA else {"criterion": criterion(self.criterion)}

    def pruning(self) -> Pruning:
        """These settings as axes of pruning."""
        from tombola.levels.prune import Pruning
        from tombola.levels.rewind import Rewind

        return Pruning(
            plan=self.plan,
            criterion=self._criterion(),
            scope=self.scope,
            pattern=self._pattern(),
            rewind=Rewind.parse("init"),
            criterion_batches=self.criterion_batches,
            include=self.include,
            exclude=self.exclude,
        )

    def _criterion(self) -> Criterion:
        from tombola.select.criteria import criterion
        from tombola.select.gradient_criteria import grasp

        if self.temperature is None:
            return criterion(self.criterion)
        return update_wrapper(partial(grasp, temperature=self.temperature), grasp)

    def _pattern(self) -> Pattern:
        from tombola.select.patterns import parse_pattern

        return parse_pattern(self.pattern)

    def plan(self, mask: Mask, output: str, whole: Collection[str] = ()) -> Sequence[Counts]:
        """Units kept after every iteration of what `mask` keeps, all of them first."""
        from tombola.levels.plan import by_steps
        from tombola.select.patterns import NM

        pattern = self._pattern()
        if isinstance(pattern, NM):
            return [{}, None]
        there = {name: int(pattern.whole(kept).sum()) for name, kept in mask.items()}
        last = self._last(mask, there)
        steps = self.iterations or ITERATIONS.get(self.criterion, 1)
        if self.scope == "layer":
            return by_steps(there, last, steps)
        return [level[""] for level in by_steps({"": sum(there.values())}, {"": sum(last.values())}, steps)]

    def _last(self, mask: Mask, there: Mapping[str, int]) -> Mapping[str, int]:
        """Units of every layer kept in the end, of those that are there; of scope global only the sum counts."""
        from tombola.levels.densities import given_counts, shares
        from tombola.levels.plan import in_proportion
        from tombola.select.patterns import NM

        pattern = self._pattern()
        assert not isinstance(pattern, NM)
        if self.density is None:
            counts = given_counts(mask, pattern, self.layer_densities)
            if more := [name for name in counts if counts[name] > there[name]]:
                raise TombolaError(
                    f"layer_densities keep {counts[more[0]]} of {more[0]!r}, but the ticket to start from keeps only "
                    f"{there[more[0]]}; ask for less"
                )
            return counts
        if mask.density != 1.0 and self.density >= mask.density:
            raise TombolaError(
                f"density is {self.density}, but the search starts from a ticket that keeps {mask.density:.4g}; ask "
                "for less"
            )
        units = sum(pattern.units(kept.shape) for kept in mask.values())
        how = self.layers or "uniform"
        return in_proportion(shares(mask, pattern, how), there, round(self.density * units))
