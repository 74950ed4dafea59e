"""The verdict on a ticket, from its arms' figures: exactly as defined, undecided where it cannot be known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tombola.study.statistics import FEWEST_REPLICATES, Difference, difference, interval

CLAIMS = {
    "dense": "matches the dense network",
    "random": "beats a random mask",
    "reinit": "beats reinitialised weights",
}


@dataclass(frozen=True)
class ArmFigures:
    """What was measured of one arm, one entry per replicate.

    `to_dense_loss`: first evaluated iteration whose validation loss is at most the dense arm's mean minimum
    (None: never within the run). `early_stop_observed`: False where the minimum lay in the last evaluations.
    `steps`: iterations trained, rewound ones included.
    """

    test_accuracy: tuple[float, ...]
    early_stop: tuple[int | None, ...]
    early_stop_observed: tuple[bool, ...]
    to_dense_loss: tuple[int | None, ...]
    steps: tuple[int, ...]


def compare(arms: Mapping[str, ArmFigures], margin: float, higher_is_better: bool = True) -> dict[str, Any]:
    """Every rival's comparison with the ticket: difference, bounds, claim and verdict ("yes", "no", "undecided").

    "Matches dense" means that the one-sided 95 % lower t-bound of (ticket - dense) is at least -margin; "beats a
    control" that this bound is above 0. Fewer than three replicates decide nothing. Of a metric that is better when
    lower the difference is (rival - ticket), so that above 0 the ticket is better in any case.
    """
    ticket = arms["ticket"]
    compared = {}
    for name, arm in arms.items():
        if name == "ticket":
            continue
        pair = (ticket.test_accuracy, arm.test_accuracy)
        found = difference(*pair) if higher_is_better else difference(pair[1], pair[0])
        compared[name] = {
            "difference": found.difference,
            "lower": found.lower,
            "interval": list(found.interval) if found.interval else None,
            "claim": CLAIMS[name],
            "verdict": _decide(found, len(ticket.test_accuracy), len(arm.test_accuracy), name, margin),
        }
    return compared


def _decide(found: Difference, first: int, second: int, rival: str, margin: float) -> str:
    if min(first, second) < FEWEST_REPLICATES or found.lower is None:
        return "undecided"
    holds = found.lower >= -margin if rival == "dense" else found.lower > 0
    return "yes" if holds else "no"


def speed(arms: Mapping[str, ArmFigures]) -> dict[str, Any]:
    """Whether the ticket reaches the dense arm's mean minimum validation loss earlier.

    "earlier" or "later" only if the two-sided 95 % interval of the difference in iterations leaves out 0. A dense
    run whose own minimum lies above that mean never gets there: it counts with its whole length, which is less
    than it would need. "not observable at this length" where a dense minimum lies in the last evaluations, or a
    ticket run never reaches the loss.
    """
    ticket, dense = arms["ticket"], arms["dense"]
    first = [float(step) for step in ticket.to_dense_loss if step is not None]
    second = [
        float(length if step is None else step) for step, length in zip(dense.to_dense_loss, dense.steps, strict=True)
    ]
    answer: dict[str, Any] = {
        "ticket_iterations": fmean(first) if len(first) == len(ticket.to_dense_loss) else None,
        "dense_iterations": fmean(second),
        "dense_runs_that_never_reach_it": dense.to_dense_loss.count(None),
        "interval": None,
        "verdict": "not observable at this length",
    }
    if answer["ticket_iterations"] is None or not all(dense.early_stop_observed):
        return answer
    found = difference(first, second)
    verdict = "undecided"
    if min(len(first), len(second)) >= FEWEST_REPLICATES and found.interval is not None:
        low, high = found.interval
        verdict = "earlier" if high < 0 else "later" if low > 0 else "no difference shown"
    return {**answer, "interval": list(found.interval) if found.interval else None, "verdict": verdict}


def describe_arm(arm: ArmFigures, metrics: Sequence[str]) -> dict[str, Any]:
    """One arm as JSON."""
    bounds = interval(arm.test_accuracy)
    return {
        "test_accuracy": list(arm.test_accuracy),
        "mean": fmean(arm.test_accuracy),
        "interval": list(bounds) if bounds else None,
        "early_stop_iteration": list(arm.early_stop),
        "early_stop_observed": list(arm.early_stop_observed),
        "iterations_to_dense_loss": list(arm.to_dense_loss),
        "metrics": list(metrics),
    }


def sentence(
    density: float, comparisons: Mapping[str, Any], pace: Mapping[str, Any], replicates: int, margin: float
) -> str:
    """The verdict in one plain sentence or two."""
    verdicts = {name: found["verdict"] for name, found in comparisons.items()}
    size = f"This ticket of {density:.1%} of the weights"
    if "undecided" in verdicts.values():
        return (
            f"{size} is undecided: a verdict needs {FEWEST_REPLICATES} replicates of every arm, and has {replicates}."
        )
    shown = [_phrase(name, comparisons[name], margin) for name, verdict in verdicts.items() if verdict == "yes"]
    missed = [_phrase(name, comparisons[name], margin) for name, verdict in verdicts.items() if verdict == "no"]
    if not missed:
        text = f"{size} wins: it {_join(shown)}."
    elif shown:
        text = f"{size} does not win: it {_join(shown)}, but it is not shown that it {_join(missed)}."
    else:
        text = f"{size} does not win: it is not shown that it {_join(missed)}."
    if pace["verdict"] in ("earlier", "later"):
        text += (
            f" It reaches the dense network's lowest validation loss {pace['verdict']}, after "
            f"{pace['ticket_iterations']:.0f} iterations instead of {pace['dense_iterations']:.0f}."
        )
    return text


def _phrase(name: str, found: Mapping[str, Any], margin: float) -> str:
    unit = "point" if margin == 0.01 else "points"
    allowed = f" to within {100 * margin:g} {unit}" if name == "dense" else ""
    bound = f"{100 * found['difference']:+.2f} points, at least {100 * found['lower']:+.2f}"
    return f"{CLAIMS[name]}{allowed} ({bound})"


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
