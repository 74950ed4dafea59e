"""The parametrisation of one weight: latent weight, scores, mask -> effective weight, with its gradients."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from tombola.machine.compiling import compiling
from tombola.rng.seeds import derive
from tombola.select.topk import Near
from tombola.supermask import fused
from tombola.supermask.represent import Keep, Represent
from tombola.supermask.rules import MaskRule
from tombola.supermask.weights import WeightRule


class StaleMaskWarning(UserWarning):
    """A network trains under masks that do not follow their scores."""


@dataclass
class Watch:
    """Whether a model's user has been warned that its masks are not refreshed; shared by its supermasks."""

    warned: bool = False


class Supermask(nn.Module):
    """effective weight = represented(weight)·mask·scale, as `torch.nn.utils.parametrize` applies it.

    `scores`: a parameter in the weight's shape (float32 for weights in half precision). `mask`: a bool or int8 buffer,
    or one of floats for a soft rule, written by `refresh` alone. `scale`: a float buffer, refreshed with the mask;
    absent where it is 1. `draws`: how many masks a stochastic rule has drawn, a buffer, so that resumed runs draw on.
    `fused`: whether the products run in compiled loops, which changes no bit.
    """

    scores: nn.Parameter
    mask: Tensor
    scale: Tensor | None
    draws: Tensor
    _used: tuple[int, int] | None = None  # identity and version of the scores in the last forward pass of training
    _stepped: bool = False  # whether an optimiser has stepped on them since
    is_output: bool = False  # whether its rows are outputs of the network, such as classes

    def __init__(
        self,
        name: str,
        position: int,
        weight: Tensor,
        scores: Tensor,
        *,
        rule: MaskRule,
        weights: WeightRule,
        represent: Represent,
        seed: int,
        watch: Watch,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.name, self.position, self.seed, self.watch = name, position, seed, watch
        self.rule, self.weights, self.represent, self.fused = rule, weights, represent, fused
        self.was_trained = weight.requires_grad
        self.near = Near()
        self.scores = nn.Parameter(scores)
        mask = torch.ones_like(weight, dtype=rule.values)
        self.register_buffer("mask", mask)
        scale = represent.scale(weight.detach(), mask)
        self.register_buffer("scale", None if scale is None else scale.clone())
        if rule.stochastic:
            self.register_buffer("draws", torch.zeros((), dtype=torch.int64, device="cpu"))

    def forward(self, weight: Tensor) -> Tensor:
        """The effective weight, in the weight's shape and dtype."""
        if self.training and torch.is_grad_enabled() and not compiling():
            self._look()
        within = torch._C._are_functorch_transforms_active()
        product, fast = (_EffectiveMapped, False) if within else (_Effective, self.fused)
        out: Tensor = product.apply(  # type: ignore[no-untyped-call, unused-ignore]
            weight, self.scores, self.mask, self.scale, self.rule, self.weights, self.represent, fast
        )
        return out

    def refreshed(self) -> None:
        """The mask follows from the scores as they are."""
        self._used, self._stepped = None, False

    @property
    def stale(self) -> bool:
        """Whether the scores have moved since a forward pass of training under the mask as it stands."""
        scores, before = self.scores, self._used
        if before is None or type(scores) is not nn.Parameter or scores.is_inference() or before[0] != id(scores):
            return False
        return self._stepped or before[1] != scores._version

    def _look(self) -> None:
        """Warn, once a model, of scores that have changed since another forward pass under the same mask."""
        scores = self.scores
        if self.watch.warned or type(scores) is not nn.Parameter or not scores.requires_grad or scores.is_inference():
            return
        if self.stale:
            self.watch.warned = True
            warnings.warn(
                f"the scores of {self.name!r} have changed since the last forward pass, but its mask has not: call "
                "tombola.refresh(model) after every optimizer.step()",
                StaleMaskWarning,
                stacklevel=2,
            )
        self._used, self._stepped = (id(scores), scores._version), False
        _USED[id(scores)] = self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_used": None, "_stepped": False}  # a copy's scores count their versions anew

    def _load_from_state_dict(self, *args: Any, **more: Any) -> None:
        super()._load_from_state_dict(*args, **more)
        self.refreshed()  # mask and scores came together

    def rescale(self, weight: Tensor) -> None:
        """Bring the scale in keeping with weight and mask."""
        if self.scale is not None:
            scale = self.represent.scale(weight.detach(), self.mask, _keep(self.fused))
            assert scale is not None
            self.scale.copy_(scale)

    def uniform(self) -> Tensor:
        """The next draw from [0, 1), float32 in the scores' shape, from a generator of its own on their device."""
        self.draws += 1
        device = self.scores.device
        generator = torch.Generator(device).manual_seed(derive(self.seed, "mask", self.name, int(self.draws)))
        return torch.rand(self.scores.shape, generator=generator, dtype=torch.float32, device=device)


def say_stale(supermasks: Iterable[Supermask], what: str) -> None:
    """Warn if the scores of one have moved on from its mask. `what`: what the caller does about it."""
    old = next((supermask.name for supermask in supermasks if supermask.stale), None)
    if old is not None:
        warnings.warn(
            f"the scores of {old!r} have changed since the network was last trained, but its mask has not: {what}; "
            "call tombola.refresh(model) after every optimizer.step()",
            StaleMaskWarning,
            stacklevel=5,
        )


class _Effective(torch.autograd.Function):
    """The product forward; backward, the score's straight-through gradient and the weight's by its rule."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        scores: Tensor,
        mask: Tensor,
        scale: Tensor | None,
        rule: MaskRule,
        weights: WeightRule,
        represent: Represent,
        fused: bool,
    ) -> Tensor:
        ctx.save_for_backward(weight, scores, mask, scale)
        ctx.rule, ctx.weights, ctx.represent, ctx.fused = rule, weights, represent, fused
        out = _keep(fused)(represent.base(weight), mask).to(weight.dtype)  # a soft mask may be wider
        return out if scale is None else out.mul_(scale)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() and not compiling():  # somebody asks for a graph of this
            return _gradients_once(ctx, g)
        return _gradients(ctx, g)


class _EffectiveMapped(torch.autograd.Function):
    """The same within `torch.func`, which wants context and product apart, and takes no compiled loops.

    Not for all: torch.compile takes no function of this form.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        weight: Tensor,
        scores: Tensor,
        mask: Tensor,
        scale: Tensor | None,
        rule: MaskRule,
        weights: WeightRule,
        represent: Represent,
        fused: bool,
    ) -> Tensor:
        out = torch.mul(represent.base(weight), mask).to(weight.dtype)
        return out if scale is None else out * scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.rule, ctx.weights, ctx.represent, ctx.fused = inputs[4:]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, g)


