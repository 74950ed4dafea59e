"""Numbers in words: one way to print a density, a metric, an interval; the sentence that opens a report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean

from tombola.formats import BITS, ITERATIONS, MISSING, Unit, count, density, plural
from tombola.report.aggregate import Point, Reading, Spread, points, sparsest, spread, stopped_early
from tombola.report.read import Run
from tombola.results.comparison import ComparedArm, ComparisonResult
from tombola.results.search import SearchResult
from tombola.results.trial import LevelResult
from tombola.results.verification import VerificationResult

__all__ = ["BITS", "ITERATIONS", "MISSING", "Unit", "count", "density", "mean_of", "plural"]

KEEPS_UP = 0.002  # 0.2 points, the default margin of `tombola verify`
STOPPED = "All weights, stopped early"
"""An unpruned network that was not trained to the end, such as that in which early-bird draws its ticket."""


def mean_of(unit: Unit, summary: Spread | None) -> str:
    """``98.10 ± 0.05 %``: mean and half the 95 % interval; ``98.10 % (98.05 to 98.15 %)`` for two values."""
    if summary is None:
        return MISSING
    if summary.interval is None and summary.n > 1:
        return f"{unit.show(summary.mean)} ({unit.ends(summary.low, summary.high)})"
    return unit.interval(summary.mean, summary.interval)


def keep_together(text: str) -> str:
    """No line break between a number and its percent sign, or around an equals sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%").replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")


def actions(verify: VerificationResult) -> str:
    """Which actions a ticket was found with, as the end of a note; "" where weights rewind and pruned ones are 0."""
    named = [("kept", verify.kept_action), ("pruned", verify.pruned_action)]
    texts = [f"{what} action {name}" for what, name in named if name is not None]
    changed = [f"{name} {value}" for name, value in (verify.retrain or {}).items()]
    texts += [f"all arms but dense trained with {', '.join(changed)}"] if changed else []
    return f" The ticket's search: {'; '.join(texts)}." if texts else ""


def test_metric(level: LevelResult) -> float | None:
    """The test metric at the end of training."""
    return level.test_accuracy


def dense_point(find: SearchResult, reading: Reading = test_metric) -> Point | None:
    """The unpruned network of a search (density 1), if it was trained there, in every replicate to the end."""
    unpruned = [p for p in points(find, "ticket", reading) if p.density == 1]
    return unpruned[0] if unpruned and not stopped_early(find, unpruned[0].level) else None


def sparsest_that_keeps_up(find: SearchResult) -> Point | None:
    """The sparsest ticket down to which every mean test accuracy is within 0.2 points of dense."""
    dense = dense_point(find)
    if dense is None or find.metric != "accuracy":
        return None
    best = None
    tickets = points(find, "ticket", lambda level: level.test_accuracy)
    for point in sorted(tickets, key=lambda p: -p.density):
        if point.spread.mean < dense.spread.mean - KEEPS_UP:
            break
        best = point if point.density < 1 else best
    return best


def best_arm(study: ComparisonResult) -> ComparedArm | None:
    """The arm with the best mean test metric; None where none was tested, or it is not known which way is better."""
    ranked = [(summary.mean, arm) for arm in study.arms if (summary := spread(arm.test_accuracy.known)) is not None]
    if not ranked or study.better is None:
        return None
    return (max if study.better == "higher" else min)(ranked, key=lambda pair: pair[0])[1]


def study_sentence(study: ComparisonResult) -> str:
    """How the arms of a study stand to the first one, with no claim where an interval includes 0."""
    unit = Unit(study.metric)
    tested = {arm.name: summary for arm in study.arms if (summary := spread(arm.test_accuracy.known)) is not None}
    if not tested:
        return "No test result has been recorded yet."
    over, mean = plural(study.replicates, "replicate"), "mean " if study.replicates > 1 else ""
    if len(tested) == 1:
        ((name, summary),) = tested.items()
        return f"One arm over {over}: {name} has a {mean}test {study.metric} of {unit.show(summary.mean)}."
    if study.chosen:
        return _chosen_sentence(study, tested)
    text, best = f"{plural(len(tested), 'arm')} over {over}", best_arm(study)
    if best is not None:
        end = "highest" if study.better == "higher" else "lowest"
        text += f": {best.name} has the {end} {mean}test {study.metric}, {unit.show(tested[best.name].mean)}"
    return f"{text}.{_against_the_first(study)}"


