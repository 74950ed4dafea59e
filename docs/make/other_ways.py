"""docs/other-ways.md: tickets drawn at initialisation, searched without gradients, or learned by other rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from statistics import fmean

from pages import Claim, Table
from results import Difference, contrast, ends, networks, number, record, sign, spread, turned
from tombola.formats import multiple

PAGE = "docs/other-ways.md"
WAYS, CIFAR, RULES = "mnist-ways", "cifar10-concrete", "mnist-mask-rules"
FULL = "mnist-concrete"
CONTINUOUS, SIGNS = "mnist-continuous", "mnist-signs"
INIT, BUDGETS = "mnist-at-init", ("digits-search-budget", "mnist-search-budget")
CRITERIA = ("magnitude", "snip", "grasp", "synflow", "ntk-sap", "px")


ONE_SHOT = (
    "imp",
    "random, erk",
    "snip",
    "synflow",
    "concrete",
    "edge-popup",
    "intermediate, trained",
    "anneal, trained",
)
PAIRS: Mapping[str, str] = {
    **dict.fromkeys(ONE_SHOT, "one-shot"),
    "snip, shuffled": "snip",
    "synflow, shuffled": "synflow",
    "intermediate": "edge-popup",
    "anneal": "random search",
    "evolve": "random search",
}
"""Arm of `WAYS` -> the one that it is compared with."""
HARDENED: Mapping[str, str] = {"continuous": "imp", "random mask": "continuous"}
TRANSFERRED: Mapping[str, str] = {
    "mask and signs": "mask alone",
    "mask and first signs": "mask and signs",
    "random mask": "mask alone",
}
DENSITIES = ("6.87", "1.8", "0.74")


def against(study: str) -> Mapping[str, str]:
    """Arm -> the one that it is compared with: of the same density, where names end with it."""
    whole = {WAYS: PAIRS, CONTINUOUS: HARDENED, SIGNS: TRANSFERRED}
    if study in whole:
        return whole[study]
    if study == FULL:
        return {arm: "one-shot" for arm in networks(study).arms() if arm != "one-shot"}
    pairs = {arm: f"one-shot {arm.rpartition(' ')[2]}" for arm in networks(study).arms()}
    return {arm: base for arm, base in pairs.items() if arm not in (base, "dense")}


def last(study: str, arm: str, column: str = "test_accuracy") -> list[float]:
    found = networks(study).last_levels().where(arm=arm).values(column)
    assert found, (study, arm, column)
    return found


def flops(study: str, arm: str) -> float:
    """Of a whole search, mean over the replicates; of the dense training of one-shot pruning, where no arm is dense."""
    rows = networks(study).where(arm=arm)
    if arm == "dense" and not rows.rows:
        rows = networks(study).where(arm="one-shot", level=0)
    return sum(rows.values("flops")) / len({row["replicate"] for row in rows.rows})


def cost(study: str, arm: str, unit: str = "dense") -> str:
    return multiple(flops(study, arm) / flops(study, unit))


def kept(study: str, arm: str) -> str:
    return f"{number(100 * fmean(last(study, arm, 'density')), 2)} %"


def behind(study: str, arm: str, base: str) -> str:
    """arm - base in points, with its interval."""
    found = contrast(study, arm, base)
    return f"{number(100 * found.difference, 2, sign=True)} ({ends(found)})"


def compared(study: str, unit: str = "dense") -> Iterator[tuple[str, ...]]:
    yield "", "weights kept", "test accuracy", "FLOPs of the search", "compared with", "difference, points"
    pairs = against(study)
    for arm in networks(study).arms():
        base = pairs.get(arm, "")
        yield (
            *(arm, kept(study, arm), spread(last(study, arm)), cost(study, arm, unit)),
            *((base, behind(study, arm, base)) if base else ("", "")),
        )


def tables() -> Iterator[Table]:
    yield Table(WAYS, list(compared(WAYS)))
    yield Table(FULL, list(compared(FULL)))
    yield Table(CIFAR, list(compared(CIFAR)))
    yield Table(RULES, list(rule_rows()))
    yield Table(CONTINUOUS, list(beside(CONTINUOUS)))
    yield Table(SIGNS, list(beside(SIGNS)))
    yield Table(INIT, list(init_rows()))
    for study in BUDGETS:
        yield Table(study, list(budget_rows(study)))


def beside(study: str) -> Iterator[tuple[str, ...]]:
    yield "", "weights kept", "test accuracy", "compared with", "difference, points"
    pairs, arms = against(study), networks(study).arms()
    if "dense" not in arms:
        dense = networks(study).where(arm="imp", level=0).values("test_accuracy")
        yield "dense, where imp begins", "100.00 %", spread(dense), "", ""
    for arm in arms:
        base = pairs.get(arm, "")
        yield arm, kept(study, arm), spread(last(study, arm)), base, behind(study, arm, base) if base else ""


def init_rows() -> Iterator[tuple[str, ...]]:
    yield "kept are the largest by", "test accuracy", "shuffled within layers", "shuffled less unshuffled, points"
    for arm in ("dense", "imp 0.05", "random, erk 0.05"):
        yield arm.removesuffix(" 0.05"), spread(last(INIT, arm)), "", ""
    for criterion in CRITERIA:
        own, shuffled = f"{criterion} 0.05", f"{criterion}, shuffled 0.05"
        yield criterion, spread(last(INIT, own)), spread(last(INIT, shuffled)), behind(INIT, shuffled, own)


def budget_rows(study: str) -> Iterator[tuple[str, ...]]:
    yield "", "test accuracy", "less random search, points"
    first, *others = networks(study).arms()
    yield first.removesuffix(" 0.5"), spread(last(study, first)), ""
    for arm in others:
        yield arm.removesuffix(" 0.5"), spread(last(study, arm)), behind(study, arm, first)


def rule_rows() -> Iterator[tuple[str, ...]]:
    yield "rule", "weights kept", "test accuracy", "of drawn masks, mean", "compared with intermediate, points"
    for arm in networks(RULES).arms():
        sampled = networks(RULES).last_levels().where(arm=arm).values("test_accuracy_sampled")
        yield (
            *(arm, kept(RULES, arm), spread(last(RULES, arm)), spread(sampled) if sampled else ""),
            behind(RULES, arm, "intermediate") if arm != "intermediate" else "",
        )


# ---- claims --------------------------------------------------------------------------------------------------


def size(found: Difference) -> str:
    """The difference in points, without its sign."""
    return number(abs(100 * found.difference), 2)


def claims() -> Iterator[Claim]:
    speeds = [row["loop/vmap"]["median"] for row in record("benchmarks/intel-xeon", "population.json")["rows"]]
    yield Claim(
        "docs/supermasks.md",
        "at once is {low} to {high} times as fast as one by one",
        {"low": number(min(speeds), 2), "high": number(max(speeds), 2)},
    )
    yield from init_claims()
    yield from concrete_claims()
    yield from full_claims()
    yield from cifar_claims()
    yield from search_claims()
    yield from (found() for found in FOUND.values())


def continuous_claim() -> Claim:
    rounds, chance = (contrast(CONTINUOUS, "continuous", other) for other in ("imp", "random mask"))
    return Claim(
        PAGE,
        "at {kept} of the weights continuous is {chance} points ({over}) above a random mask with its layer densities, "
        "and {rounds} points ({ends}) below imp in three rounds of the same length",
        {
            "kept": kept(CONTINUOUS, "continuous"),
            "chance": size(chance),
            "over": ends(chance),
            "rounds": size(rounds),
            "ends": ends(turned(rounds)),
        },
        sign(chance) == 1 and sign(rounds) == -1,
    )


def signs_claim() -> Claim:
    signs, first, chance = (contrast(SIGNS, arm, base) for arm, base in TRANSFERRED.items())
    return Claim(
        PAGE,
        "on fresh weights the signs of this ticket add {signs} points ({over}) to what its mask alone reaches, which "
        "is {chance} points ({chance_ends}) above a random mask with the same layer densities; no difference is shown "
        "between the signs that its weights were trained to and those that they began with ({first})",
        {
            "signs": size(signs),
            "over": ends(signs),
            "chance": size(chance),
            "chance_ends": ends(turned(chance)),
            "first": ends(turned(first)),
        },
        sign(signs) == 1 and sign(chance) == -1 and sign(first) == 0,
    )


FOUND: Mapping[str, Callable[[], Claim]] = {"continuous": continuous_claim, "sign-transfer": signs_claim}
"""Method -> what its figure shows, which its page says too."""


def init_claims() -> Iterator[Claim]:
    loses = {name: contrast(INIT, f"{name}, shuffled 0.05", f"{name} 0.05") for name in CRITERIA}
    yield Claim(
        PAGE,
        "Shuffling loses {snip} points of SNIP's, {magnitude} of magnitude's and {px} of PX's; of GraSP, SynFlow and "
        "NTK-SAP no difference is shown",
        {name: size(loses[name]) for name in ("snip", "magnitude", "px")},
        {name for name, found in loses.items() if sign(found) == -1} == {"snip", "magnitude", "px"}
        and all(sign(found) < 1 for found in loses.values()),
    )
    best, chance = (contrast(INIT, "snip 0.05", f"{other} 0.05") for other in ("imp", "random, erk"))
    yield Claim(
        PAGE,
        "SNIP, the best of them, is {ahead} points ({over}) above a random mask with ERK densities and {less} below "
        "imp",
        {"ahead": size(chance), "over": ends(chance), "less": size(best)},
        sign(chance) == 1
        and sign(best) == -1
        and max(CRITERIA, key=lambda name: fmean(last(INIT, f"{name} 0.05"))) == "snip",
    )
    snip, synflow = (contrast(WAYS, f"{name}, shuffled", name) for name in ("snip", "synflow"))
    yield Claim(
        PAGE,
        "not so for SNIP, which shuffled loses {lost} points ({snip}); for SynFlow confirmed, no difference is shown "
        "({synflow})",
        {"lost": size(snip), "snip": ends(snip), "synflow": ends(synflow)},
        sign(snip) == -1 and sign(synflow) == 0,
    )
    late = {name: contrast(WAYS, name, "one-shot") for name in ("snip", "synflow", "random, erk")}
    yield Claim(
        PAGE,
        "confirmed: at equal cost SNIP is {snip} points behind one-shot pruning by magnitude, SynFlow {synflow} and a "
        "random mask {chance}",
        {"snip": size(late["snip"]), "synflow": size(late["synflow"]), "chance": size(late["random, erk"])},
        all(sign(found) == -1 for found in late.values()),
    )


def concrete_claims() -> Iterator[Claim]:
    once, rounds = contrast(WAYS, "concrete", "one-shot"), contrast(WAYS, "imp", "concrete")
    yield Claim(
        PAGE,
        "at 5 % not shown: the difference from one-shot pruning of about the same cost is {once} points, and imp in "
        "five rounds is ahead by {ahead} ({rounds}), at {times} times the FLOPs",
        {
            "once": ends(once),
            "ahead": size(rounds),
            "rounds": ends(rounds),
            "times": number(flops(WAYS, "imp") / flops(WAYS, "concrete"), 1),
        },
        sign(once) == 0 and sign(rounds) == 1,
    )


def full_claims() -> Iterator[Claim]:
    long, short = (contrast(FULL, name, "one-shot") for name in ("concrete", "concrete, short"))
    rounds = contrast(FULL, "imp", "concrete")
    yield Claim(
        PAGE,
        "At full length and 1.8 % confirmed for the cost, not for the accuracy: no difference from one-shot pruning is "
        "shown ({long} points; {short_ends} for the short search, at {cost} of its FLOPs), and imp in six rounds is "
        "ahead by {ahead} ({rounds}), at {times} times the FLOPs of the long search and {more} of the short one",
        {
            "long": ends(long),
            "short_ends": ends(short),
            "cost": number(flops(FULL, "concrete, short") / flops(FULL, "one-shot"), 2),
            "ahead": size(rounds),
            "rounds": ends(rounds),
            "times": number(flops(FULL, "imp") / flops(FULL, "concrete"), 1),
            "more": number(flops(FULL, "imp") / flops(FULL, "concrete, short"), 1),
        },
        sign(long) == sign(short) == 0 and sign(rounds) == 1,
    )


def cifar_claims() -> Iterator[Claim]:
    rounds = {d: contrast(CIFAR, f"imp {d}", f"concrete {d}") for d in DENSITIES}
    once = {d: contrast(CIFAR, f"concrete {d}", f"one-shot {d}") for d in DENSITIES}
    dense, most, least = DENSITIES
    yield Claim(
        PAGE,
        "Not so for ResNet-20 at six epochs: imp is ahead by {dense}, {most} and {least} points at 6.87, 1.8 and "
        "0.74 % (at the last {ends}), at {times} times the FLOPs; against one-shot pruning of about its own cost it "
        "loses {lost} points at 6.87 % and no difference is shown at 1.8 and 0.74 % ({middle} and {last})",
        {
            **{
                name: number(100 * rounds[d].difference, 1)
                for name, d in zip(("dense", "most", "least"), DENSITIES, strict=True)
            },
            "ends": ends(rounds[least], digits=1),
            "times": number(flops(CIFAR, f"imp {least}") / flops(CIFAR, f"concrete {least}"), 1),
            "lost": number(-100 * once[dense].difference, 1),
            "middle": ends(once[most], digits=1),
            "last": ends(once[least], digits=1),
        },
        all(sign(found) == 1 for found in rounds.values()) and [sign(once[d]) for d in DENSITIES] == [-1, 0, 0],
    )


def search_claims() -> Iterator[Claim]:
    anneal, evolve = (contrast(WAYS, name, "random search") for name in ("anneal", "evolve"))
    popup = {name: contrast(WAYS, name, "edge-popup") for name in ("anneal", "evolve")}
    yield Claim(
        PAGE,
        "confirmed that ten classes are hard: at 5 % annealing is ahead of random search by {anneal} points ({over}), "
        "of evolution that is not shown ({evolve}), and both are far behind edge-popup, by {popup} and {other} points; "
        "at half of the weights both are ahead of random search, and far behind edge-popup",
        {
            "anneal": size(anneal),
            "over": ends(anneal),
            "evolve": ends(evolve),
            "popup": number(abs(100 * popup["anneal"].difference), 0),
            "other": number(abs(100 * popup["evolve"].difference), 0),
        },
        sign(anneal) == 1 and sign(evolve) == 0 and all(sign(found) == -1 for found in popup.values()),
    )
    yield from budget_claims()
    rules = {name: contrast(RULES, "intermediate", name) for name in ("threshold", "bernoulli", "edge-popup")}
    drawn = {name: 100 * fmean(last(RULES, name, "test_accuracy_sampled")) for name in ("bernoulli", "intermediate")}
    yield Claim(
        PAGE,
        "its mask of the likeliest weights is {above} points above that of drawn masks, {below} below thresholded ones "
        "and {popup} below edge-popup's; but the masks that Zhou's rule draws reach {bernoulli} % in the mean, its own "
        "{intermediate} %",
        {
            "above": size(rules["bernoulli"]),
            "below": size(rules["threshold"]),
            "popup": size(rules["edge-popup"]),
            **{name: number(value, 1) for name, value in drawn.items()},
        },
        sign(rules["bernoulli"]) == 1
        and sign(rules["threshold"]) == sign(rules["edge-popup"]) == -1
        and drawn["bernoulli"] > drawn["intermediate"],
    )
    intermediate, trained = (
        contrast(WAYS, "intermediate", "edge-popup"),
        contrast(WAYS, "intermediate, trained", "one-shot"),
    )
    yield Claim(
        PAGE,
        "no difference from edge-popup is shown at equal cost and density ({ends}), for its searches differ much; with "
        "its weights trained it is {behind} points behind one-shot pruning",
        {"ends": ends(intermediate), "behind": size(trained)},
        sign(intermediate) == 0 and sign(trained) == -1,
    )


def budget_claims() -> Iterator[Claim]:
    digits, mnist = BUDGETS
    yield Claim(
        PAGE,
        "annealing beats the best of as many random masks by {anneal} points on the digits and {anneal_m} on MNIST, "
        "evolution by {evolve} and {evolve_m}; edge-popup, at the same forward passes, is {popup} and {popup_m} points "
        "above annealing, and three times the FLOPs",
        {
            **{name: size(contrast(digits, f"{name} 0.5", "random-search 0.5")) for name in ("anneal", "evolve")},
            **{f"{name}_m": size(contrast(mnist, f"{name} 0.5", "random-search 0.5")) for name in ("anneal", "evolve")},
            "popup": number(100 * contrast(digits, "edge-popup 0.5", "anneal 0.5").difference, 1),
            "popup_m": number(100 * contrast(mnist, "edge-popup 0.5", "anneal 0.5").difference, 1),
        },
        all(
            sign(contrast(study, f"{name} 0.5", "random-search 0.5")) == 1
            for study in BUDGETS
            for name in ("anneal", "evolve")
        )
        and all(sign(contrast(study, "edge-popup 0.5", "anneal 0.5")) == 1 for study in BUDGETS)
        and all(round(flops(study, "edge-popup 0.5") / flops(study, "anneal 0.5"), 1) == 3 for study in BUDGETS),
    )