def _keep(fast: bool) -> Keep:
    return fused.keep if fast else torch.mul


def _gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    weight, scores, mask, scale = ctx.saved_tensors
    rule: MaskRule = ctx.rule
    for_weight = for_scores = None
    if ctx.needs_input_grad[1]:
        a, b = ctx.represent.mask_gradient(g, weight, mask, scale)
        for_scores = (rule.score_gradient if ctx.fused else rule.gradient)(a, b, scores, mask)
    if ctx.needs_input_grad[0]:
        dense = ctx.represent.weight_gradient(g, weight, scale)
        for_weight = ctx.weights.gradient(dense, weight, mask)
    return for_weight, for_scores, None, None, None, None, None, None


# The compiled loops leave no graph: a second derivative is better refused than taken for zero. Only where one may
# follow, for the wrapper costs more than the gradient of a small layer.
_gradients_once = once_differentiable(_gradients)


_USED: WeakValueDictionary[int, Supermask] = WeakValueDictionary()
"""Supermasks in training, by the identity of their scores."""


def _note_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Fused optimisers change their parameters without a new version."""
    for group in optimizer.param_groups if _USED else ():
        for parameter in group["params"]:
            supermask = _USED.get(id(parameter))
            if supermask is not None and supermask._parameters.get("scores") is parameter:
                supermask._stepped = True


register_optimizer_step_post_hook(_note_step)
