"""Criteria: functions that give every prunable weight a score; the larger, the sooner kept.

Those of the weights alone are the mask criteria of Zhou et al. 2019, "Deconstructing Lottery Tickets" (w_i initial, w_f
final weight); those of gradients and inputs stand in `gradient_criteria.py`, those of the neural tangent kernel in
`kernel_criteria.py`. sign(0) is 0, a sign of its own: a weight
that starts at 0 and moves has changed it. Scores may be negative and -inf bars a weight, so pass `signed=True` to
`select` where the pattern has units of several weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.fields import described
from tombola.names import imported, is_import_path, unknown
from tombola.select.context import At, Context, Criterion, Gradient, Probe
from tombola.select.gradient_criteria import grad, grasp, snip, synflow, taylor, wanda
from tombola.select.kernel_criteria import ntk_sap, px

__all__ = ["CRITERIA", "At", "Context", "Criterion", "Gradient", "Probe", "criterion"]


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


# ---- of chance ----------------------------------------------------------------------------


def random(context: Context) -> dict[str, Tensor]:
    """Uniform draws from the context's generator, layer by layer in order: a control.

    In float64, since float32 draws tie among millions, and ties would favour low indices.
    """
    draw = context.draws()
    return {
        name: torch.rand(w.shape, generator=draw, dtype=torch.float64, device=draw.device).to(w.device)
        for name, w in context.final.items()
    }


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
                grasp,
                synflow,
                ntk_sap,
                px,
                taylor,
                wanda,
            )
        },
    }
)
"""Name -> criterion; "magnitude" is another name of "large_final"."""


def criterion(name: str | Criterion, also: Sequence[str] = ()) -> Criterion:
    """A criterion by short name or by import path (`package.module.function` or `package.module:function`).

    Args:
        name: or the function, which is given back.
        also: names that the caller takes besides, for the message.

    Raises:
        TombolaError: the name is unknown, or nothing that can be called lies at the path.
    """
    if not isinstance(name, str):
        return name
    if (short := name.replace("-", "_")) in CRITERIA:
        return CRITERIA[short]
    if not is_import_path(name):
        raise TombolaError(
            unknown("criterion", name, (*CRITERIA, *also), ", or an import path such as package.module.function")
        )
    found = imported("criterion", name)
    if not callable(found):
        raise TombolaError(f"criterion {name!r} is {described(found)}, not a function of a Context")
    function: Criterion = found
    return function
