"""Criteria: functions that give every prunable weight a score; the larger, the sooner kept.

Most are the mask criteria of Zhou et al. 2019, "Deconstructing Lottery Tickets" (w_i initial, w_f final
weight); snip is Lee et al. 2019. sign(0) is 0, a sign of its own: a weight that starts at 0 and moves has changed
it. Scores may be negative and -inf bars a weight, so pass `signed=True` to
`select` where the pattern has units of several weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.fields import described
from tombola.mask import Mask
from tombola.names import imported, is_import_path, unknown

__all__ = ["CRITERIA", "At", "Context", "Criterion", "Gradient", "Probe", "criterion"]

At: TypeAlias = Literal["initial", "final"]
"""Where something is taken: at the weights of the start, or as they are now; both under the mask so far."""
Gradient = Mapping[str, Tensor] | Callable[[], Mapping[str, Tensor]]


class Probe(Protocol):
    """Works out what a criterion asks for: on fresh copies of the network, over the first batches of the training."""

    def network(self, at: At) -> nn.Module:
        """A copy of the network, the criterion's own."""

    def batches(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """The batches (x, y) themselves."""

    def loss(self, at: At, batches: int) -> float:
        """The mean training loss."""

    def gradient(self, at: At, batches: int) -> Mapping[str, Tensor]:
        """Of that loss by the weights."""

    def hessian_gradient(self, at: At, batches: int) -> Mapping[str, Tensor]:
        """The loss's Hessian times its gradient."""

    def input_norms(self, at: At, batches: int) -> Mapping[str, Tensor]:
        """The norm of every feature that the layer of a weight takes in, in a shape that broadcasts to the weight's."""


@dataclass(frozen=True)
class Context:
    """What a criterion may look at. All mappings: layer name -> tensor in the weight's shape.

    Only what is asked for is worked out: Zhou et al. take `initial` and `final`, SNIP `gradients()`, GraSP
    `hessian_gradients()`, SynFlow `network("initial")`, Taylor pruning `gradients("final")`, Wanda `input_norms()`.

    Attributes:
        initial: the weights at step 0, also where levels rewind to a later step.
        final: the trained weights; those at step 0 where nothing is trained yet.
        gradient: of the loss by the weights at the start, or a function that works it out when a criterion asks.
        generator: for criteria that draw.
        mask: what is kept so far; criteria that rank leave the rest out.
        probe: works out everything else; a search has one.
    """

    initial: Mapping[str, Tensor]
    final: Mapping[str, Tensor]
    gradient: Gradient | None = None
    generator: torch.Generator | None = None
    mask: Mask | None = None
    probe: Probe | None = None

    def gradients(self, at: At = "initial", batches: int = 1) -> Mapping[str, Tensor]:
        """The training loss's gradient at the masked weights, the mean over the first batches of the training.

        Raises:
            TombolaError: there is none.
        """
        if self.gradient is not None and (at, batches) == ("initial", 1):
            return self.gradient() if callable(self.gradient) else self.gradient
        return self._asked().gradient(at, batches)

    def loss(self, at: At = "initial", batches: int = 1) -> float:
        """The mean training loss over the first batches, at the masked weights."""
        return self._asked().loss(at, batches)

    def hessian_gradients(self, at: At = "initial", batches: int = 1) -> Mapping[str, Tensor]:
        """H·g of that loss (GraSP, Wang et al. 2020, keeps the largest w·Hg): the gradient of |g|²/2.

        The paper divides the outputs by 200 first; to do so, work it out of `network()` and `batches()`.
        """
        return self._asked().hessian_gradient(at, batches)

    def input_norms(self, at: At = "final", batches: int = 1) -> Mapping[str, Tensor]:
        """Layer name -> norm of every input feature over the first batches, in a shape that broadcasts to the weight's.

        In evaluation mode; over examples and positions of an image alike (Wanda, Sun et al. 2024).
        """
        return self._asked().input_norms(at, batches)

    def network(self, at: At = "initial") -> nn.Module:
        """A copy of the network at the masked weights, in training mode, to do anything with (SynFlow)."""
        return self._asked().network(at)

    def batches(self, count: int = 1) -> list[tuple[Tensor, Tensor]]:
        """The first batches (x, y) of the training, on the CPU."""
        return self._asked().batches(count)

    def _asked(self) -> Probe:
        if self.probe is None:
            raise TombolaError("this criterion needs gradients and there are none; use one of weights, e.g. magnitude")
        return self.probe


Criterion = Callable[[Context], dict[str, Tensor]]


# ---- of the weights ----------------------------------------------------------------------------------------


def _each(context: Context, score: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
    """score(w_i, w_f) for every layer, on the final weights' device."""
    with torch.no_grad():
        return {
            name: score(context.initial[name].detach().to(final.device), final.detach())
            for name, final in context.final.items()
        }


def large_final(context: Context) -> dict[str, Tensor]:
    """|w_f|: magnitude pruning (Frankle & Carbin 2019)."""
    return _each(context, lambda w_i, w_f: w_f.abs())


def small_final(context: Context) -> dict[str, Tensor]:
    """-|w_f|: a control."""
    return _each(context, lambda w_i, w_f: -w_f.abs())


def large_init(context: Context) -> dict[str, Tensor]:
    """|w_i|."""
    return _each(context, lambda w_i, w_f: w_i.abs())


def small_init(context: Context) -> dict[str, Tensor]:
    """-|w_i|: a control."""
    return _each(context, lambda w_i, w_f: -w_i.abs())


def magnitude_increase(context: Context) -> dict[str, Tensor]:
    """|w_f| - |w_i|."""
    return _each(context, lambda w_i, w_f: w_f.abs() - w_i.abs())


def movement(context: Context) -> dict[str, Tensor]:
    """|w_f - w_i|."""
    return _each(context, lambda w_i, w_f: (w_f - w_i).abs())


def large_final_same_sign(context: Context) -> dict[str, Tensor]:
    """|w_f|; weights whose sign changed are barred."""
    return _each(context, lambda w_i, w_f: _bar(w_f.abs(), w_i.sign() == w_f.sign()))


def large_final_diff_sign(context: Context) -> dict[str, Tensor]:
    """|w_f|; weights whose sign stayed are barred: a control."""
    return _each(context, lambda w_i, w_f: _bar(w_f.abs(), w_i.sign() != w_f.sign()))


def magnitude_increase_same_sign(context: Context) -> dict[str, Tensor]:
    """|w_f| - |w_i|; weights whose sign changed are barred (0 would rank them above shrunken ones)."""
    return _each(context, lambda w_i, w_f: _bar(w_f.abs() - w_i.abs(), w_i.sign() == w_f.sign()))


def magnitude_increase_diff_sign(context: Context) -> dict[str, Tensor]:
    """|w_f| - |w_i|; weights whose sign stayed are barred: a control."""
    return _each(context, lambda w_i, w_f: _bar(w_f.abs() - w_i.abs(), w_i.sign() != w_f.sign()))


def _bar(score: Tensor, keep: Tensor) -> Tensor:
    return score.masked_fill(~keep, -torch.inf)


# ---- of ranks ----------------------------------------------------------------------------------------------


def large_init_large_final(context: Context) -> dict[str, Tensor]:
    """min(rank |w_i|, rank |w_f|), ranks being quantiles 0..1 within the layer: large at both ends of
    training.

    The same order as cutting both axes at one common quantile. Weights pruned already are left out and
    barred.
    """
    return _ranked(context, lambda w: w.abs())


def small_init_small_final(context: Context) -> dict[str, Tensor]:
    """min(rank -|w_i|, rank -|w_f|): a control; see `large_init_large_final`."""
    return _ranked(context, lambda w: -w.abs())


def _ranked(context: Context, size: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    scores = {}
    for name, final in context.final.items():
        w_f = final.detach()
        w_i = context.initial[name].detach().to(w_f.device)
        alive = torch.ones_like(w_f, dtype=torch.bool) if context.mask is None else context.mask[name].to(w_f.device)
        ranks = torch.minimum(_quantile_rank(size(w_i[alive])), _quantile_rank(size(w_f[alive])))
        scores[name] = torch.full_like(w_f, -torch.inf, dtype=torch.float64).masked_scatter_(alive, ranks)
    return scores


def _quantile_rank(values: Tensor) -> Tensor:
    """Share of the (flat) values that are smaller, float64; ties share a rank."""
    smaller = torch.searchsorted(torch.sort(values).values, values.contiguous())
    return smaller.double() / max(values.numel(), 1)


# ---- of chance and of gradients ----------------------------------------------------------------------------


def random(context: Context) -> dict[str, Tensor]:
    """Uniform draws from the context's generator, layer by layer in order: a control.

    In float64, since float32 draws tie among millions, and ties would favour low indices.
    """
    draw = context.generator
    if draw is None:
        raise TombolaError("criterion 'random' needs a generator; give the context one, e.g. torch.Generator()")
    return {
        name: torch.rand(w.shape, generator=draw, dtype=torch.float64, device=draw.device).to(w.device)
        for name, w in context.final.items()
    }


def snip(context: Context) -> dict[str, Tensor]:
    """|g * w_i|: how much the loss depends on a weight's presence (Lee et al. 2019); g taken at w_i."""
    gradients = context.gradients()
    return _each(
        Context(context.initial, {name: gradients[name] for name in context.final}),
        lambda w_i, g: (g * w_i).abs(),
    )


def grad(context: Context) -> dict[str, Tensor]:
    """|g|."""
    gradients = context.gradients()
    return {name: gradients[name].detach().abs() for name in context.final}


# ---- by name -----------------------------------------------------------------------------------------------

CRITERIA: Mapping[str, Criterion] = MappingProxyType(
    {
        "magnitude": large_final,
        **{
            function.__name__: function
            for function in (
                large_final,
                small_final,
                large_init,
                small_init,
                magnitude_increase,
                movement,
                large_init_large_final,
                small_init_small_final,
                random,
                large_final_same_sign,
                large_final_diff_sign,
                magnitude_increase_same_sign,
                magnitude_increase_diff_sign,
                snip,
                grad,
            )
        },
    }
)
"""Name -> criterion; "magnitude" is another name of "large_final"."""


def criterion(name: str | Criterion) -> Criterion:
    """A criterion by short name or by import path (`package.module.function` or `package.module:function`).

    Raises:
        TombolaError: the name is unknown, or nothing that can be called lies at the path.
    """
    if not isinstance(name, str):
        return name
    if name in CRITERIA:
        return CRITERIA[name]
    if not is_import_path(name):
        raise TombolaError(unknown("criterion", name, CRITERIA, ", or an import path such as package.module.function"))
    found = imported("criterion", name)
    if not callable(found):
        raise TombolaError(f"criterion {name!r} is {described(found)}, not a function of a Context")
    function: Criterion = found
    return function
