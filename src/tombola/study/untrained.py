"""A ticket as it stands, no weight trained, against random masks and other weights: the supermask's proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola.formats import Unit
from tombola.mask import Mask
from tombola.results.crossed import Sample, crossed_difference, crossed_mean
from tombola.results.statistics import (
    FEWEST_REPLICATES,
    Adjusted,
    Difference,
    holm,
    interval,
    paired_difference,
    within,
)
from tombola.results.verification import BoundAlone, SeedsAlone, UntrainedArm, UntrainedClaim, UntrainedResult
from tombola.rng.seeds import derive, generator
from tombola.study.arms import VerificationSetup, fresh_network, random_mask
from tombola.supermask.represent import Binary
from tombola.ticket.origin import Origin
from tombola.ticket.ticket import Ticket
from tombola.train.evaluate import Score
from tombola.train.feeds import layout
from tombola.train.norms import renew_norm_statistics
from tombola.train.trial import TrainingSetup


def is_untrained(ticket: Ticket) -> bool:
    """Whether the ticket's masked weights are those of its origin."""
    trained = ticket.trained is not None or (ticket.pruned_rule == "train" and ticket.pruned_values is not None)
    return not trained and ticket.density < 1.0


def untrained(subject: VerificationSetup, setup: TrainingSetup, *, seed: int, replicates: int) -> UntrainedResult:
    """Test metric of the ticket as it stands, of random masks on its weights, and of its mask on fresh weights.

    Random masks hold the ticket's layer densities and pattern (signed and multicoat ones are shuffled within each
    layer), and controls of a binary ticket have their own α. Norm layers of the controls take their statistics anew
    from training batches. `comparisons` are of this one network with each control, over the control's draws
    and the test examples where their results are known one by one, else over the draws alone; above 0 it is better.
    """
    ticket, task = subject.ticket, setup.splits.task
    own, share = _score(subject, ticket, setup), Unit(task.metric_name).percent
    arms: dict[str, UntrainedArm] = {}
    compared: dict[str, _Compared] = {}
    for arm in ("random", "reinit"):
        scores = []
        for index in range(replicates):
            control = _CONTROLS[arm](subject, derive(seed, "untrained", arm, index))
            scores.append(_score(subject, control, setup, derive(seed, "order", arm, index)))
        values = [score.metric for score in scores]
        alone, outcomes = interval(values), _outcomes(scores)
        alone = within(alone, (0.0, 1.0)) if alone and share else alone
        bounds = crossed_mean(Sample.of(outcomes)).interval if outcomes is not None and alone else alone
        arms[arm] = UntrainedArm(
            test_accuracy=tuple(values),
            mean=fmean(values),
            interval=bounds,
            covers=DRAWS if outcomes is None else DRAWS_AND_EXAMPLES,
            seeds_alone=SeedsAlone(interval=alone),
        )
        compared[arm] = _compare(own, scores, 1 if task.higher_is_better else -1, share)
    known = {name: 1.0 if part.p_value is None else part.p_value for name, part in compared.items()}
    steps = holm(known)
    claims = {name: part.result(steps[name]) for name, part in compared.items()}
    return UntrainedResult(test_accuracy=own.metric, random=arms["random"], reinit=arms["reinit"], comparisons=claims)


DRAWS, DRAWS_AND_EXAMPLES = "draws of the control alone", "draws of the control and test examples"


@dataclass(frozen=True)
class _Compared:
    """The ticket's network minus the mean of a control: over draws and examples where that can be, and over draws."""

    estimate: Difference
    draws_alone: Difference

    @property
    def p_value(self) -> float | None:
        """One-sided; None of too few draws, as in a verdict."""
        few = not self.draws_alone.arms or self.draws_alone.arms[0].replicates < FEWEST_REPLICATES
        return None if few else self.estimate.p_value(0.0)

    def result(self, step: Adjusted) -> UntrainedClaim:
        """The claim, one of several that are tested together."""
        return UntrainedClaim(
            difference=self.estimate.difference,
            lower=self.estimate.lower,
            interval=self.estimate.interval,
            covers=DRAWS if self.estimate.test_examples is None else DRAWS_AND_EXAMPLES,
            seeds_alone=BoundAlone(lower=self.draws_alone.lower, interval=self.draws_alone.interval),
            p=self.p_value,
            p_holm=None if self.p_value is None else step.p_value,
            lower_holm=self.estimate.bound(step.error_rate),
        )


