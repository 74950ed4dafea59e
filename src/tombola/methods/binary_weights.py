"""Weight-trained binary networks, the baseline of multi-prize tickets (XNOR-Net, Rastegari et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tombola.fields import check_fields
from tombola.methods.binarised import ACTIVATIONS, binary_form, binary_rewrites
from tombola.methods.checks import check_choice

if TYPE_CHECKING:
    from torch import nn

    from tombola.levels.learn import Learning
    from tombola.levels.search import Level, Search
    from tombola.mask import Mask
    from tombola.models.spec import ModelSpec


@dataclass(frozen=True)
class BinaryWeights:
    """Train latent weights that count by their sign, times the mean of their sizes; nothing is pruned.

    The gradient passes straight through the sign where |w| <= 1 and is 0 elsewhere. Norms and biases are trained.

    Args:
        activations: float or binary
        per_channel: one scale per output channel instead of one per layer
        include: name patterns of further parameters to binarise
        exclude: name patterns of weights that stay float, e.g. ["conv1.*", "fc.*"]
    """

    name: ClassVar[str] = "binary-weights"
    version: ClassVar[int] = 1

    activations: str = "float"
    per_channel: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "include", tuple(self.include))
        object.__setattr__(self, "exclude", tuple(self.exclude))
        check_choice("activations", self.activations, ACTIVATIONS)

    def network(self, spec: ModelSpec) -> ModelSpec:
        """One of Tombola's own networks in the form that is needed."""
        return binary_form(spec, self.activations, affine=True)

    def find(self, search: Search) -> list[Level]:
        """Run the search: one level, at density 1."""
        from tombola.levels.learn import learn_mask

        return [learn_mask(search, self.learning(search.network()))]

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError if these settings cannot work on this network."""
        from tombola.levels.learn import check_learning

        check_learning(network, self.learning(network), mask)

    def dry_run(self, search: Search) -> None:
        """One step of everything on copies; TombolaError for what cannot work."""
        from tombola.levels.learn import dry_run

        dry_run(search, self.learning(search.network()))

    def learning(self, network: nn.Module) -> Learning:
        """These settings as axes of the parametrisation: a mask that keeps everything, whose scores rest."""
        from tombola.levels.hooks import Phases
        from tombola.levels.learn import Learning
        from tombola.supermask.represent import Binary
        from tombola.supermask.rules import TopK
        from tombola.supermask.weights import Masked

        return Learning(
            rule=TopK(1.0),
            weights=Masked(),
            represent=Binary(self.per_channel),
            include=self.include,
            exclude=self.exclude,
            hooks=lambda search: [Phases(lambda step: (False, True))],
            rewrites=binary_rewrites(network, self.activations, self.include, self.exclude),
        )
