"""Actions: what kept weights begin a level with, and at what value pruned ones rest (Zhou et al. 2019).

"Deconstructing Lottery Tickets" calls them mask-1 and mask-0 actions. Both are functions of one layer; w is a weight at
the rewind point (w_i in the paper, where that is the initialisation), w_f the trained weight that the mask is drawn
from. A weight moved toward zero where |w_f| < |w|. Signs of w_f on other sizes: Oh, Baik & Lee 2025, "Find A Winning
Sign".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.fields import described
from tombola.names import imported, is_import_path, unknown

__all__ = ["KEPT_ACTIONS", "PRUNED_ACTIONS", "KeptAction", "Layer", "PrunedAction", "kept_action", "pruned_action"]


@dataclass(frozen=True)
class Layer:
    """A layer as a level begins. All tensors have the weight's shape and lie on the CPU.

    Attributes:
        w: the weights at the rewind point.
        w_f: the trained weights that the mask is drawn from.
        kept: bool, what the level's mask keeps.
        pruned: bool, what it prunes of what was kept so far; what was pruned before has its value already.
        generator: for actions that draw.
    """

    w: Tensor
    w_f: Tensor
    kept: Tensor
    pruned: Tensor
    generator: torch.Generator


KeptAction = Callable[[Layer], Tensor]
"""Gives values in the weight's shape, which are read where the mask keeps."""


def _as_they_are(layer: Layer, values: Tensor) -> Tensor:
    return values


@dataclass(frozen=True)
class PrunedAction:
    """What becomes of the weights that a level prunes.

    Attributes:
        value: gives values in the weight's shape, read at `Layer.pruned`; they are held there from this level on.
        begin: changes what the kept weights begin with, which it is given after the layer.
        trains: pruned weights are not held; they begin every level at their value and are trained.
    """

    value: Callable[[Layer], Tensor]
    begin: Callable[[Layer, Tensor], Tensor] = _as_they_are
    trains: bool = False


# ---- kept weights ------------------------------------------------------------------------------------------


def _permuted(values: Tensor, generator: torch.Generator) -> Tensor:
    """The values in another order, uniformly drawn."""
    order = torch.randperm(values.numel(), generator=generator, device=generator.device)
    return values.flatten()[order].view_as(values)


def rewind(layer: Layer) -> Tensor:
    """w: Frankle & Carbin 2019."""
    return layer.w


def reinit(layer: Layer) -> Tensor:
    """The layer's w permuted over all its positions: a new draw of the same values."""
    return _permuted(layer.w, layer.generator)


def reshuffle(layer: Layer) -> Tensor:
    """The w of the kept weights permuted among the kept positions."""
    values = layer.w.clone()
    values[layer.kept] = _permuted(layer.w[layer.kept], layer.generator)
    return values


def deviation(w: Tensor) -> Tensor:
    """The standard deviation of a layer's weights, of all of them as they are (correction 0)."""
    return w.double().std(correction=0).to(w.dtype)


def constant(layer: Layer) -> Tensor:
    """sign(w)·std(w), permuted over all positions of the layer: one size, signs of chance in w's proportion."""
    return _permuted(layer.w.sign() * deviation(layer.w), layer.generator)


def constant_same_sign(layer: Layer) -> Tensor:
    """sign(w)·std(w): one size, every weight with its own sign."""
    return layer.w.sign() * deviation(layer.w)


def _same_sign(action: KeptAction, layer: Layer) -> Tensor:
    """The size of what the action gives, with the sign of w."""
    return action(layer).abs() * layer.w.sign()


def with_signs(values: Tensor, signs: Tensor) -> Tensor:
    """The sizes of `values` with the signs of `signs`; where that is 0, which has no sign, the values' own.

    Sizes of 0 stay 0. Tensors of one shape; in the dtype of `values`.
    """
    return torch.where(signs == 0, values, values.abs() * signs.sign().to(values.dtype))


def _trained_sign(action: KeptAction, layer: Layer) -> Tensor:
    """The size of what the action gives, with the sign of w_f (its own where w_f is 0)."""
    return with_signs(action(layer), layer.w_f)


def _rescaled(action: KeptAction, layer: Layer) -> Tensor:
    """What the action gives, times the layer's size over the number of weights kept in it."""
    return action(layer) * (layer.kept.numel() / max(1, int(layer.kept.sum())))


