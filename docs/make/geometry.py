"""docs/geometry.md: whether trainings of a ticket end in one valley, and what tells a ticket before training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pages import Claim, Table
from results import number, percent, record, spread

PAGE = "docs/geometry.md"
CONNECTIVITY, LANDSCAPE = "mnist-connectivity", "digits-landscape"
STEPS = ("the start", "iteration 200")
ARMS = {"dense": "dense", "ticket": "ticket", "random": "random mask", "reinit": "other initialisation"}


def connectivity() -> Mapping[str, Any]:
    found: Mapping[str, Any] = record("mnist-connectivity", "connectivity.json")["result"]
    return found


def pair(arm: str, level: int) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(p for p in connectivity()["pairs"] if (p["arm"], p["level"]) == (arm, level))
    return found


def against(control: str, level: int) -> Mapping[str, Any]:
    """The ticket's test barrier minus a control's."""
    rows = connectivity()["differences"]
    found: Mapping[str, Any] = next(d for d in rows if (d["against"], d["level"]) == (control, level))["test"]
    return found


def landscape() -> Mapping[str, Any]:
    found: Mapping[str, Any] = record("digits-landscape", "landscape.json")["result"]
    return found


def on_mnist() -> list[Mapping[str, Any]]:
    """LeNet on MNIST, one record for each of three initialisations."""
    return [record("mnist-landscape", f"seed-{seed}.json")["result"] for seed in range(3)]


def told(statistic: str, kind: str) -> Mapping[str, Any]:
    """A rank correlation."""
    rows = landscape()["correlations"]
    found: Mapping[str, Any] = next(row for row in rows if row["statistic"] == statistic)[kind]
    return found


def tables() -> Iterator[Table]:
    yield Table(CONNECTIVITY, list(barriers()))
    yield Table(LATER, list(later_rows()))
    yield Table(LANDSCAPE, list(correlations()))
    yield Table("mnist-landscape", list(on_mnist_correlations()))


LATER = "mnist-connectivity-later"


def later() -> list[Mapping[str, Any]]:
    """Pairs of trainings from the initialisation and from iteration 200, twice as long."""
    found: list[Mapping[str, Any]] = record(LATER, "connectivity.json")["result"]["pairs"]
    return found


def later_rows() -> Iterator[tuple[str, ...]]:
    yield "", "weights kept", *(f"{what}, from {step}" for what in ("barrier, test", "distance") for step in STEPS)
    places = dict.fromkeys((found["arm"], found["level"]) for found in later())
    for arm, level in places:
        both = [found for found in later() if (found["arm"], found["level"]) == (arm, level)]
        yield (
            ARMS[arm],
            percent(both[0]["density"]),
            *(spread(found["test_barrier"]["values"]) for found in both),
            *(spread(found["distance"]["values"], 1, 2) for found in both),
        )


def correlations() -> Iterator[tuple[str, ...]]:
    yield "before training", "at equal density", "against the shuffled control", "over all masks"
    for row in landscape()["correlations"]:
        kinds = ("within_density", "against_shuffled", "overall")
        yield row["statistic"].replace("_", " "), *(ranked(row[kind]) for kind in kinds)


def on_mnist_correlations() -> Iterator[tuple[str, ...]]:
    kinds = {"within_density": "at equal density", "against_shuffled": "against the shuffled control"}
    yield "before training", *(f"{words}, seed {seed}" for words in kinds.values() for seed in range(3))
    for rows in zip(*(result["correlations"] for result in on_mnist()), strict=True):
        if rows[0]["statistic"] != "density":
            name = rows[0]["statistic"].replace("_", " ")
            yield name, *(ranked(row[kind]) for kind in kinds for row in rows)


def ranked(found: Mapping[str, Any]) -> str:
    if found["value"] is None:
        return ""
    return f"{number(found['value'], 2, sign=True)} ({interval(found, 1)})"


def barriers() -> Iterator[tuple[str, ...]]:
    yield "", "weights kept", "barrier, test", "barrier, train", "loss barrier, test", "test accuracy", "distance"
    for found in connectivity()["pairs"]:
        yield (
            ARMS[found["arm"]],
            percent(found["density"]),
            spread(found["test_barrier"]["values"]),
            spread(found["train_barrier"]["values"]),
            spread(found["test_loss_barrier"]["values"], 1, 3),
            spread(found["accuracy"]["values"]),
            spread(found["distance"]["values"], 1, 2),
        )


def interval(found: Mapping[str, Any], factor: float = 100) -> str:
    low, high = (number(factor * end, 2, sign=True) for end in found["interval"])
    return f"{low} to {high}"


def claims() -> Iterator[Claim]:
    whole = [p["test_barrier"] for p in connectivity()["pairs"]]
    worst = max(found["interval"][1] for found in whole)
    yield Claim(
        PAGE,
        "no interval of a barrier reaches beyond {worst} points of test error",
        {"worst": number(100 * worst, 2)},
        worst < 0.02,
    )
    reinit, random = against("reinit", 2), against("random", 2)
    yield Claim(
        PAGE,
        "At {kept} the ticket's barrier is {less} points below that of its mask on another initialisation ({reinit}); "
        "against a random mask on its own weights the difference is not significant ({random})",
        {
            "kept": percent(pair("ticket", 2)["density"]),
            "less": number(-100 * reinit["mean"], 2),
            "reinit": interval(reinit),
            "random": interval(random),
        },
        reinit["interval"][1] < 0 < random["interval"][1] and random["interval"][0] < 0,
    )
    middle = [against(control, 1) for control in ("random", "reinit")]
    yield Claim(
        PAGE,
        "At {kept} neither difference is significant ({random}; {reinit})",
        {
            "kept": percent(pair("ticket", 1)["density"]),
            "random": interval(middle[0]),
            "reinit": interval(middle[1]),
        },
        all(found["interval"][0] < 0 < found["interval"][1] for found in middle),
    )
    far = {arm: pair(arm, 2)["distance"] for arm in ("ticket", "random", "reinit")}
    yield Claim(
        PAGE,
        "the two ends of a ticket of {kept} lie {ticket} apart, those of its controls {random} and {reinit}. So low",
        {
            "kept": percent(pair("ticket", 2)["density"]),
            **{arm: number(found["mean"], 2) for arm, found in far.items()},
        },
        far["ticket"]["interval"][1] < min(far["random"]["interval"][0], far["reinit"]["interval"][0]),
    )
    accuracy = {arm: pair(arm, 2)["accuracy"] for arm in ("ticket", "random", "reinit")}
    yield Claim(
        PAGE,
        "though they reach {random} and {reinit} % where the ticket reaches {ticket} %",
        {arm: number(100 * found["mean"], 2) for arm, found in accuracy.items()},
        accuracy["ticket"]["interval"][0] > max(accuracy["random"]["mean"], accuracy["reinit"]["mean"]),
    )
    yield from _later_claims()
    yield from _landscape_claims()
    yield from _mnist_landscape_claims()


def _later_claims() -> Iterator[Claim]:
    found = {
        (row["from_step"], row["against"]): row["test"]
        for row in record(LATER, "connectivity.json")["result"]["differences"]
        if row["level"] == 2
    }
    yield Claim(
        PAGE,
        "From the start the ticket's barrier is {random} points below that of a random mask ({random_ends}) and "
        "{reinit} below that of its mask on another initialisation ({reinit_ends})",
        {
            "random": number(-100 * found[0, "random"]["mean"], 2),
            "random_ends": interval(found[0, "random"]),
            "reinit": number(-100 * found[0, "reinit"]["mean"], 2),
            "reinit_ends": interval(found[0, "reinit"]),
        },
        all(found[0, control]["interval"][1] < 0 for control in ("random", "reinit")),
    )
    yield Claim(
        PAGE,
        "from iteration 200 by {random} ({random_ends}), and of the other difference nothing is decided "
        "({reinit_ends})",
        {
            "random": number(-100 * found[200, "random"]["mean"], 2),
            "random_ends": interval(found[200, "random"]),
            "reinit_ends": interval(found[200, "reinit"]),
        },
        found[200, "random"]["interval"][1] < 0 < found[200, "reinit"]["interval"][1],
    )
    dense = {row["from_step"]: row["distance"] for row in later() if row["arm"] == "dense"}
    yield Claim(
        PAGE,
        "Two dense trainings that part at iteration 200 end {later} from each other, those that part at the "
        "start {start} from each other",
        {"later": number(dense[200]["mean"], 2), "start": number(dense[0]["mean"], 2)},
        dense[200]["interval"][1] < dense[0]["interval"][0],
    )
    worst = max(row["test_barrier"]["interval"][1] for row in later())
    yield Claim(
        PAGE,
        "All stay stable by the published rule: no interval reaches beyond {worst} points.",
        {"worst": number(100 * worst, 2)},
        worst < 0.02,
    )


TOLD = ("gradient_norm", "eigenvalue", "px", "ntk_sap", "trace", "sign_agreement", "gradsign")
"""Statistics of which the page says that they tell something at equal density."""


def value(name: str, *, tickets: bool) -> list[float]:
    """A statistic of the tickets, or of every other mask."""
    masks = landscape()["masks"]
    return [m["statistics"][name]["mean"] for m in masks if tickets == (m["source"] == "imp" and not m["shuffled"])]


def _landscape_claims() -> Iterator[Claim]:
    within = {name: told(name, "within_density") for name in TOLD}
    others = [told(name, "within_density") for name in ("loss", "growing")]
    yield Claim(
        PAGE,
        "from {least} (GradSign and sign agreement) to {most} (gradient norm); those of the loss and of the growing "
        "weights include 0",
        {
            "least": number(within["gradsign"]["value"], 2, sign=True),
            "most": number(within["gradient_norm"]["value"], 2, sign=True),
        },
        all(found["interval"][0] > 0 for found in within.values())
        and max(within, key=lambda name: within[name]["value"]) == "gradient_norm"
        and min(within, key=lambda name: within[name]["value"]) in ("gradsign", "sign_agreement")
        and all(found["interval"][0] < 0 < found["interval"][1] for found in others),
    )
    names = (*TOLD, "loss", "growing")
    against_shuffled = [told(name, "against_shuffled") for name in names]
    yield Claim(
        PAGE,
        "No statistic tells a mask from its own shuffle: all intervals include 0",
        {},
        all(found["interval"][0] < 0 < found["interval"][1] for found in against_shuffled),
    )
    yield Claim(
        PAGE,
        "The density alone gives {density} over all masks",
        {"density": number(told("density", "overall")["value"], 2, sign=True)},
    )
    loss, growing = (
        {tickets: value(name, tickets=tickets) for tickets in (True, False)} for name in ("loss", "growing")
    )
    yield Claim(
        PAGE,
        "their loss is {low} to {high} before any training, that of every other mask at least {other}; {grow_low} to "
        "{grow_high} % of their weights grow at the first step, of the others' at most {grow_other} %",
        {
            "low": number(min(loss[True]), 2),
            "high": number(max(loss[True]), 2),
            "other": number(min(loss[False]), 2),
            "grow_low": number(100 * min(growing[True]), 1),
            "grow_high": number(100 * max(growing[True]), 1),
            "grow_other": number(100 * max(growing[False]), 1),
        },
        max(loss[True]) < min(loss[False]) and min(growing[True]) > max(growing[False]),
    )


def _mnist_landscape_claims() -> Iterator[Claim]:
    ranks = {"gradient_norm", "eigenvalue", "trace", "ntk_sap", "px"}
    clear = [
        {row["statistic"] for row in result["correlations"] if excludes_zero(row["within_density"])}
        for result in on_mnist()
    ]
    values = [
        row["within_density"]["value"]
        for result in on_mnist()
        for row in result["correlations"]
        if row["statistic"] in ranks
    ]
    yield Claim(
        PAGE,
        "five statistics rank the masks of one density better than chance at all three initialisations, from {low} to "
        "{high}: gradient norm, eigenvalue, trace, NTK-SAP and PX",
        {"low": number(min(values), 2, sign=True), "high": number(max(values), 2, sign=True)},
        all(found == ranks for found in clear),  # GradSign and sign agreement among those that do not
    )
    told_apart = [
        (seed, row["statistic"], row["against_shuffled"])
        for seed, result in enumerate(on_mnist())
        for row in result["correlations"]
        if excludes_zero(row["against_shuffled"])
    ]
    compared = sum(row["statistic"] != "density" for result in on_mnist() for row in result["correlations"])
    yield Claim(
        PAGE,
        "Of {count} comparisons with the shuffled control one interval leaves out 0, on the wrong side: NTK-SAP "
        "at seed 1 ({ends})",
        {"count": str(compared), "ends": interval(told_apart[0][2], 1)},
        [(seed, name, found["value"] < 0) for seed, name, found in told_apart] == [(1, "ntk_sap", True)],
    )


def excludes_zero(found: Mapping[str, Any]) -> bool:
    low, high = found["interval"] or (0, 0)
    return not low <= 0 <= high
