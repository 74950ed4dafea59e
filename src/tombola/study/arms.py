"""The arms of a comparison: the ticket, the dense network, and the controls a ticket must beat."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.hold import hold
from tombola.levels.begin import retraining
from tombola.mask import Mask
from tombola.names import unknown
from tombola.nn.rewrite import apply_rewrites
from tombola.parameters import parameters_by_name
from tombola.rng.seeds import derive, generator
from tombola.runs.stage import Stage
from tombola.select.patterns import NM, parse_pattern
from tombola.select.select import select
from tombola.study.recorded import recorded_part
from tombola.ticket.redraw import redrawn
from tombola.ticket.ticket import Ticket
from tombola.train.dry_run import in_words, try_training
from tombola.train.trial import TrainingSetup, Trial, run_trial


@dataclass(frozen=True)
class PreparedArm:
    """A network to train: its module, the mask held on it (None: dense), and the step it begins at.

    `values`: what pruned weights are held at where that is not 0, by name, in the weight's shape.
    """

    model: nn.Module
    mask: Mask | None
    start: int
    values: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class VerificationSetup:
    """A ticket and what its arms are built with; `architecture` as in `Ticket.build(model=...)`.

    `retrain`: fields of the recipe that differ in all arms but the dense one, as they did in the ticket's search.
    """

    ticket: Ticket
    architecture: nn.Module | None = None
    trusted: tuple[str, ...] = ()
    retrain: Mapping[str, Any] = field(default_factory=dict)

    @property
    def start(self) -> int:
        """The step that the ticket's origin was taken at."""
        steps = self.ticket.provenance.get("rewound_steps", 0)
        return steps if type(steps) is int and 0 <= steps < 2**48 else 0

    @property
    def rewrites(self) -> tuple[Mapping[str, Any], ...]:
        """What every arm's network is rewritten with: its weights are trained as floats, which is not for binary
        layers, whose forward pass takes one magnitude per row."""
        return tuple(rewrite for rewrite in self.ticket.rewrites if rewrite.get("kind") != "binary-layers")

    def origin(self) -> nn.Module:
        """The dense network at the ticket's origin, without rewrites."""
        return self.ticket.origin.network_module(self.architecture, self.trusted)


def ticket_arm(subject: VerificationSetup, seed: int) -> PreparedArm:
    """The ticket from its origin, its pruned weights held as its search held them."""
    ticket = replace(subject.ticket, rewrites=subject.rewrites)
    model = ticket.build("origin", model=subject.architecture, trusted=subject.trusted)
    if ticket.pruned_rule == "train":
        return PreparedArm(model, None, subject.start)
    values = None if ticket.prunes_to_zero else _masked_weights(model, ticket.mask)
    return PreparedArm(model, ticket.mask, subject.start, values)


def dense_arm(subject: VerificationSetup, seed: int) -> PreparedArm:
    """All weights, from the same origin."""
    return PreparedArm(apply_rewrites(subject.origin(), subject.rewrites), None, subject.start)


def random_arm(subject: VerificationSetup, seed: int) -> PreparedArm:
    """A random mask of the same layer densities (and pattern), on fresh initial weights (Frankle & Carbin, app. F).

    Its pruned weights are held as the ticket's are: see `pruned_alike`.
    """
    return _on_fresh_weights(subject, random_mask(subject.ticket, seed), seed)


def reinit_arm(subject: VerificationSetup, seed: int) -> PreparedArm:
    """The ticket's mask on fresh initial weights, its pruned ones held as the ticket's are: see `pruned_alike`."""
    return _on_fresh_weights(subject, subject.ticket.mask, seed)


def _on_fresh_weights(subject: VerificationSetup, mask: Mask, seed: int) -> PreparedArm:
    model = apply_rewrites(fresh_network(subject, seed), subject.rewrites)
    values = pruned_alike(subject, mask, _masked_weights(model, mask), seed)
    if subject.ticket.pruned_rule != "train":
        return PreparedArm(model, mask, 0, values)
    weights = parameters_by_name(model)
    with torch.no_grad():
        for name, value in (values or {}).items():
            weights[name].copy_(value)
    return PreparedArm(model, None, 0)


def _masked_weights(model: nn.Module, mask: Mask) -> dict[str, Tensor]:
    weights = parameters_by_name(model)
    return {name: weights[name].detach().to("cpu", copy=True) for name in mask}


