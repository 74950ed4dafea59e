"""Edge-popup (Ramanujan et al. 2020): the best-scored random weights, none of which is ever trained.

`EdgePopup.definition` is the method (weights w, scores s, g = dL/d(effective weight)). The authors keep half of the
weights, signed Kaiming constants, and train the scores by SGD: lr 0.1, momentum 0.9, weight decay 1e-4, cosine, 100
epochs (the presets).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from tombola import levels
from tombola.errors import TombolaError
from tombola.methods.base import Definition, SupermaskMethod, fixed_density, is_nothing
from tombola.train.length import steps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.mask import Mask
    from tombola.supermask.rules import TopK
    from tombola.train.hooks import Hook


@dataclass(frozen=True)
class EdgePopup(SupermaskMethod):
    """Learn which of the random weights to keep; the weights stay as they were drawn.

    Networks by name are drawn as signed Kaiming constants unless init says otherwise; a model that is given
    live keeps its weights. Biases and norms stay at their start (0, and scale 1 with bias 0).

    Args:
        density: fraction of weights kept
        scope: layer (every layer holds the density) or global (the best scores over all layers)
        pattern: what is kept as one: element, block:V (V output rows), inputs:V (V inputs of a row), N:M such as
            2:4, or channel
        prune_outputs: let pattern channel remove rows of output layers too, which are classes
        scores: how scores are initialised: the name of an initialisation; torch_default is U(+-1/sqrt(fan_in))
        scale_fan: draw the weights for a fan of fan_in times density, so that sparse layers keep their variance
        anneal: length over which the density falls from 0.5 to its value, cubically, e.g. "10ep"; 0it for none
        whole: name patterns of weights that are kept whole, such as the first or last layer's
        train_norms: train scale and bias of norm layers along with the scores
        train: name patterns of unmasked parameters to train along with the scores, such as a new head's, e.g. ["fc.*"]
        frozen: fraction of every layer's mask that stays as it is drawn at random; a file does not hold it
        include: name patterns of further parameters to mask, e.g. ["*.bias"]
        exclude: name patterns of weights to leave alone, e.g. ["fc.*"]
    """

    name: ClassVar[str] = "edge-popup"
    version: ClassVar[int] = 1
    trains_scores_only: ClassVar[bool] = True

    density: float = 0.5
    scope: str = "layer"
    pattern: str = "element"
    prune_outputs: bool = False
    scores: str = "torch_default"
    scale_fan: bool = False
    anneal: str = "0it"
    whole: tuple[str, ...] = ()
    train_norms: bool = False
    train: tuple[str, ...] = ()
    frozen: float = 0.0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fall(self.anneal, self.density)
        if not 0 <= self.frozen < 1:
            raise TombolaError(f"frozen is {self.frozen}, but it must lie in [0, 1): the fraction that is not learned")
        if self.frozen and self.pattern != "element":
            raise TombolaError(f"frozen is {self.frozen}, which is of single weights, but pattern is {self.pattern}")
        if not is_nothing(self.anneal) and ":" in self.pattern.removeprefix("block:").removeprefix("inputs:"):
            raise TombolaError(f"anneal is {self.anneal}, but pattern {self.pattern} fixes the density; leave one out")

    def definition(self, w: Tensor, s: Tensor, g: Tensor, u: Tensor) -> Definition:
        """The weights of the largest |s| are kept; all scores learn, those of pruned weights too.

        (Over the layer; a global scope ranks all layers' scores together, a pattern ranks units by their mean |s|.)
        """
        mask = largest(s, self.density)
        return Definition(w * mask, g * w * s.sign())

    def init(self) -> str:
        """The initialisation of networks by name that are given none."""
        return "signed_constant"

    def init_args(self) -> Mapping[str, Any]:
        """What the initialisation is given."""
        return {"scale_fan": fixed_density(self.pattern, self.density)} if self.scale_fan else {}

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError if these settings cannot work on this network."""
        check_anneal(self.anneal, steps_per_epoch, total)
        if self.train_norms:
            levels.check_norms(network)
        super().check(network, steps_per_epoch, total, mask)

    def settles(self, steps_per_epoch: int, total: int) -> int:
        """When the density has fallen."""
        return steps(self.anneal, steps_per_epoch)

    def hooks(self, search: levels.Search) -> Sequence[Hook]:
        """Edge-popup has none but that by which the density falls."""
        return annealed(search, self.anneal, self._rule())

    def learning(self, network: nn.Module) -> levels.Learning:
        """These settings as axes of the parametrisation."""
        return levels.Learning(
            rule=self._rule(),
            scores=self.scores,
            include=self.include,
            exclude=self.exclude,
            rest="norms" if self.train_norms else "frozen",
            prune_outputs=self.prune_outputs,
            hooks=self.hooks,
            train=self.train,
            frozen=self.frozen,
        )

    def _rule(self) -> TopK:
        from tombola.supermask.rules import TopK

        return TopK(fixed_density(self.pattern, self.density), self.scope, self.pattern, self.whole)


def largest(s: Tensor, density: float) -> Tensor:
    """1 for the round(density·n) largest |s|, else 0; ties go to the lower flat index.

    Example:
        >>> import torch
        >>> largest(torch.tensor([0.1, -0.4, 0.3, -0.3]), 0.5)
        tensor([0., 1., 1., 0.])
    """
    order = s.abs().flatten().argsort(descending=True, stable=True)
    return s.new_zeros(s.numel()).index_fill(0, order[: round(density * s.numel())], 1.0).view_as(s)


def check_fall(anneal: str, density: float) -> None:
    """TombolaError if the density is to fall, from 0.5, to a value that does not lie below."""
    if not is_nothing(anneal) and density >= 0.5:
        raise TombolaError(f"anneal is {anneal}, but it falls from 0.5 and density is {density:g}")


def check_anneal(length: str, steps_per_epoch: int, total: int) -> None:
    """TombolaError if the density would not have fallen to its value when the training ends."""
    if steps(length, steps_per_epoch) > total:
        raise TombolaError(f"anneal is {length}, longer than the training of {total} iterations; make it shorter")


def annealed(search: levels.Search, length: str, rule: TopK) -> list[Hook]:
    """The hook that lets the density fall: d + (0.5 - d)(1 - t)^3 over `length` (Diffenderfer & Kailkhura 2021)."""

    over = steps(length, search.setup.steps_per_epoch)

    def at(step: int) -> TopK:
        left = max(0.0, 1.0 - step / over)
        return replace(rule, density=rule.density + (0.5 - rule.density) * left**3)

    return [levels.Anneal(at)] if over else []
