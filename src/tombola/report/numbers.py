"""The few numbers that a reader wants first."""

from __future__ import annotations

from dataclasses import dataclass

from tombola.formats import Fixed, Unit, count, density, multiple
from tombola.report import words
from tombola.report.aggregate import points, sparsest, spread
from tombola.report.looks import Look, Looks
from tombola.report.read import Run
from tombola.report.style import arm_name
from tombola.results.comparison import ComparisonResult
from tombola.results.overlap import OverlapResult
from tombola.results.record import Parameters
from tombola.results.search import SearchResult


@dataclass(frozen=True)
class Number:
    """A key number with its name and a remark, and the look of the arm that it is of."""

    name: str
    value: str
    remark: str = ""
    look: Look | None = None


def key_numbers(run: Run, looks: Looks) -> tuple[Number, ...]:
    """The few numbers that a reader wants first."""
    if run.verify is not None:
        verify, unit = run.verify, Unit(run.verify.metric)
        numbers = [Number("Weights kept", density(verify.density))] if verify.density is not None else []
        for name, arm in verify.arms.items():
            if arm.mean is None:
                continue
            numbers.append(
                Number(arm_name(name), unit.show(arm.mean), unit.half(arm.mean, arm.interval), looks.arm(name))
            )
        if verify.replicates:
            numbers.append(Number("Replicates", str(verify.replicates), "per arm, fresh seeds"))
        numbers += _prunable_number(verify.parameters)
        return tuple(numbers)
    if run.study is not None:
        return _study_numbers(run.study, looks)
    if run.overlap is not None:
        return _overlap_numbers(run.overlap, looks)
    if run.find is None:
        return ()
    find, unit = run.find, Unit(run.find.metric)
    dense, best = words.dense_point(find), words.sparsest_that_keeps_up(find)
    numbers = []
    if dense is None:
        numbers += _sparsest_numbers(find)
    else:
        numbers.append(Number("Dense", unit.show(dense.spread.mean), f"test {find.metric}"))
    if best is not None:
        numbers.append(Number("Keeps up down to", density(best.density), "of the prunable weights"))
        numbers.append(Number("Ticket there", unit.show(best.spread.mean), f"test {find.metric}"))
        numbers.append(Number("Smaller by", multiple(1 / best.density), "prunable weights"))
    if find.replicates:
        numbers.append(Number("Replicates", str(len(find.replicates)), "whole searches"))
    return (*numbers, *_prunable_number(find.parameters))


def _prunable_number(parameters: Parameters | None) -> list[Number]:
    """The denominator of every density."""
    if parameters is None:
        return []
    prunable, total = parameters.prunable, parameters.total
    return [Number("Prunable", count(prunable), f"of {count(total)} parameters: density is a fraction of these")]


def _sparsest_numbers(find: SearchResult) -> list[Number]:
    """Of a search without a dense level: what its sparsest ticket keeps and reaches."""
    tickets = points(find, "ticket", lambda level: level.test_accuracy)
    if not tickets:
        return []
    last = sparsest(tickets)
    reached = Number(
        "Ticket" if last.density < 1 else words.STOPPED, Unit(find.metric).show(last.spread.mean), f"test {find.metric}"
    )
    return [Number("Weights kept", density(last.density)), reached]


def _study_numbers(study: ComparisonResult, looks: Looks, max_numbers: int = 6) -> tuple[Number, ...]:
    """The arms' test results, or where they are many the first and the best."""
    unit = Unit(study.metric)
    known = [(arm, summary) for arm in study.arms if (summary := spread(arm.test_accuracy.known))]
    if study.chosen:
        chosen = [pair for pair in known if pair[0].name in study.chosen and pair[0].series not in study.references]
        known = [*(pair for pair in known if pair[0].dense), *chosen][:max_numbers]
    if len(known) > max_numbers:
        best = words.best_arm(study)
        known = [pair for pair in known if pair[0] is known[0][0] or pair[0] is best]
    numbers = [
        Number(arm.name, unit.show(x.mean), unit.half(x.mean, x.interval), looks.arm(arm.name)) for arm, x in known
    ]
    return (*numbers, Number("Replicates", str(study.replicates), "of every arm"))


def _overlap_numbers(study: OverlapResult, looks: Looks) -> tuple[Number, ...]:
    unit, shared, ratio = Unit(study.metric), study.whole.ratio, Fixed("ratio", 2)
    numbers = []
    if shared.mean is not None:
        numbers.append(Number("Overlap", ratio.interval(shared.mean, shared.interval), "times chance"))
    for mask_result in study.accuracy:
        if mask_result.mask in study.names:
            remark = f"trained; untrained {unit.show(mask_result.untrained.mean)}"
            numbers.append(
                Number(mask_result.mask, unit.show(mask_result.trained.mean), remark, looks.arm(mask_result.mask))
            )
    return (*numbers, Number("Replicates", str(study.replicates), "of everything"))
