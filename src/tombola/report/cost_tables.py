"""What searches and their controls cost, in tables: iterations, FLOPs, seconds, memory, energy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from tombola.formats import MISSING, Unit, count, density, multiple, plural, quantity, significant
from tombola.report import style
from tombola.report.aggregate import spread
from tombola.report.looks import Looks
from tombola.report.plot import over_replicates, sentences
from tombola.report.tables import Cell, Row, Table, arm_cell
from tombola.results.comparison import ComparedArm, ComparisonResult
from tombola.results.cost import PARTS, Cost, CostRatio, SearchCost, cost_of, mean, ratio, summed
from tombola.results.search import TICKET, SearchResult
from tombola.results.trial import LevelResult
from tombola.results.verification import VerificationResult

HEADS: Mapping[str, str] = {
    "iterations": "Iterations",
    "flops": "FLOPs",
    "seconds": "Seconds",
    "memory_bytes": "Memory",
    "energy_joules": "Energy",
    "forward_passes": "Forward passes",
}
_UNITS = {"flops": "FLOP", "seconds": "s", "memory_bytes": "B", "energy_joules": "J"}
_NOTES = {
    "flops": "FLOPs: of training, 3 times the forward pass of every example, as computed: masked weights count.",
    "memory_bytes": "Memory: parameters, gradients, optimiser state and what one batch keeps for the backward pass; "
    "of several trainings the largest.",
    "energy_joules": "Energy: of the machine's processor meanwhile, other processes included.",
    "forward_passes": "Forward passes: examples that went through the network; training takes a backward pass of each "
    "as well, a search without gradients does not, and its FLOPs are of the forward pass alone.",
}
REWOUND = "Iterations: as trained, from the one on at which a level begins, rewound to it or going on from it."


def find_cost_table(find: SearchResult) -> Table:
    """Every level of a search and all of them, beside one dense training; below, its controls."""
    costs = _whole_searches(find)
    rows = [_level_row(levels) for levels in zip(*_longest(find), strict=True)]
    total, dense = mean([cost.total for cost in costs]), mean([cost.dense for cost in costs])
    compared: list[tuple[str, Cost | CostRatio]] = [("All levels", total)]
    if dense.iterations:  # none is known of where nothing was trained
        compared += [("One dense training", dense), ("All levels / one dense training", ratio(total, dense))]
    again = [cost.train_prune_retrain for cost in costs if cost.train_prune_retrain is not None]
    if len(again) == len(costs):
        compared += [("Train, prune, train again", mean(again))]
        compared += [("All levels / train, prune, train again", ratio(total, mean(again)))]
    controls = [
        (f"{style.arm_name(arm)}, {plural(len(levels), 'training')}", summed(map(cost_of, levels)))
        for arm, levels in _controls(find).items()
    ]
    compared += controls
    shown = _shown([*(cost for _, cost in rows), total, dense, *(cost for _, cost in controls)])
    body = [*((*head, *_cells(cost, shown)) for head, cost in rows)]
    body += [(text, "", *_cells(cost, shown)) for text, cost in compared]
    levels = [level for replicate in find.replicates for level in replicate.levels]
    note = sentences(
        f"Mean over {over_replicates([len(costs)])}." if len(costs) > 1 else "",
        dense_note(costs) if dense.iterations else "",
        _rewound(levels),
        *_column_notes(shown),
    )
    return Table("What the search cost", ("Training", "Density", *(HEADS[x] for x in shown)), tuple(body), note)


def search_line(find: SearchResult) -> str:
    """What one search cost, in a line: "search: 48,000 iterations, 3.1 TFLOP, 41 s; 6.0 times the dense training"."""
    costs = _whole_searches(find)
    total, dense = mean([cost.total for cost in costs]), mean([cost.dense for cost in costs])
    shown = _shown([total, *(level for cost in costs for level in cost.levels)])
    parts = [f"{count(total.iterations)} iterations"] if total.iterations or "forward_passes" not in shown else []
    parts += [f"{count(total.forward_passes)} forward passes"] if "forward_passes" in shown else []
    parts += [_amount(total, part) for part in ("flops", "seconds", "energy_joules") if _known(total, part)]
    times = ratio(total, dense)
    compared = times.flops if times.flops is not None else times.iterations
    against = f"the dense training{'' if all(cost.dense_trained for cost in costs) else ' (estimated)'}"
    alone = len(costs[0].levels) == 1 and costs[0].dense_trained
    end = "" if alone or compared is None else f"; {significant(compared, 2)} times {against}"
    each = " (mean)" if len(costs) > 1 else ""
    return f"search{each}: {', '.join(parts)}{end}"


def study_cost_table(study: ComparisonResult, looks: Looks) -> Table | None:
    """What one search of every arm cost, beside what it reached, and over the dense arm, or the first."""
    costs = {arm.name: mean([cost.total for cost in arm.costs]) for arm in study.arms if arm.costs}
    if not costs:
        return None
    base = _base(study, costs)
    each = [level for arm in study.arms for cost in arm.costs for level in cost.levels]
    shown, unit = _shown([*costs.values(), *each]), Unit(study.metric)
    rows: list[Row] = [
        (
            Cell(arm.name, look=looks.arm(arm.name)),
            _reached(unit, arm),
            *_cells_over(costs[arm.name], costs[base] if len(costs) > 1 else None, shown),
        )
        for arm in study.arms
        if arm.name in costs
    ]
    levels = [level for arm in study.arms for replicate in arm.replicates for level in replicate]
    below = f"One search, all its levels; below: times that of {base}." if len(costs) > 1 else "All levels."
    note = sentences(
        below,
        f"Mean over {over_replicates({len(arm.costs) for arm in study.arms if arm.costs})}."
        if study.replicates > 1
        else "",
        _rewound(levels),
        *_column_notes(shown),
    )
    head: Row = ("Arm", f"Test {study.metric}", *(HEADS[part] for part in shown))
    return Table("What the arms cost", head, tuple(rows), note)


def verify_cost_table(verify: VerificationResult, looks: Looks) -> Table | None:
    """What one training of every arm cost, over the dense arm's, and what all of them cost together."""
    costs = {name: arm.costs for name, arm in verify.arms.items() if arm.costs}
    if not costs:
        return None
    every = [cost for arm in costs.values() for cost in arm]
    shown = _shown(every)
    base = mean(costs["dense"]) if "dense" in costs else None
    rows: list[Row] = [
        (arm_cell(name, looks), str(len(arm)), *_cells_over(mean(arm), base, shown)) for name, arm in costs.items()
    ]
    rows += [("All trainings", str(len(every)), *_cells(summed(every), shown))]
    below = "; below: times the dense network's" if base is not None else ""
    note = sentences(f"Of an arm the mean of its trainings{below}.", *_column_notes(shown))
    return Table("What the verification cost", ("Arm", "n", *(HEADS[part] for part in shown)), tuple(rows), note)


