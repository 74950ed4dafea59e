"""The masks of an attached model: refreshed from the scores once per step, made final, read off."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.mask import Mask
from tombola.supermask.layers import NOT_ATTACHED, MaskedLayer, layers, named_layers
from tombola.supermask.parametrization import Supermask, say_stale
from tombola.supermask.rules import MaskRule


@torch.no_grad()
@checked
def refresh(model: nn.Module, *, sample: bool = True) -> None:
    """Write all masks from the present scores: once after every optimiser step, never between forward and backward.

    Evaluation, compiled code and exports use the masks as they stand. One selection covers all layers where the
    scope is global. On equal scores all ranks get equal masks.

    Args:
        sample: False takes the likeliest mask of a stochastic rule (p > 0.5) instead of drawing one, of a soft one the
            mask of 0 and 1 that a ticket holds.

    Forgotten, that is a `StaleMaskWarning`, once a model: scores have moved between two forward passes in training
    mode under one mask. Compiled networks do not look.

    Raises:
        TombolaError: no supermasks are attached, or a score is NaN.
    """
    masked = list(layers(model))
    if not masked:
        raise TombolaError(NOT_ATTACHED)
    for rule, supermasks in _by_rule(masked).items():
        rule.write(supermasks, sample)
    for layer in masked:
        layer.supermask.rescale(layer.weight)
        layer.supermask.refreshed()


@torch.no_grad()
@checked
def finalize_masks(model: nn.Module) -> Callable[[], None]:
    """Make stochastic masks their p > 0.5 masks, soft ones 0 or 1, until what is returned is called: it undoes that.

    Scales follow. What is drawn next is not changed by it. All other masks stand as they are, which a rule that has
    moved on since the last refresh would not give.
    """
    drawn = [layer for layer in layers(model) if layer.supermask.rule.settles]
    before = [{name: b.clone() for name, b in layer.supermask.named_buffers()} for layer in drawn]
    for rule, supermasks in _by_rule(drawn).items():
        rule.write(supermasks, sample=False)
    for layer in drawn:
        layer.supermask.rescale(layer.weight)

    @torch.no_grad()
    def restore() -> None:
        for layer, buffers in zip(drawn, before, strict=True):
            for name, buffer in layer.supermask.named_buffers():
                buffer.copy_(buffers[name])

    return restore


@contextmanager
def final_masks(model: nn.Module) -> Iterator[None]:
    """Within it stochastic and soft masks are those that a ticket holds (p > 0.5): for evaluation.

        with final_masks(model):
            accuracy = evaluate(model)

    Training then goes on as if nothing had been. Other rules' masks are what they are anyway.
    """
    restore = finalize_masks(model)
    try:
        yield
    finally:
        restore()


def _by_rule(masked: Sequence[MaskedLayer]) -> dict[MaskRule, list[Supermask]]:
    by_rule: dict[MaskRule, list[Supermask]] = defaultdict(list)
    for layer in masked:
        by_rule[layer.supermask.rule].append(layer.supermask)
    return by_rule


def set_rule(model: nn.Module, rule: MaskRule) -> None:
    """From the next refresh on, masks follow another rule of the same kind (an annealed density, for instance)."""
    for layer in layers(model):
        layer.supermask.rule = rule


@checked
def read(model: nn.Module) -> Mask:
    """The masks as they stand, by the weights' own names, on the CPU: True where the effective weight is kept.

    Of a soft rule they are the masks of 0 and 1 that its scores give now. Without a refresh after the last step others
    are those from before it, which is a `StaleMaskWarning`.
    """
    warn_if_stale(model, "the mask read is the one from before")
    soft = any(layer.supermask.rule.soft for layer in layers(model))
    with final_masks(model) if soft else nullcontext():
        return Mask({layer.name: (layer.supermask.mask != 0).cpu() for layer in named_layers(model)})


def multipliers(model: nn.Module) -> dict[str, Tensor] | None:
    """The int8 masks of rules with more values than two, on the CPU; None for others."""
    values = {
        layer.name: layer.supermask.mask.detach().to("cpu", copy=True).contiguous()
        for layer in named_layers(model)
        if layer.supermask.rule.values is torch.int8
    }
    return values or None


def warn_if_stale(model: nn.Module, what: str) -> None:
    """Warn if the scores of a layer have moved on from its mask. `what`: what the caller does about it."""
    say_stale((layer.supermask for layer in layers(model)), what)