def _chosen_sentence(study: ComparisonResult, tested: Mapping[str, Spread]) -> str:
    """Of a study that chose a density for each curve: the curve that is best on the validation split."""
    sign = 1 if study.better == "higher" else -1
    known = [arm for arm in study.arms if arm.name in study.chosen and arm.name in tested and arm.val_accuracy.known]
    if not known:
        return "No curve has a result on the validation split yet."
    best = max(known, key=lambda arm: sign * fmean(arm.val_accuracy.known))
    unit, found = Unit(study.metric), tested[best.name]
    return (
        f"Best density by validation: {best.series} at {density(best.plotted)}, with a test {study.metric} of "
        f"{unit.interval(found.mean, found.interval)} ({plural(found.n, 'replicate')}).{_against_the_first(study)}"
    )


def _against_the_first(study: ComparisonResult) -> str:
    """What most arms are compared with: the first arm, or another; where curves are, the reference of each density."""
    series, references = {arm.name: arm.series for arm in study.arms}, study.references
    curve = "the reference at its density"
    named = [(curve if series.get(x.against) in references else x.against, x) for x in study.comparisons]
    others = [name for name, _ in named]
    first = max(others, key=others.count, default="")
    signs = [
        difference.sign
        for name, x in named
        if name == first and (difference := x.differences.get("test_accuracy")) and difference.interval
    ]
    if not signs:
        return ""
    counts = {sign: signs.count(sign) for sign in (1, -1, 0) if sign in signs}
    places = {
        1: (f"lies significantly above {first}", f"lie significantly above {first}"),
        -1: (f"lies significantly below {first}", f"lie significantly below {first}"),
        0: (f"does not differ significantly from {first}", f"do not differ significantly from {first}"),
    }
    parts = [f"{count} {places[sign][count > 1]}" for sign, count in counts.items()]
    if len(signs) == 1:
        clause = f"The other arm {places[signs[0]][0]}"
    elif len(counts) == 1:
        clause = f"All {len(signs)} other arms {places[signs[0]][1]}"
    else:
        clause = f"Of the {len(signs)} other arms, {' and '.join(filter(None, (', '.join(parts[:-1]), parts[-1])))}"
    reference = f" Reference: {' or '.join(references)}." if first == curve else ""
    return f" {clause} (95 % intervals of the differences in test {study.metric}, each on its own).{reference}"


def find_sentence(find: SearchResult) -> str:
    """Result of a search, with no claim beyond its own replicates."""
    unit, dense, best = Unit(find.metric), dense_point(find), sparsest_that_keeps_up(find)
    if best is not None and dense is not None:
        mean = "mean " if best.spread.n > 1 else ""
        return (
            f"Down to {density(best.density)} of the prunable weights, {mean}test accuracy stays within 0.2 points of "
            f"the dense network: {unit.show(best.spread.mean)} against {unit.show(dense.spread.mean)} "
            f"({plural(best.spread.n, 'replicate')})."
        )
    tickets = points(find, "ticket", lambda level: level.test_accuracy)
    if not tickets:
        return "No test result has been recorded yet."
    last = sparsest(tickets)
    mean = "mean " if last.spread.n > 1 else ""
    if dense is not None and last.density == 1:
        over = plural(last.spread.n, "replicate")
        return f"The dense network's {mean}test {find.metric} is {unit.show(last.spread.mean)} ({over})."
    if last.density == 1 and stopped_early(find, last.level):
        over = plural(last.spread.n, "replicate")
        return (
            f"The {mean}test {find.metric} of the network with all weights, whose training was stopped early, is "
            f"{unit.show(last.spread.mean)} ({over})."
        )
    start = f"With {density(last.density)} of the prunable weights, the ticket's {mean}test {find.metric} is "
    end = f" ({plural(last.spread.n, 'replicate')})."
    if dense is None:
        return f"{start}{unit.show(last.spread.mean)}{end}"
    ratio = f", {unit.show(dense.spread.mean)} for the dense network"
    return f"{start}{unit.show(last.spread.mean)}{ratio}{end}"