def pruned_alike(
    subject: VerificationSetup, mask: Mask, fresh: Mapping[str, Tensor], seed: int
) -> dict[str, Tensor] | None:
    """Weights of a control whose pruned ones are what the ticket's are: None where these are all 0.

    In every layer as many of the pruned ones as in the ticket before training are 0, at random positions; the others
    are frozen at their fresh values.
    """
    ticket = subject.ticket
    if ticket.prunes_to_zero:
        return None
    begun = replace(ticket, rewrites=()).build("origin", model=subject.architecture, trusted=subject.trusted)
    values = {}
    for name, weight in _masked_weights(begun, ticket.mask).items():
        zeros = int((weight[~ticket.mask[name]] == 0).sum())
        positions = (~mask[name].to("cpu")).flatten().nonzero().flatten()
        draw = generator(seed, "pruned-values", name)
        drawn = positions[torch.randperm(len(positions), generator=draw, device=draw.device)[:zeros]]
        value = fresh[name].flatten().clone()
        value[drawn] = 0
        values[name] = value.view_as(weight)
    return values


ARMS: Mapping[str, Callable[[VerificationSetup, int], PreparedArm]] = {
    "ticket": ticket_arm,
    "dense": dense_arm,
    "random": random_arm,
    "reinit": reinit_arm,
}
CONTROLS = ("random", "reinit")


def run_arm(
    setup: TrainingSetup, subject: VerificationSetup, name: str, *, seed: int, stage: Stage | None, label: str
) -> Trial:
    """Train and test one arm; draws of masks and weights, and the data order, derive from `seed`."""
    if name not in ARMS:
        raise TombolaError(unknown("arm", name, ARMS))
    arm = ARMS[name](subject, seed)
    return run_trial(
        setup if name == "dense" else retraining(setup, subject.retrain),
        arm.model,
        seed=derive(seed, "train"),
        label=label,
        mask=arm.mask,
        values=arm.values,
        start=arm.start,
        stage=stage,
    )


def try_arms(setup: TrainingSetup, subject: VerificationSetup, *, seed: int) -> None:
    """Make every arm, and train the ticket's for one step: TombolaError for what cannot work."""
    with in_words("the arms of the comparison cannot be made"):
        arm = {name: make(subject, seed) for name, make in ARMS.items()}["ticket"]
    with hold(arm.model, arm.mask, arm.values) if arm.mask is not None else nullcontext():
        try_training(retraining(setup, subject.retrain), arm.model, seed=seed)


def random_mask(ticket: Ticket, seed: int) -> Mask:
    """A mask drawn uniformly with as many units kept in every layer as the ticket keeps, in its pattern."""
    pattern = str(recorded_part(ticket, "method").get("pattern", "element"))
    return random_like(ticket.mask, pattern, seed, transposed_in(ticket))


def transposed_in(ticket: Ticket) -> list[str]:
    """The matrices that lie as (inputs, outputs), as far as the ticket says so."""
    turned = recorded_part(ticket, "method").get("transposed", ())
    return [str(name) for name in turned] if isinstance(turned, list | tuple) else []


def random_like(mask: Mask, pattern: str, seed: int, transposed: Collection[str] = ()) -> Mask:
    """A mask drawn uniformly with as many units of a pattern ("element", "2:4", ..) kept in every layer as `mask`.

    `transposed`: as of `select`.
    """
    parsed = parse_pattern(pattern)
    draw = generator(seed, "random-mask")
    scores = {
        name: torch.rand(kept.shape, generator=draw, dtype=torch.float32, device=draw.device)
        for name, kept in mask.items()
    }
    if isinstance(parsed, NM):
        return select(scores, pattern=parsed, transposed=transposed)
    upright = {name: kept.t() if name in transposed else kept for name, kept in mask.items()}
    counts = {name: int(parsed.whole(kept).sum()) for name, kept in upright.items()}
    return select(scores, counts=counts, pattern=parsed, transposed=transposed)


def fresh_network(subject: VerificationSetup, seed: int) -> nn.Module:
    """The network with new initial weights, without rewrites; see `redrawn`."""
    return redrawn(subject.ticket.origin, subject.ticket.mask, seed, subject.architecture, subject.trusted)
