"""A verdict in plain sentences, its numbers in the metric's own unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tombola.formats import Unit, plural
from tombola.study.margin import Allowance, points, trimmed
from tombola.study.planning import MOST_REPLICATES, POWER
from tombola.study.statistics import FEWEST_REPLICATES
from tombola.study.verdict import CLAIMS, SEEDS, Examples


@dataclass(frozen=True)
class Said:
    """What every phrase of a verdict needs to know."""

    allowance: Allowance
    examples: Examples
    replicates: int
    higher_is_better: bool = True

    @property
    def unit(self) -> Unit:
        return Unit(self.allowance.metric)

    def amount(self, value: float) -> str:
        """A size in the metric's unit, to two digits: "0.28 points", "12 in loss"."""
        return points(value, 2) if self.unit.percent else f"{trimmed(value, 2)} in {self.allowance.metric}"


def sentence(subject: str, comparisons: Mapping[str, Mapping[str, Any]], pace: Mapping[str, Any], said: Said) -> str:
    """The verdict, what is open and why, and what the bounds cover. `subject`: "This ticket of ..."."""
    kinds = {kind: [name for name, found in comparisons.items() if found["verdict"] == kind] for kind in _KINDS}
    shown = [_shown(name, comparisons[name], said) for name in kinds["yes"]]
    parts = []
    if len(shown) == len(comparisons):
        parts.append(f"{subject} wins: it {_join(shown)}.")
    elif kinds["no"]:
        missed = [_missed(name, comparisons[name], said) for name in kinds["no"]]
        start = f"it {_join(shown)}, but " if shown else ""
        parts.append(f"{subject} does not win: {start}{_join(missed)}.")
    elif shown:
        parts.append(f"{subject} {_join(shown)}.")
    if kinds["cannot decide"]:
        parts += [_cannot(name, comparisons[name], said, subject, first=not parts) for name in kinds["cannot decide"]]
    if kinds["undecided"]:
        parts.append(_undecided(subject, [comparisons[name] for name in kinds["undecided"]], said, first=not parts))
    if len(kinds["undecided"]) < len(comparisons):
        parts.append(_covered(comparisons, said))
    if any("would" in part or "equal takes about" in part for part in parts):
        parts.append(_PLANNED)
    return " ".join([*parts, *_pace(pace)])


_PLANNED = f"Sizes named are for a probability of {100 * POWER:.0f} %, if variances and differences are as estimated."
_KINDS = ("yes", "no", "cannot decide", "undecided")


def why(found: Mapping[str, Any], said: Said) -> str:
    """Why a claim is not shown, and what would decide it; empty where it is shown."""
    verdict = found["verdict"]
    if verdict == "yes":
        return ""
    if verdict == "undecided":
        return _no_verdict(found, said)
    if verdict == "cannot decide":
        return _too_small(found, said)
    if found["refuted"]:
        return "the opposite is shown"
    return _more(found, said)


def _shown(name: str, found: Mapping[str, Any], said: Said) -> str:
    allowed = f" to within {said.allowance.words()}" if name == "dense" else ""
    return f"{CLAIMS[name]}{allowed} ({_numbers(found, said)})"


def _missed(name: str, found: Mapping[str, Any], said: Said) -> str:
    claim = CLAIMS[name] + (f" to within {said.allowance.words()}" if name == "dense" else "")
    if found["refuted"]:
        claim = claim.replace("matches", "match", 1).replace("beats", "beat", 1)
        return f"it does not {claim} ({_numbers(found, said)})"
    return f"it is not shown that it {claim} ({_numbers(found, said)}; {_more(found, said)})"


def _cannot(name: str, found: Mapping[str, Any], said: Said, subject: str, *, first: bool) -> str:
    who = f"{subject[0].lower()}{subject[1:]}" if first else "it"
    claim = f"{CLAIMS[name]} to within {said.allowance.words()}"
    return f"Whether {who} {claim}, this test set cannot decide ({_numbers(found, said)}): {_too_small(found, said)}."