def barred_sentence(what: str, levels: Iterable[LevelResult]) -> str:
    """Remark on kept weights that the criterion bars, at the worst level; "" if there are none."""
    worst = max(levels, key=lambda level: level.barred_kept / (level.kept or 1), default=None)
    if worst is None or not worst.barred_kept:
        return ""
    return (
        f" {worst.barred_kept:,} of the {count(worst.kept)} weights that {what} keeps at {density(worst.density)} are "
        "barred by its criterion, which leaves too few others."
    )


def _barred(study: ComparisonResult) -> Iterator[str]:
    """Remarks on arms; on curves over density, at their worst."""
    if not study.references:
        yield from (barred_sentence(arm.name, arm.last_levels) for arm in study.arms)
    else:
        for name, arms in study.families.items():
            yield barred_sentence(name, [level for arm in arms for level in arm.last_levels])


_UNSAID = ("length", "milestones", "eval_every", "train_eval")
"""Parts of a recipe that do not make training another, or that a table has."""


def recipes_sentence(study: ComparisonResult) -> str:
    """What differs between the recipes of the arms, which is compared with their methods; "" if nothing does."""
    recipes = [arm.recipe for arm in study.arms if arm.recipe is not None]
    names = dict.fromkeys(name for recipe in recipes for name in recipe if name not in _UNSAID)
    values = {name: list(dict.fromkeys(_shown(recipe.get(name)) for recipe in recipes)) for name in names}
    parts = [
        f"{name} ({', '.join(found) if len(found) < 4 else f'{len(found)} values'})"
        for name, found in values.items()
        if len(found) > 1
    ]
    return f" The recipes of the arms differ in {', '.join(parts)}." if parts else ""


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def unmasked_sentence(study: ComparisonResult) -> str:
    """Remark on masks of a density of their own that keep every weight; "" if there are none."""
    names = [arm.name for arm in study.arms if arm.density == 1 and (arm.options or {}).get("density", 0) is None]
    if not names:
        return ""
    whose = f"mask of {names[0]} keeps" if len(names) == 1 else f"masks of {', '.join(names)} keep"
    return f" The {whose} every weight, so that nothing was masked: train longer, or raise the mask's learning rate."


def verdict(run: Run) -> str:
    """The one plain sentence at the top of a run."""
    if run.verify is not None:
        return run.verify.sentence or "The verification has no verdict yet."
    if run.find is not None:
        levels = [level for rep in run.find.replicates for level in rep.arms.get("ticket", ())]
        return find_sentence(run.find) + barred_sentence("the ticket", levels)
    if run.study is not None:
        return study_sentence(run.study) + "".join(_barred(run.study)) + unmasked_sentence(run.study)
    if run.overlap is not None:
        return run.overlap.sentence or "The masks have been compared."
    if run.reproduction is not None:
        return run.reproduction.sentence
    if run.measured is not None:
        return run.measured.sentence
    return "The results are listed as they were found." if run.other else "There are no results to show yet."


def subtitle(run: Run) -> str:
    """One line on what was searched, compared or verified."""
    if run.find is not None:
        return f"{run.find.method} · {run.find.model} · {run.find.data}"
    if run.study is not None:
        return f"study {run.study.study} · {run.study.model} · {run.study.data}"
    if run.overlap is not None:
        return f"study overlap · {run.overlap.model} · {run.overlap.data}"
    if run.reproduction is not None:
        return f"reproduction of {run.reproduction.paper}"
    if run.measured is not None:
        return run.measured.subtitle
    if run.verify is not None:
        return "verification"
    return run.record.kind
