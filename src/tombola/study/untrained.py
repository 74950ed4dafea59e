"""A ticket as it stands, no weight trained, against random masks and other weights: the supermask's proof."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from tombola.data.splits import Splits
from tombola.formats import Unit
from tombola.mask import Mask
from tombola.nn.forward import typed
from tombola.rng.seeds import derive, generator
from tombola.study.arms import Contest, fresh_network, random_mask
from tombola.study.statistics import interval
from tombola.supermask.represent import Binary
from tombola.ticket.origin import Origin
from tombola.ticket.ticket import Ticket
from tombola.train.feeds import layout, training_feed
from tombola.train.recipe import Recipe
from tombola.train.trial import Bench

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_BATCHES = 100
"""Training batches over which a control's norms take their statistics."""


def is_untrained(ticket: Ticket) -> bool:
    """Whether the ticket's masked weights are those of its origin."""
    return ticket.trained is None and ticket.density < 1.0


def untrained(
    contest: Contest, splits: Splits, recipe: Recipe, fabric: Fabric, *, seed: int, replicates: int
) -> dict[str, Any]:
    """Test metric of the ticket as it stands, of random masks on its weights, and of its mask on fresh weights.

    Random masks hold the ticket's layer densities and pattern (signed and multicoat ones are shuffled within each
    layer), and rivals of a binary ticket have their own α. Norm layers of the controls take their statistics anew
    from training batches. JSON-able.
    """
    ticket = contest.ticket
    bench = Bench(splits, recipe, fabric)
    found: dict[str, Any] = {"test_accuracy": _score(contest, ticket, bench)}
    for arm in ("random", "reinit"):
        values = []
        for index in range(replicates):
            rival = _RIVALS[arm](contest, derive(seed, "untrained", arm, index))
            values.append(_score(contest, rival, bench, derive(seed, "order", arm, index)))
        bounds = interval(values)
        found[arm] = {
            "test_accuracy": values,
            "mean": sum(values) / len(values),
            "interval": list(bounds) if bounds else None,
        }
    return found


def untrained_sentence(found: Mapping[str, Any], metric: str) -> str:
    """What was found, in words."""
    show, random, reinit = Unit(metric).show, found["random"], found["reinit"]
    return (
        f"As it stands, no weight trained, it reaches {show(found['test_accuracy'])}; random masks of its layer "
        f"densities {show(random['mean'])}, its mask on other weights {show(reinit['mean'])}."
    )


def _shuffled(contest: Contest, seed: int) -> Ticket:
    ticket = contest.ticket
    if ticket.multiplier is None:
        return _in_keeping(contest, replace(ticket, mask=random_mask(ticket, seed)))
    draw = generator(seed, "random-mask")
    multiplier = {name: _permuted(values, draw) for name, values in ticket.multiplier.items()}
    return replace(ticket, multiplier=multiplier, mask=Mask({name: m != 0 for name, m in multiplier.items()}))


def _permuted(values: Tensor, draw: torch.Generator) -> Tensor:
    return values.flatten()[torch.randperm(values.numel(), generator=draw)].view_as(values)


def _on_fresh_weights(contest: Contest, seed: int) -> Ticket:
    ticket = contest.ticket
    origin = Origin.stored(fresh_network(contest, seed), network=ticket.origin.network)
    return _in_keeping(contest, replace(ticket, origin=origin))


def _in_keeping(contest: Contest, rival: Ticket) -> Ticket:
    """The rival with its own α: the mean of |w| over what it keeps, where the ticket is binary."""
    found = rival.representation
    if found.kind != "binary":
        return rival
    weights = rival.origin.state_dict(contest.architecture, contest.trusted)
    scales = {name: _alpha(weights[name], rival.mask[name], scale) for name, scale in found.scales.items()}
    return replace(rival, representation=replace(found, scales=scales))


def _alpha(weight: Tensor, mask: Tensor, like: Tensor) -> Tensor:
    alpha = Binary(per_channel=like.dim() > 0).scale(weight, mask)
    assert alpha is not None
    return alpha


_RIVALS = {"random": _shuffled, "reinit": _on_fresh_weights}


def _score(
    contest: Contest,
    ticket: Ticket,
    bench: Bench,
    seed: int | None = None,
) -> float:
    """Test metric of the built ticket; with a seed (of the data order), norm statistics are taken anew first."""
    assert bench.splits.test is not None
    model = ticket.build("final", model=contest.architecture, trusted=contest.trusted).to(bench.fabric.device)
    if layout(model, bench.recipe):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if seed is not None:
        _settle_norms(model, bench, seed)
    return bench.scorer(model, bench.splits.test)().metric


@torch.no_grad()
def _settle_norms(model: nn.Module, bench: Bench, seed: int) -> None:
    norms = [module for module in model.modules() if isinstance(module, _NormBase) and module.track_running_stats]
    if not norms:
        return
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
    model.train()
    with torch.random.fork_rng(devices=[]):  # dropout draws
        torch.manual_seed(derive(seed, "dropout"))
        feed = training_feed(bench.splits, bench.recipe, bench.fabric.device, layout(model, bench.recipe))
        for (x, _), _ in zip(typed(feed.epoch(seed, 0), model), range(_BATCHES), strict=False):
            model(x)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
