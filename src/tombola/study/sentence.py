"""A verdict in plain sentences, its numbers in the metric's own unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tombola.formats import MINUS, Unit, plural
from tombola.results.statistics import FEWEST_REPLICATES
from tombola.results.verification import SEEDS, ClaimResult, SpeedResult
from tombola.study.margin import Allowance, points, trimmed
from tombola.study.planning import MAX_REPLICATES, POWER
from tombola.study.verdict import CLAIMS, Examples


@dataclass(frozen=True)
class VerdictContext:
    """What every phrase of a verdict needs to know."""

    allowance: Allowance
    examples: Examples
    replicates: int
    higher_is_better: bool = True

    @property
    def share(self) -> bool:
        """Whether the metric is a share of examples, so that differences lie between -1 and 1."""
        return self.unit.percent or self.examples.resolution is not None

    @property
    def unit(self) -> Unit:
        """The unit of the metric."""
        return Unit(self.allowance.metric)

    def amount(self, value: float) -> str:
        """A size in the metric's unit, to two digits: "0.28 points", "12 in loss"."""
        return points(value, 2) if self.unit.percent else f"{trimmed(value, 2)} in {self.allowance.metric}"


def sentence(subject: str, comparisons: Mapping[str, ClaimResult], pace: SpeedResult, context: VerdictContext) -> str:
    """The verdict, what is open and why, and what the bounds cover. `subject`: "This ticket of ..."."""
    kinds = {
        kind: {n: comparison for n, comparison in comparisons.items() if comparison.verdict == kind} for kind in _KINDS
    }
    shown = [_shown(name, comparison, context) for name, comparison in kinds["yes"].items()]
    parts = []
    if len(shown) == len(comparisons):
        parts.append(f"{subject} wins: it {_join(shown)}.")
    elif kinds["no"]:
        start = f"it {_join(shown)}, but " if shown else ""
        parts.append(f"{subject} does not win: {start}{_missed(kinds['no'], context)}.")
    elif shown:
        parts.append(f"{subject} {_join(shown)}.")
    parts += [
        _cannot(n, comparison, context, subject, first=not parts) for n, comparison in kinds["cannot decide"].items()
    ]
    if kinds["undecided"]:
        parts += _undecided(subject, kinds["undecided"], context, first=not parts)
    if len(kinds["undecided"]) < len(comparisons):
        parts += _covered(comparisons, context)
    if any("about " in part for part in parts):
        parts.append(_PLANNED)
    return " ".join([*parts, *_pace(pace)])


_PLANNED = f"Sizes named are for a probability of {100 * POWER:.0f} %, if variances and differences are as estimated."
_KINDS = ("yes", "no", "cannot decide", "undecided")


def why(comparison: ClaimResult, context: VerdictContext) -> str:
    """Why a claim is not shown, and what would decide it; empty where it is shown."""
    verdict = comparison.verdict
    if verdict == "yes":
        return ""
    if verdict == "undecided":
        reason = _no_verdict(comparison, context)
        return f"{reason}; {_more(comparison, context)}" if _is_planned(comparison, context) else reason
    if verdict == "cannot decide":
        return _too_small(comparison, context)
    if comparison.refuted:
        return "the opposite is shown"
    return _more(comparison, context)


def _claim(name: str, context: VerdictContext) -> str:
    """What the ticket does if the claim holds: "beats a random mask"."""
    return CLAIMS[name] + (f" to within {context.allowance.words()}" if name == "dense" else "")


def _claims(names: Iterable[str], context: VerdictContext) -> str:
    """Several claims as one phrase: "matches the dense network to within 0.2 points and beats a random mask"."""
    first, *others = [_claim(name, context) for name in names]
    verb = first.partition(" ")[0]
    return _join([first, *(text.removeprefix("beats ") if verb == "beats" else text for text in others)])


def _refuted(claim: str) -> str:
    """The same without its ending, to stand after "does not"."""
    return claim.replace("matches", "match", 1).replace("beats", "beat", 1)


def _shown(name: str, comparison: ClaimResult, context: VerdictContext) -> str:
    return f"{_claim(name, context)} ({_numbers(comparison, context)})"


def _missed(missed: Mapping[str, ClaimResult], context: VerdictContext) -> str:
    """What is refuted, and what is not shown."""
    wrong = [f"{_refuted(_claim(n, context))} ({_numbers(f, context)})" for n, f in missed.items() if f.refuted]
    unclear = [
        f"that it {_claim(name, context)} ({_numbers(comparison, context)}; {_more(comparison, context)})"
        for name, comparison in missed.items()
        if not comparison.refuted
    ]
    parts = [f"it does not {_join(wrong, 'or')}"] if wrong else []
    return " and ".join([*parts, *([f"it is not shown {_join(unclear, 'or')}"] if unclear else [])])


def _cannot(name: str, comparison: ClaimResult, context: VerdictContext, subject: str, *, first: bool) -> str:
    who = f"{subject[0].lower()}{subject[1:]}" if first else "it"
    claim = _claim(name, context)
    reason = _too_small(comparison, context)
    return f"Whether {who} {claim}, this test set cannot decide ({_numbers(comparison, context)}): {reason}."