def _compare(own: Score, control: Sequence[Score], sign: int, share: bool = False) -> _Compared:
    """`sign`: -1 turns the difference round, of a metric that is better when lower. `share` as in `verdict.compare`."""
    values = [sign * (own.metric - score.metric) for score in control]
    draws = paired_difference(values, [0.0] * len(values))
    if share:
        draws = replace(draws, limits=(-1.0, 1.0))
    outcomes = _outcomes(control)
    if outcomes is None or own.values is None or len(control) < 2:
        return _Compared(draws, draws)
    pair = (Sample.of(own.values.numpy()[None]), Sample.of(outcomes))
    estimate = crossed_difference(*pair) if sign > 0 else crossed_difference(*reversed(pair))
    estimate = replace(estimate, difference=draws.difference)
    return _Compared(replace(estimate, limits=draws.limits) if share else estimate, draws)


def _outcomes(scores: Sequence[Score]) -> NDArray[np.float32] | None:
    """(networks, examples); None where the metric is not known example by example."""
    known = [score.values.numpy() for score in scores if score.values is not None]
    return np.stack(known) if len(known) == len(scores) and np.isfinite(known).all() else None


def untrained_sentence(result: UntrainedResult, metric: str) -> str:
    """The result in words."""
    unit = Unit(metric)
    text = f"As it stands, no weight trained, it reaches {unit.show(result.test_accuracy)}; "
    parts = {
        "random": ("random masks of its layer densities", result.random),
        "reinit": ("its mask on other weights", result.reinit),
    }
    text += ", ".join(
        f"{what} {unit.show(arm.mean)}{_at_least(result.comparisons[name], unit)}"
        for name, (what, arm) in parts.items()
    )
    if all(part.p is None for part in result.comparisons.values()):
        return f"{text}."
    covers = " and ".join(dict.fromkeys(part.covers for part in result.comparisons.values()))
    return f"{text} (bounds over {covers}, Holm's correction for the two)."


def _at_least(comparison: UntrainedClaim, unit: Unit) -> str:
    """By how much the ticket's network is better, at least: " (better by at least +66.20 points)"."""
    if comparison.p is None:
        return ""
    end = unit.points if unit.percent else f" in {unit.metric}"
    difference, lower = map(unit.difference, (comparison.difference, comparison.lower_holm))
    return f" (better by {difference}{end}, at least {lower})"


def _shuffled(subject: VerificationSetup, seed: int) -> Ticket:
    ticket = subject.ticket
    if ticket.multiplier is None:
        return _with_own_scales(subject, replace(ticket, mask=random_mask(ticket, seed)))
    draw = generator(seed, "random-mask")
    multiplier = {name: _permuted(values, draw) for name, values in ticket.multiplier.items()}
    mask = Mask({name: m != 0 for name, m in multiplier.items()})
    return _with_own_scales(subject, replace(ticket, multiplier=multiplier, mask=mask))


def _permuted(values: Tensor, draw: torch.Generator) -> Tensor:
    return values.flatten()[torch.randperm(values.numel(), generator=draw, device=draw.device)].view_as(values)


def _on_fresh_weights(subject: VerificationSetup, seed: int) -> Ticket:
    ticket = subject.ticket
    origin = Origin.stored(fresh_network(subject, seed), network=ticket.origin.network)
    return _with_own_scales(subject, replace(ticket, origin=origin, begin=None))


def _with_own_scales(subject: VerificationSetup, control: Ticket) -> Ticket:
    """The control with its own α: the mean of |w| over what it keeps, where the ticket is binary."""
    representation = control.representation
    if representation.kind != "binary":
        return control
    weights = control.origin.state_dict(subject.architecture, subject.trusted)
    scales = {name: _alpha(weights[name], control.mask[name], scale) for name, scale in representation.scales.items()}
    return replace(control, representation=replace(representation, scales=scales))


def _alpha(weight: Tensor, mask: Tensor, like: Tensor) -> Tensor:
    alpha = Binary(per_channel=like.dim() > 0).scale(weight, mask)
    assert alpha is not None
    return alpha


_CONTROLS = {"random": _shuffled, "reinit": _on_fresh_weights}


def _score(
    subject: VerificationSetup,
    ticket: Ticket,
    setup: TrainingSetup,
    seed: int | None = None,
) -> Score:
    """The built ticket on the test split; with a seed (of the data order), norm statistics are taken anew first."""
    assert setup.splits.test is not None
    model = ticket.build("final", model=subject.architecture, trusted=subject.trusted).to(setup.fabric.device)
    if layout(model, setup.recipe):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
    if seed is not None:
        renew_norm_statistics(model, setup, seed)
    return setup.scorer(model, setup.splits.test)()