_PLAIN: Mapping[str, KeptAction] = {
    "rewind": rewind,
    "reinit": reinit,
    "reinit_same_sign": partial(_same_sign, reinit),
    "reshuffle": reshuffle,
    "reshuffle_same_sign": partial(_same_sign, reshuffle),
    "constant": constant,
    "constant_same_sign": constant_same_sign,
    "rewind_trained_sign": partial(_trained_sign, rewind),
    "reinit_trained_sign": partial(_trained_sign, reinit),
    "reshuffle_trained_sign": partial(_trained_sign, reshuffle),
    "constant_trained_sign": partial(_trained_sign, constant_same_sign),
}
KEPT_ACTIONS: Mapping[str, KeptAction] = MappingProxyType(
    {**_PLAIN, **{f"{name}_rescaled": partial(_rescaled, action) for name, action in _PLAIN.items()}}
)
"""Name -> what kept weights begin with."""


# ---- pruned weights ----------------------------------------------------------------------------------------


def toward_zero(layer: Layer) -> Tensor:
    """|w_f| < |w|, bool."""
    return layer.w_f.abs() < layer.w.abs()


def zero(layer: Layer) -> Tensor:
    """0."""
    return torch.zeros_like(layer.w)


def freeze(layer: Layer) -> Tensor:
    """w."""
    return layer.w


def zero_or_freeze(layer: Layer) -> Tensor:
    """0 where the weight moved toward zero, else w (the paper's variant 1)."""
    return layer.w.masked_fill(toward_zero(layer), 0)


def zero_or_freeze_reshuffled(layer: Layer) -> Tensor:
    """As many zeros as `zero_or_freeze` sets, at random positions among the pruned: a control."""
    count = int((toward_zero(layer) & layer.pruned).sum())
    positions = layer.pruned.flatten().nonzero().flatten()
    values = layer.w.flatten().clone()
    values[_permuted(positions, layer.generator)[:count]] = 0
    return values.view_as(layer.w)


def zero_or_freeze_reversed(layer: Layer) -> Tensor:
    """0 where the weight moved away from zero (|w_f| > |w|), else w: a control."""
    return layer.w.masked_fill(layer.w_f.abs() > layer.w.abs(), 0)


def _zero_toward_zero(layer: Layer, values: Tensor) -> Tensor:
    return values.masked_fill(toward_zero(layer), 0)


PRUNED_ACTIONS: Mapping[str, PrunedAction] = MappingProxyType(
    {
        "zero": PrunedAction(zero),
        "freeze": PrunedAction(freeze),
        "freeze_reinit": PrunedAction(reinit),
        "zero_or_freeze": PrunedAction(zero_or_freeze),
        "zero_or_freeze_all": PrunedAction(zero_or_freeze, begin=_zero_toward_zero),
        "zero_or_freeze_reshuffled": PrunedAction(zero_or_freeze_reshuffled),
        "zero_or_freeze_reversed": PrunedAction(zero_or_freeze_reversed),
        "train": PrunedAction(zero, trains=True),
    }
)
"""Name -> what becomes of pruned weights. `zero_or_freeze_all` (the paper's variant 2) lets kept weights that moved
toward zero begin at 0 as well; under `train` the mask only says which weights begin at 0."""


# ---- by name -----------------------------------------------------------------------------------------------


def kept_action(name: str | KeptAction) -> KeptAction:
    """A kept action by short name or by import path.

    Raises:
        TombolaError: the name is unknown, or no function of a `Layer` lies at the path.
    """
    return name if callable(name) else KEPT_ACTIONS.get(name) or _foreign("kept_action", name, KEPT_ACTIONS)


def pruned_action(name: str | PrunedAction) -> PrunedAction:
    """A pruned action by short name, or by the import path of a function of a `Layer` or of a `PrunedAction`.

    Raises:
        TombolaError: the name is unknown, or neither lies at the path.
    """
    if isinstance(name, PrunedAction):
        return name
    if name in PRUNED_ACTIONS:
        return PRUNED_ACTIONS[name]
    found = _foreign("pruned_action", name, PRUNED_ACTIONS)
    return found if isinstance(found, PrunedAction) else PrunedAction(found)


def _foreign(what: str, name: str, known: Mapping[str, object]) -> KeptAction:
    if not is_import_path(name):
        raise TombolaError(unknown(what, name, known, ", or an import path such as package.module.function"))
    found: KeptAction = imported(what, name)
    if not callable(found) and not isinstance(found, PrunedAction):
        raise TombolaError(f"{what} {name!r} is {described(found)}, not a function of a Layer")
    return found