def _undecided(
    subject: str, open_: Mapping[str, ClaimResult], context: VerdictContext, *, first: bool
) -> Sequence[str]:
    """What is open for want of replicates or of numbers, why, and what would decide it: sentences."""
    reasons = "; ".join(dict.fromkeys(_no_verdict(comparison, context) for comparison in open_.values()))
    claims = _claims(open_, context)
    what = f"{subject[0].lower()}{subject[1:]} wins" if first else f"it {claims}"
    plans: dict[str, list[str]] = {}
    for name, comparison in open_.items():
        if _is_planned(comparison, context):
            plans.setdefault(_more(comparison, context), []).append(name)
    text = "; ".join(f"whether it {_claims(names, context)}: {plan}" for plan, names in plans.items())
    return [f"It is undecided whether {what}: {reasons}.", *([f"{text[0].upper()}{text[1:]}."] if text else [])]


def _no_verdict(comparison: ClaimResult, context: VerdictContext) -> str:
    if comparison.difference is None:
        return "the metric of some runs is not a finite number"
    if context.replicates < FEWEST_REPLICATES:
        have = "is 1" if context.replicates == 1 else f"are {context.replicates}"
        return f"a verdict needs {FEWEST_REPLICATES} replicates of every arm, and there {have}"
    return "no run differs from another in its test result, which tells nothing of how far they scatter"


def _is_planned(comparison: ClaimResult, context: VerdictContext) -> bool:
    """Whether so little is missing that it can be said what would decide a claim."""
    return bool(
        comparison.difference is not None and context.replicates < FEWEST_REPLICATES and comparison.standard_error
    )


def _too_small(comparison: ClaimResult, context: VerdictContext) -> str:
    """Why a test set cannot decide, and what size would."""
    count, resolution = context.examples.count, context.examples.resolution
    margin = -comparison.threshold
    if resolution is not None and margin < resolution:
        one = "its one example" if count == 1 else f"one of its {plural(count or 0, 'example')}"
        text = f"{one} is {context.amount(resolution)}"
    else:
        text = f"the noise of its {plural(count or 0, 'example')} alone is larger than that"
    needed = comparison.examples_to_decide
    return text if needed is None else f"{text}; to show equal networks equal takes about {_about(needed)} or more"


def _more(comparison: ClaimResult, context: VerdictContext) -> str:
    """What would decide it: more replicates, or more test examples."""
    replicates, examples = comparison.replicates_to_decide, comparison.examples_to_decide
    assert comparison.difference is not None
    against = " against it" if comparison.difference < comparison.threshold else ""
    if replicates is not None:
        return f"about {plural(replicates, 'replicate')} would decide{against}"
    if context.examples.count is None:
        return f"{plural(MAX_REPLICATES, 'replicate')} would not decide"
    text = f"no number of replicates would decide on {plural(context.examples.count, 'test example')}"
    return text if examples is None else f"{text}, but on about {_about(examples)} or more"


def _about(count: int) -> str:
    """A planned count to two digits: a third would be noise."""
    scale = 10 ** max(0, len(str(count)) - 2)
    return f"{-(-count // scale) * scale:,}"


def _numbers(comparison: ClaimResult, context: VerdictContext) -> str:
    unit = context.unit
    lead = "" if context.higher_is_better else "improvement "
    end = unit.points if unit.percent else f" in {unit.metric}"
    lower = unit.difference(comparison.lower_holm, comparison.threshold)
    return f"{lead}{unit.difference(comparison.difference)}{end}, at least {lower}"


def _covered(comparisons: Mapping[str, ClaimResult], context: VerdictContext) -> Sequence[str]:
    """What the bounds cover, how they were corrected, and whether they are as wide as can be: sentences."""
    alone = SEEDS in {comparison.covers for comparison in comparisons.values()}
    seeds = plural(context.replicates, "training seed")
    count, resolution = context.examples.count, context.examples.resolution
    if alone or count is None:
        scope = f"cover {seeds} alone, not the choice of test examples, whose results are not known one by one"
    else:
        scope = f"cover {seeds} and {plural(count, 'test example')}"
        scope += f" (one is {context.amount(resolution)})" if resolution is not None else ""
    family = len(comparisons)
    corrected = f" for the {family} claims together (Holm's correction)" if family > 1 else ""
    text = f"The bounds {scope}; they hold at 95 %{corrected}."
    widest = [
        comparison
        for comparison in comparisons.values()
        if comparison.lower_holm is not None and comparison.lower_holm <= -1
    ]
    if not context.share or not widest:
        return [text]
    by_examples = any(_by_examples(comparison, count) for comparison in widest)
    few = f"{plural(count or 0, 'test example')} {'is' if count == 1 else 'are'}" if by_examples else f"{seeds} are"
    return [text, f"A bound of {MINUS}{context.amount(1.0)} excludes nothing: {few} too few."]


def _by_examples(comparison: ClaimResult, count: int | None) -> bool:
    """Whether a bound is wide for want of test examples, rather than of replicates."""
    if comparison.covers == SEEDS or count is None:
        return False
    parts = comparison.variance
    return count < _FEW_EXAMPLES or (parts is not None and parts.examples + parts.interaction >= parts.seeds)


_FEW_EXAMPLES = 10
"""Fewer cannot tell examples from seeds."""


def _pace(pace: SpeedResult) -> list[str]:
    if pace.verdict not in ("earlier", "later"):
        return []
    return [
        f"It reaches the dense network's lowest validation loss {pace.verdict}, after "
        f"{pace.ticket_iterations:,.0f} iterations instead of {pace.dense_iterations:,.0f}."
    ]


def _join(parts: Sequence[str], last: str = "and") -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}"
