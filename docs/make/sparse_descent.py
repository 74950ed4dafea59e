"""docs/sparse-double-descent.md: a pruned LeNet on few images of MNIST, a fifth of them mislabelled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pages import Claim, Table
from results import ends, number, paired, record, sign
from tombola.formats import density
from tombola.study.double_descent.phases import fewest_fitting, phases

PAGE = "docs/sparse-double-descent.md"
STUDY = "mnist-sparse-descent"
ARMS = ("lottery", "finetune", "reinit", "distill")
Point = Mapping[str, Any]


class Curve(NamedTuple):
    """The points of one arm, from dense to sparse."""

    points: Sequence[Point]

    def column(self, name: str) -> list[float]:
        return [point[name] for point in self.points]

    @property
    def peak(self) -> Point:
        """The worst point before the second descent."""
        critical = self.phase("critical")
        return self.at(critical[1])

    @property
    def best_behind(self) -> Point:
        """The lowest test error on the sparse side of the peak."""
        return min((p for p in self.points if p["density"] < self.peak["density"]), key=lambda p: p["test_error"])

    @property
    def threshold(self) -> float:
        found = fewest_fitting(self.column("density"), self.column("train_error"))
        assert found is not None
        return found

    def phase(self, name: str) -> tuple[float | None, float | None]:
        every = phases(self.column("density"), self.column("train_error"), self.column("test_error"))
        return next((one.densest, one.sparsest) for one in every if one.name == name)

    def at(self, place: float | None) -> Point:
        return next(point for point in self.points if point["density"] == place)


def result() -> Mapping[str, Any]:
    found: Mapping[str, Any] = record(STUDY, "double-descent.json")["result"]
    return found


def placed() -> Mapping[str, Any]:
    found: Mapping[str, Any] = record(STUDY, "regime.json")["result"]
    return found


def curve(arm: str) -> Curve:
    own = [point for point in result()["curve"] if point["series"] == arm]
    dense = [] if arm == "lottery" else [point for point in result()["curve"] if point["density"] == 1]
    return Curve(sorted([*dense, *own], key=lambda point: -point["density"]))


def kept(place: float) -> int:
    """Weights kept at a density, in every replicate."""
    found = {t["kept"] for t in placed()["tickets"] if abs(t["kept"] / t["total"] - place) < 1e-9}
    assert len(found) == 1
    return int(found.pop())


def full() -> int:
    return int(placed()["examples"] * placed()["outputs"])


def percent(value: float, decimals: int = 1) -> str:
    return number(100 * value, decimals)


# ---- tables ---------------------------------------------------------------------------------------------------------


def tables() -> Iterator[Table]:
    yield Table("sparse-descent", list(rows()))
    yield Table("sparse-descent-phases", list(phase_rows()))


def rows() -> Iterator[tuple[str, ...]]:
    yield (
        *("kept", "weights / n K", "training error", "wrong labels given", "distance", "test error: lottery"),
        *("fine-tuned", "other weights", "distilled"),
    )
    others = {arm: {point["density"]: point for point in curve(arm).points} for arm in ARMS[1:]}
    for point in curve("lottery").points:
        place = point["density"]
        yield (
            density(place),
            number(kept(place) / full(), 3),
            f"{percent(point['train_error'])} %",
            f"{percent(point['memorised'], 0)} %",
            number(point["distance"], 1),
            f"{percent(point['test_error'])} %",
            *(f"{percent(others[arm][place]['test_error'])} %" if place < 1 else "" for arm in ARMS[1:]),
        )


def phase_rows() -> Iterator[tuple[str, ...]]:
    names = ("light", "critical", "sweet", "collapsed")
    yield "arm", "threshold", *names
    for arm in ARMS:
        own = curve(arm)
        yield arm, density(own.threshold), *(stretch(own.phase(name)) for name in names)


def stretch(ends: tuple[float | None, float | None]) -> str:
    first, last = ends
    if first is None or last is None:
        return "not seen"
    return " to ".join(dict.fromkeys((density(first), density(last))))


# ---- claims ---------------------------------------------------------------------------------------------------------


def claims() -> Iterator[Claim]:
    yield Claim(PAGE, "Replicates: {count};", {"count": str(result()["replicates"])}, result()["replicates"] >= 3)
    yield from _lottery()
    yield from _arms()
    yield from _regime()


def _lottery() -> Iterator[Claim]:
    lottery = curve("lottery")
    dense, worst = lottery.points[0], lottery.points[-3]
    best = min(lottery.points, key=lambda point: point["test_error"])
    errors = lottery.column("test_error")
    rising = errors[lottery.points.index(best) : -2]
    yield Claim(
        PAGE,
        "The dense network gives all wrong labels, and misclassifies {dense} % of the test images. Pruned with "
        "rewinding, it is best at {best} % of the weights ({low} %), and gets worse from level to level until {worst} "
        "% ({high} %)",
        {
            "dense": percent(dense["test_error"]),
            "best": percent(best["density"]),
            "low": percent(best["test_error"]),
            "worst": percent(worst["density"], 2),
            "high": percent(worst["test_error"]),
        },
        dense["memorised"] == 1 and rising == sorted(rising),
    )
    highest = max(lottery.points, key=lambda point: point["test_loss"])
    fallen = min((p for p in lottery.points if p["density"] < highest["density"]), key=lambda p: p["test_loss"])
    yield Claim(
        PAGE,
        "Its test loss does descend twice: it rises to {high} at {peak} % and falls to {low} at {place} %",
        {
            "high": number(highest["test_loss"], 2),
            "peak": percent(highest["density"], 2),
            "low": number(fallen["test_loss"], 2),
            "place": percent(fallen["density"], 2),
        },
        fallen["test_loss"] < highest["test_loss"] / 2 and highest["density"] == lottery.threshold,
    )
    last = lottery.at(lottery.threshold)
    after = next(point for point in lottery.points if point["density"] < lottery.threshold)
    yield Claim(
        PAGE,
        "It fits every label down to {fits} % of the weights; one level later it gives {memorised} % of the wrong "
        "labels, at the end of the curve {end} %",
        {
            "fits": percent(last["density"], 2),
            "memorised": percent(after["memorised"], 0),
            "end": percent(lottery.points[-1]["memorised"], 0),
        },
        after["memorised"] < 0.9 and lottery.points[-1]["memorised"] < after["memorised"],
    )
    moved = lottery.column("distance")[1:]
    shortest, longest = (lottery.points[1 + moved.index(find(moved))] for find in (min, max))
    yield Claim(
        PAGE,
        "Its distance from the first weights is {short} at {near} %, grows to {long} at {far} %, and shrinks from "
        "there on",
        {
            "short": number(shortest["distance"], 1),
            "near": percent(shortest["density"]),
            "long": number(longest["distance"], 1),
            "far": percent(longest["density"], 2),
        },
        longest["density"] < shortest["density"] and moved[-1] < max(moved) and longest["density"] == last["density"],
    )


def _arms() -> Iterator[Claim]:
    arms = {arm: {p["density"]: p for p in curve(arm).points if p["density"] < 1} for arm in ARMS}
    lottery = arms["lottery"]
    numbers, decided = {}, []
    for arm in ARMS:
        own = curve(arm)
        fall = paired(own.peak["values"]["test_error"], own.best_behind["values"]["test_error"], True)
        numbers |= {
            f"{arm}_high": percent(own.peak["test_error"]),
            f"{arm}_peak": percent(own.peak["density"], 2),
            f"{arm}_fall": percent(fall.difference),
            f"{arm}_ends": ends(fall, digits=1),
        }
        decided.append(sign(fall))
    yield Claim(
        PAGE,
        "Behind the peak the mean test error falls again in every arm: that of the lottery from {lottery_high} % at "
        "{lottery_peak} % by {lottery_fall} points ({lottery_ends}), fine-tuned from {finetune_high} % at "
        "{finetune_peak} % by {finetune_fall} ({finetune_ends}), on other weights from {reinit_high} % at "
        "{reinit_peak} % by {reinit_fall} ({reinit_ends}), distilled from {distill_high} % "
        "at {distill_peak} % by {distill_fall} ({distill_ends})",
        numbers,
        decided == [0, 0, 0, 0],
    )
    gains = {
        d: p["test_error"] - min(arms[a][d]["test_error"] for a in ("finetune", "reinit")) for d, p in lottery.items()
    }
    lost, won = max(gains, key=lambda d: gains[d]), min(gains, key=lambda d: gains[d])
    for place, text in (
        (
            won,
            "At {place} % of the weights the lottery is best: it misclassifies {lottery} %, the fine-tuned network "
            "{finetune} %, the same mask on other weights {reinit} %",
        ),
        (lost, "At {place} % it is worst of the three, with {lottery} %, {finetune} % and {reinit} %"),
    ):
        errors = {arm: percent(arms[arm][place]["test_error"]) for arm in ("lottery", "finetune", "reinit")}
        yield Claim(PAGE, text, {"place": percent(place, 2), **errors}, gains[won] < -0.01 and gains[lost] > 0.01)
    apart = max(abs(lottery[d]["test_error"] - arms["distill"][d]["test_error"]) for d in lottery)
    yield Claim(
        PAGE,
        "Distillation from the dense network changes little, at most {apart} points",
        {"apart": percent(apart)},
        apart < 0.03,
    )


def _regime() -> Iterator[Claim]:
    lottery = curve("lottery")
    last = kept(lottery.threshold)
    after = kept(max(p["density"] for p in lottery.points if p["density"] < lottery.threshold))
    yield Claim(
        PAGE,
        "The lottery's threshold lies between {last} and {after} kept weights, {ratio} and {next} n K",
        {
            "last": f"{last:,}",
            "after": f"{after:,}",
            "ratio": number(last / full(), 3),
            "next": number(after / full(), 3),
        },
        last < full(),
    )
    other = kept(curve("finetune").threshold)
    reinit = kept(curve("reinit").threshold)
    yield Claim(
        PAGE,
        "fine-tuned weights leave the labels below {finetune} kept weights ({ratio} n K), the same masks on other "
        "weights below {reinit} ({again} n K)",
        {
            "finetune": f"{other:,}",
            "ratio": number(other / full(), 2),
            "reinit": f"{reinit:,}",
            "again": number(reinit / full(), 2),
        },
        last < reinit < other,
    )