def dense_note(costs: Sequence[SearchCost]) -> str:
    """Where the cost of one dense training comes from."""
    if all(cost.dense_trained for cost in costs):
        return "One dense training: level 0."
    note = (
        "One dense training: estimated for the whole length of the recipe, from what an iteration of the first level "
        "costs, which computes the network in full size."
    )
    if any(cost.train_prune_retrain is not None for cost in costs):
        note += " Train, prune, train again: that, and the last level's network for the whole length of its recipe."
    return note


def _whole_searches(find: SearchResult) -> list[SearchCost]:
    """The costs of the replicates that have all levels, as all of a finished search have."""
    longest = max(len(replicate.levels) for replicate in find.replicates)
    return [cost for cost in find.costs if len(cost.levels) == longest]


def _longest(find: SearchResult) -> list[tuple[LevelResult, ...]]:
    longest = max(len(replicate.levels) for replicate in find.replicates)
    return [replicate.levels for replicate in find.replicates if len(replicate.levels) == longest]


def _level_row(levels: Sequence[LevelResult]) -> tuple[tuple[str, str], Cost]:
    kept = fmean(level.density for level in levels)
    return (f"Level {levels[0].level}", density(kept)), mean([cost_of(level) for level in levels])


def _controls(find: SearchResult) -> dict[str, list[LevelResult]]:
    found: dict[str, list[LevelResult]] = {}
    for replicate in find.replicates:
        for arm, levels in replicate.arms.items():
            if arm != TICKET and levels:
                found.setdefault(arm, []).extend(levels)
    return found


def _base(study: ComparisonResult, costs: Mapping[str, Cost]) -> str:
    """The arm that costs are compared with."""
    return next((arm.name for arm in study.arms if arm.dense and arm.name in costs), next(iter(costs)))


def _reached(unit: Unit, arm: ComparedArm) -> str:
    reached = spread(arm.test_accuracy.known)
    return MISSING if reached is None else unit.show(reached.mean)


def _shown(costs: Iterable[Cost]) -> list[str]:
    """The parts that are known of any of the costs; forward passes where some led to no training."""
    costs = list(costs)
    untrained = any(cost.forward_passes and not cost.iterations for cost in costs)
    known = [part for part in PARTS if any(_known(cost, part) for cost in costs)]
    return [part for part in known if part != "forward_passes" or untrained]


def _known(cost: Cost, part: str) -> bool:
    return getattr(cost, part) is not None


def _cells(cost: Cost | CostRatio, shown: Sequence[str]) -> list[str]:
    return [_times(cost, part) if isinstance(cost, CostRatio) else _amount(cost, part) for part in shown]


def _cells_over(cost: Cost, base: Cost | None, shown: Sequence[str]) -> list[Cell]:
    """Amounts, each with how many times the base's it is."""
    if base is None:
        return [Cell(_amount(cost, part)) for part in shown]
    times = ratio(cost, base)
    return [Cell(_amount(cost, part), _times(times, part)) for part in shown]


def _amount(cost: Cost, part: str) -> str:
    value = getattr(cost, part)
    return count(value) if part not in _UNITS and value is not None else quantity(value, _UNITS.get(part, ""))


def _times(times: CostRatio, part: str) -> str:
    return multiple(getattr(times, part))


def _rewound(levels: Iterable[LevelResult]) -> str:
    return REWOUND if any(level.first_step for level in levels) else ""


def _column_notes(shown: Sequence[str]) -> list[str]:
    return [_NOTES[part] for part in shown if part in _NOTES]