def _undecided(subject: str, open_: Sequence[Mapping[str, Any]], said: Said, *, first: bool) -> str:
    reasons = list(dict.fromkeys(_no_verdict(found, said) for found in open_))
    if first:
        return f"{subject} is undecided: {_join(reasons)}."
    claims = _join([f"it {found['claim']}" for found in open_])
    return f"It is undecided whether {claims}: {_join(reasons)}."


def _no_verdict(found: Mapping[str, Any], said: Said) -> str:
    if found["difference"] is None:
        return "the metric of some runs is not a finite number"
    if said.replicates < FEWEST_REPLICATES:
        text = f"a verdict needs {FEWEST_REPLICATES} replicates of every arm, and has {said.replicates}"
        return f"{text}; {_more(found, said)}" if found["standard_error"] else text
    return "no run differs from another in its test result, which tells nothing of how far they scatter"


def _too_small(found: Mapping[str, Any], said: Said) -> str:
    """Why a test set cannot decide, and what size would."""
    count, resolution = said.examples.count, said.examples.resolution
    margin = -found["threshold"]
    if resolution is not None and margin < resolution:
        text = f"one of its {plural(count or 0, 'example')} is {said.amount(resolution)}"
    else:
        text = f"the noise of its {plural(count or 0, 'example')} alone is larger than that"
    needed = found["examples_to_decide"]
    return text if needed is None else f"{text}; to show equal networks equal takes about {_about(needed)} or more"


def _more(found: Mapping[str, Any], said: Said) -> str:
    """What would decide it: more replicates, or more test examples."""
    replicates, examples = found["replicates_to_decide"], found["examples_to_decide"]
    against = ", against it" if found["difference"] < found["threshold"] else ""
    if replicates is not None:
        return f"about {plural(replicates, 'replicate')} would decide{against}"
    if said.examples.count is None:
        return f"{plural(MOST_REPLICATES, 'replicate')} would not decide"
    text = f"no number of replicates would decide on {plural(said.examples.count, 'test example')}"
    return text if examples is None else f"{text}, which takes about {_about(examples)} or more"


def _about(count: int) -> str:
    """A planned count to two digits: a third would be noise."""
    scale = 10 ** max(0, len(str(count)) - 2)
    return f"{-(-count // scale) * scale:,}"


def _numbers(found: Mapping[str, Any], said: Said) -> str:
    unit = said.unit
    lead = "" if said.higher_is_better else "improvement "
    end = unit.points if unit.percent else f" in {unit.metric}"
    least = unit.difference(found["lower_holm"], found["threshold"])
    return f"{lead}{unit.difference(found['difference'])}{end}, at least {least}"


def _covered(comparisons: Mapping[str, Mapping[str, Any]], said: Said) -> str:
    """What the bounds cover, and how they were corrected."""
    alone = SEEDS in {found["covers"] for found in comparisons.values()}
    seeds = plural(said.replicates, "training seed")
    count, resolution = said.examples.count, said.examples.resolution
    if alone or count is None:
        scope = f"cover {seeds} alone, not the choice of test examples, whose results are not known one by one"
    else:
        scope = f"cover {seeds} and {plural(count, 'test example')}"
        scope += f" (one is {said.amount(resolution)})" if resolution is not None else ""
    family = len(comparisons)
    corrected = f" for the {family} claims together (Holm's correction)" if family > 1 else ""
    return f"The bounds {scope}; they hold at 95 %{corrected}."


def _pace(pace: Mapping[str, Any]) -> list[str]:
    if pace["verdict"] not in ("earlier", "later"):
        return []
    return [
        f"It reaches the dense network's lowest validation loss {pace['verdict']}, after "
        f"{pace['ticket_iterations']:,.0f} iterations instead of {pace['dense_iterations']:,.0f}."
    ]


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
