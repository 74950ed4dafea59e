"""Verdicts on hand-made figures, with Welch bounds computed by hand; their sentences, in every metric's own unit."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tombola.errors import TombolaError
from tombola.formats import plural
from tombola.results.codec import typed
from tombola.results.crossed import Sample, crossed_difference
from tombola.results.statistics import difference, interval
from tombola.results.verification import BoundAlone, ClaimResult, SeedsAlone, SpeedResult
from tombola.study.margin import Margin
from tombola.study.planning import examples_to_decide
from tombola.study.sentence import VerdictContext, sentence, why
from tombola.study.verdict import ArmFigures, compare, describe_arm, examples_of, speed, wins
from trial_results import claim_result, speed_result

SPREAD = (-0.0005, 0.0, 0.0005)
"""Of three replicates: variance 2.5e-7, and of a difference an error of 4.08e-4 with 4 degrees of freedom."""


def arm(*accuracy: float | None, steps: tuple[int | None, ...] = (), observed: bool = True) -> ArmFigures:
    steps = steps or (100,) * len(accuracy)
    return ArmFigures(accuracy, steps, (observed,) * len(accuracy), steps, (200,) * len(accuracy))


def around(mean: float, spread: tuple[float, ...] = SPREAD) -> ArmFigures:
    return arm(*(mean + x for x in spread))


def outcome_arm(outcomes: NDArray[Any]) -> ArmFigures:
    """An arm by its outcomes (replicates, examples)."""
    found = arm(*outcomes.mean(1).tolist())
    return ArmFigures(found.test_accuracy, *(found.early_stop, found.early_stop_observed), *([(100,)] * 2), outcomes)


def drawn(accuracy: float, examples: int, seed: int, replicates: int = 5) -> ArmFigures:
    """Networks that err on the same kind of examples, each a little differently."""
    draw = np.random.default_rng(seed)
    hard = np.random.default_rng(0).standard_normal(examples)
    score = hard + 0.4 * draw.standard_normal((replicates, examples))
    return outcome_arm(score < np.quantile(score, accuracy))


def spoken(
    arms: Mapping[str, ArmFigures], margin: Margin | None = None, metric: str = "accuracy", higher: bool = True
) -> str:
    examples = examples_of(arms)
    allowance = (margin or Margin()).of(metric, arms["dense"].mean or 0.0, share=examples.resolution is not None)
    compared = compare(arms, allowance.amount, higher)

    said = VerdictContext(allowance, examples, len(arms["ticket"].test_accuracy), higher)
    for name, claim in compared.items():
        assert typed(ClaimResult, claim.as_dict(), Path(name)) == claim
    for found in compared.values():
        assert bool(why(found, said)) == (found.verdict != "yes")
    return sentence("This ticket", compared, speed_result(), said)


# -- the statistics of replicates


def test_interval_of_three_values_by_hand() -> None:
    # mean 2, standard deviation 1, t(.975, 2) = 4.30265: 4.30265 / sqrt(3) = 2.48414
    low, high = interval([1.0, 2.0, 3.0]) or (0, 0)
    assert (low, high) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-4)
    assert interval([1.0]) is None


def test_welch_bounds_by_hand() -> None:
    # variances 1 and 4 over 3 each: error sqrt(5/3) = 1.29099,
    # freedom (5/3)^2 / ((1/3)^2/2 + (4/3)^2/2) = 2.94118
    found = difference([1.0, 2.0, 3.0], [0.0, 2.0, 4.0])
    assert found.difference == 0.0
    assert found.lower == pytest.approx(-2.37240 * 1.29099, abs=5e-3)  # t(.95, 2.94118)
    assert found.interval is not None
    assert found.interval[1] == pytest.approx(-found.interval[0])
    assert found.p_value(found.lower) == pytest.approx(0.05)
    assert found.bound(0.025) == pytest.approx(found.interval[0])


# -- verdicts over seeds alone


def test_matches_dense_is_judged_with_the_margin_and_controls_without() -> None:
    # the bound lies t(.95, 4) = 2.132 errors below: 8.7e-4; Holm's for the last claim is the same
    same = around(0.9)
    arms = {"ticket": same, "dense": around(0.901), "random": same, "reinit": around(0.8)}
    found = compare(arms, margin=0.002)
    assert {name: x.verdict for name, x in found.items()} == {"dense": "no", "random": "no", "reinit": "yes"}
    assert found["dense"].lower == pytest.approx(-0.001 - 2.1318 * 4.0825e-4, abs=1e-6)
    assert found["dense"].verdict_uncorrected == "yes"  # p = .035, but the second of three is tested at .025
    assert found["dense"].p_holm == pytest.approx(2 * found["dense"].p)
    assert found["dense"].lower_holm < -0.002 < found["dense"].lower
    assert {x.covers for x in found.values()} == {"training seeds alone"}
    assert {x.confidence_holm for x in found.values()} == {1 - 0.05 / 3, 1 - 0.025}
    assert compare(arms, margin=0.001)["dense"].verdict_uncorrected == "no"
    assert compare(arms, margin=0.003)["dense"].verdict == "yes"


def test_bounds_and_verdicts_agree() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        arms = {name: arm(*(0.9 + 0.003 * draw.standard_normal(4))) for name in ("ticket", "dense", "random", "reinit")}
        for name, found in compare(arms, 0.002).items():
            threshold = -0.002 if name == "dense" else 0.0
            assert (found.verdict == "yes") == (found.lower_holm >= threshold)
            assert (found.verdict_uncorrected == "yes") == (found.lower >= threshold)
            assert (found.p_holm <= 0.05) == (found.verdict == "yes")
            assert found.p_holm >= found.p
            assert found.seeds_alone == BoundAlone(lower=found.lower, interval=found.interval)


def test_fewer_than_three_replicates_decide_nothing_and_say_how_many_would() -> None:
    pair = (-0.001, 0.001)
    arms = {"ticket": around(0.9, pair), "dense": around(0.5, pair), "random": around(0.1, pair)}
    compared = compare(arms, 0.002)
    assert {found.verdict for found in compared.values()} == {"undecided"}
    assert {found.replicates_to_decide for found in compared.values()} == {3}
    assert wins(compared) is None
    open_ = "It is undecided whether this ticket wins: a verdict needs 3 replicates of every arm, and there "
    assert spoken(arms) == (
        f"{open_}are 2. Whether it matches the dense network to within 0.2 points and beats a random mask: about 3 "
        "replicates would decide. Sizes named are for a probability of 80 %, if variances and differences are as "
        "estimated."
    )
    alone = {"ticket": arm(0.9), "dense": arm(0.5), "random": arm(0.9), "reinit": arm(0.1)}
    assert spoken(alone) == f"{open_}is 1."
    some = {**arms, "dense": around(0.9, (-0.002, 0.002)), "random": around(0.9, pair), "reinit": around(0.95, pair)}
    needed = compare(some, 0.002)["dense"].replicates_to_decide
    assert spoken(some).removeprefix(open_).partition(" Sizes")[0] == (
        f"are 2. Whether it matches the dense network to within 0.2 points: about {needed} replicates would decide; "
        "whether it beats a random mask: 10,000 replicates would not decide; whether it beats reinitialised weights: "
        "about 3 replicates would decide against it."
    )
    lost = {**arms, "random": arm(None, None)}
    assert (
        spoken(lost).removeprefix(open_).startswith("are 2; the metric of some runs is not a finite number. Whether it")
    )


def test_replicates_that_agree_are_no_certainty() -> None:
    arms = {"ticket": arm(0.9, 0.9, 0.9), "dense": arm(0.9, 0.9, 0.9), "random": arm(0.8, 0.8, 0.8)}
    found = compare(arms, 0.002)
    assert {x.verdict for x in found.values()} == {"undecided"}
    assert found["dense"].seeds_alone.interval == (0, 0)
    assert "no run differs from another" in spoken(arms)


def test_a_metric_that_is_not_a_number_decides_nothing() -> None:
    for odd in (None, math.nan, math.inf):
        arms = {"ticket": around(0.9), "dense": arm(0.9, odd, 0.8), "random": around(0.5)}
        found = compare(arms, 0.002)
        assert (found["dense"].verdict, found["dense"].difference) == ("undecided", None)
        assert found["random"].verdict == "yes"
        assert wins(found) is None
        says = (
            "It is undecided whether it matches the dense network to within 0.2 points: the metric of some runs is not"
        )
        assert says in spoken(arms)
        assert describe_arm(arms["dense"], []).mean is None


def test_of_an_error_the_lower_one_is_better() -> None:
    arms = {"ticket": around(0.1), "dense": around(0.3), "random": around(0.05)}
    found = compare(arms, 0.002, higher_is_better=False)
    assert {name: part.verdict for name, part in found.items()} == {"dense": "yes", "random": "no"}
    assert found["dense"].difference == pytest.approx(0.2)
    assert found["random"].refuted


# -- verdicts over seeds and test examples


def test_seeds_alone_stand_beside_bounds_that_cover_the_examples_too() -> None:
    arms = {"ticket": drawn(0.95, 359, 1), "dense": drawn(0.96, 359, 2), "random": drawn(0.8, 359, 3)}
    found = compare(arms, 0.002)
    for item in found.values():
        assert item.covers == "training seeds and test examples"
        assert item.lower < item.seeds_alone.lower or item.variance.seeds > item.variance.examples
        assert sum(item.variance.as_dict().values()) == pytest.approx(item.standard_error**2)
    welch = difference(arms["ticket"].finite, arms["dense"].finite)
    assert found["dense"].seeds_alone == BoundAlone(lower=welch.lower, interval=welch.interval)
    assert found["dense"].difference == welch.difference
    ticket = describe_arm(arms["ticket"], [])
    assert ticket.interval[0] < ticket.seeds_alone.interval[0]


def test_a_margin_below_one_example_cannot_be_decided() -> None:
    arms = {"ticket": drawn(0.97, 359, 1), "dense": drawn(0.97, 359, 2), "random": drawn(0.8, 359, 3)}
    found = compare(arms, 0.002)  # one of 359 is .0028
    assert {name: x.verdict for name, x in found.items()} == {"dense": "cannot decide", "random": "yes"}
    assert found["dense"].examples_to_decide >= 500  # 1 / .002
    assert wins(found) is None
    text = spoken(arms)
    assert text.startswith("This ticket beats a random mask (+")
    assert "Whether it matches the dense network to within 0.2 points, this test set cannot decide (" in text
    assert "one of its 359 examples is 0.28 points; to show equal networks equal takes about " in text


def independent(seed: int, accuracy: tuple[float, float]) -> dict[str, ArmFigures]:
    """Ticket and dense that err on any example alike: there is no effect of examples, only of chance."""
    draw = np.random.default_rng(seed)
    return {
        name: outcome_arm(draw.random((20, 359)) < p) for name, p in zip(("ticket", "dense"), accuracy, strict=True)
    }


def test_the_resolution_counts_where_the_examples_have_no_noise_of_their_own() -> None:
    margin, counted, matched = 0.0027, 0, 0  # one of 359 is 0.00279
    for seed in range(400):
        arms = independent(seed, (0.96, 0.95))
        found = compare(arms, margin)["dense"]
        if found.variance.examples == 0 and found.lower < 0:
            counted += 1
            assert found.verdict == "cannot decide"
            assert found.examples_to_decide >= math.ceil(1 / margin)
            if found.lower >= -margin:  # the margin alone would make it a match
                matched += 1
                assert compare(arms, 0.0028)["dense"].verdict == "yes"
    assert counted >= 5
    assert matched >= 2


def test_what_the_margin_has_no_part_in_is_decided_below_its_resolution_too() -> None:
    better = {"ticket": drawn(0.97, 359, 1), "dense": drawn(0.8, 359, 2)}
    assert compare(better, 0.002)["dense"].verdict == "yes"
    worse = compare({"ticket": better["dense"], "dense": better["ticket"]}, 0.002)["dense"]
    assert (worse.verdict, worse.refuted) == ("no", True)
    # a control has no margin
    assert compare({"ticket": drawn(0.97, 359, 1), "random": drawn(0.97, 359, 2)}, 0.002)["random"].verdict == "no"


def test_a_margin_below_the_noise_of_the_examples_cannot_be_decided() -> None:
    arms = {"ticket": drawn(0.9, 1000, 1), "dense": outcome_arm(np.roll(drawn(0.9, 1000, 2).outcomes, 500, 1))}  # type: ignore[arg-type]
    found = compare(arms, 0.002)["dense"]
    assert examples_of(arms).resolution == 0.001
    assert found.verdict == "cannot decide"
    assert 5_000 < found.examples_to_decide < 1_000_000
    assert (
        "the noise of its 1,000 examples alone is larger than that; to show equal networks equal takes about"
        in spoken(arms)
    )
    assert compare(arms, 0.2)["dense"].verdict == "yes"


def test_identical_networks_are_not_certain_either() -> None:
    same = outcome_arm(np.ones((5, 1000), bool))
    found = compare({"ticket": same, "dense": same}, 0.002)["dense"]
    assert found.lower == pytest.approx(-0.003, rel=0.01)
    assert found.verdict == "cannot decide"
    assert compare({"ticket": same, "dense": same}, 0.01)["dense"].verdict == "yes"


def test_metrics_without_results_per_example_say_so() -> None:
    arms = {"ticket": around(0.95), "dense": around(0.95), "random": around(0.8)}
    assert examples_of(arms).count is None
    assert "cover 3 training seeds alone, not the choice of test examples" in spoken(arms)
    mixed = {"ticket": drawn(0.95, 359, 1, 3), "dense": around(0.95)}
    assert compare(mixed, 0.01)["dense"].covers == "training seeds alone"


@pytest.mark.parametrize("examples", range(1, 11))
def test_the_smallest_test_sets_give_a_verdict(examples: int) -> None:
    arms = {name: drawn(0.6, examples, seed) for seed, name in enumerate(("ticket", "dense", "random", "reinit"))}
    found = compare(arms, 0.002)
    assert found["dense"].verdict in ("cannot decide", "no")
    for item in found.values():
        assert -1 <= item.lower_holm <= item.lower
        assert all(-1 <= end <= 1 for end in (*item.interval, *item.seeds_alone.interval))
    told = [describe_arm(found, []) for found in arms.values()]
    assert all(0 <= end <= 1 for one in told for end in (*one.interval, *one.seeds_alone.interval))
    widest = min(item.lower_holm for item in found.values()) == -1
    few = f"excludes nothing: {plural(examples, 'test example')} {'is' if examples == 1 else 'are'} too few."
    assert (few in spoken(arms)) == widest
    assert widest or examples > 2
    assert f"{examples} test example" in spoken(arms)
    assert "one of its 1 " not in spoken(arms)


def test_bounds_of_an_accuracy_reach_no_further_than_is_possible_over_seeds_alone_too() -> None:
    wild = {name: arm(0.0, 1.0, 0.5) for name in ("ticket", "dense", "random")}
    free, found = compare(wild, 0.002)["random"], compare(wild, 0.002, share=True)["random"]
    assert free.lower_holm < -1 == found.lower_holm <= found.seeds_alone.lower
    assert free.p == found.p
    assert describe_arm(wild["ticket"], [], share=True).interval == (0, 1)
    said = VerdictContext(Margin().of("accuracy", 0.5, share=True), examples_of(wild), 3)
    text = sentence("This ticket", compare(wild, 0.002, share=True), speed_result(), said)
    assert "A bound of −100 points excludes nothing: 3 training seeds are too few." in text


def test_next_to_no_difference_names_no_number_of_examples() -> None:
    found = crossed_difference(*(Sample.of(drawn(0.9, 50, seed).outcomes) for seed in (1, 2)))  # type: ignore[arg-type]
    assert examples_to_decide(found, 1e-13, 0.05) is None
    assert (examples_to_decide(found, 0.01, 0.05) or 0) > 50


# -- what would decide


def test_a_claim_not_shown_says_how_many_replicates_would_show_it() -> None:
    wide = tuple(20 * x for x in SPREAD)
    arms = {"ticket": around(0.91, wide), "dense": around(0.9, wide), "random": around(0.905, wide)}
    found = compare(arms, 0.002)
    assert found["dense"].verdict == "no"
    needed = found["dense"].replicates_to_decide
    # error .01 sqrt(2 / n), gap .012, tested at .05 / 2: 2 (.01 (1.96 + .842) / .012)^2 = 10.9, and more by Student's t
    assert 11 <= needed <= 13
    assert f"about {needed} replicates would decide" in spoken(arms)
    assert "a probability of 80 %" in spoken(arms)
    against = {"ticket": around(0.9, wide), "dense": around(0.9, wide), "random": around(0.91, wide)}
    assert "would decide against it" in spoken(against)


def test_or_that_no_number_of_replicates_would() -> None:
    draw = np.random.default_rng(3)
    ticket, control = (np.repeat(draw.random((1, 100)) < p, 5, 0) for p in (0.92, 0.9))
    arms = {"ticket": outcome_arm(ticket), "dense": outcome_arm(control), "random": outcome_arm(control)}
    found = compare(arms, 0.02)["random"]
    assert found.replicates_to_decide is None
    assert found.examples_to_decide > 100
    assert "no number of replicates would decide on 100 test examples, but on about" in spoken(
        arms, Margin(0.5, "absolute")
    )


# -- words and units


def test_the_sentence_of_a_win() -> None:
    arms = {"ticket": around(0.95), "dense": around(0.94), "random": around(0.9), "reinit": around(0.91)}
    text = spoken(arms)
    assert text.startswith(
        "This ticket wins: it matches the dense network to within 0.2 points (+1.00 points, at least "
    )
    assert ", beats a random mask (+5.00 points" in text
    assert "for the 3 claims together (Holm's correction)" in text


def test_the_sentence_says_what_is_shown_and_what_is_not() -> None:
    arms = {"ticket": around(0.9), "dense": around(0.9), "random": around(0.9), "reinit": around(0.92)}
    text = spoken(arms, Margin(0.01))
    assert text.startswith(
        "This ticket does not win: it matches the dense network to within 1 point (+0.00"
    ) or text.startswith("This ticket does not win: it matches the dense network to within 1 point (0.00")
    assert (
        ", but it does not beat reinitialised weights (−2.00 points, at least −2.11) and it is not shown that it "
        in text
    )
    none = {**arms, "dense": around(0.95), "random": around(0.95)}
    assert re.search(
        r"it does not match .* \(.*\), beat a random mask \(.*\) or beat reinitialised weights \(", spoken(none)
    )
    open_ = {"ticket": around(0.9), "dense": arm(0.9, 0.9, None), "random": arm(0.9, None, 0.9), "reinit": around(0.8)}
    assert (
        "It is undecided whether it matches the dense network to within 0.2 points and beats a random mask: the metric "
        "of some runs is not a finite number." in spoken(open_)
    )


def losses(mean: float, seed: int) -> ArmFigures:
    draw = np.random.default_rng(seed)
    base = np.random.default_rng(0).gamma(4.0, 0.25, 400)
    return outcome_arm(mean * base * (1 + 0.01 * draw.standard_normal((5, 400))))


def test_a_loss_has_its_own_unit_and_a_relative_margin() -> None:
    arms = {"ticket": losses(35_010.0, 1), "dense": losses(35_000.0, 2), "random": losses(50_000.0, 3)}
    text = spoken(arms, metric="loss", higher=False)
    assert "points" not in text
    mean = arms["dense"].mean
    assert mean is not None
    assert f"to within {0.002 * mean:.1f} in loss, 0.2 % of the dense mean (improvement " in text
    assert "beats a random mask (improvement +14," in text
    absolute = spoken(arms, Margin(500.0, "absolute"), metric="loss", higher=False)
    assert "to within 500 in loss (" in absolute


def test_an_unbounded_metric_where_more_is_better() -> None:
    arms = {"ticket": losses(28.1, 1), "dense": losses(28.0, 2), "random": losses(20.0, 3)}
    text = spoken(arms, Margin(0.01), metric="PSNR")
    assert "to within 0.271 in PSNR, 1 % of the dense mean (+0.12" in text
    assert "points" not in text
    assert " in PSNR, at least " in text


def test_margins() -> None:
    assert Margin().of("accuracy", 0.5, share=False).amount == 0.002
    assert Margin().of("error", 0.5, share=True).words() == "0.002 in error"
    assert Margin().of("loss", -200.0, share=False).amount == pytest.approx(0.4)
    assert Margin(0.1, "relative").of("accuracy", 0.5, share=True).words() == "5 points, 10 % of the dense mean"
    assert Margin(0.01).of("accuracy", 0.5, share=True).words() == "1 point"
    words = {
        0.2: "20 points",
        0.000279: "0.0279 points",
        0.01234: "1.23 points",
        0.0: "0 points",
        2e-12: "2.00e−10 points",
    }
    for value, text in words.items():
        assert Margin(value).of("accuracy", 0.5, share=True).words() == text
    assert Margin(12.0, "absolute").of("loss", 50.0, share=False).words() == "12 in loss"
    Margin(5.0, "absolute").check("loss")  # in its own unit any size is one
    for value in (1.0, 1.5):
        with pytest.raises(TombolaError, match="any network would match"):
            Margin(value)
        with pytest.raises(TombolaError, match="any network would match"):
            Margin(value, "relative")
        with pytest.raises(TombolaError, match="any network would match"):
            Margin(value, "absolute").check("accuracy")
    Margin(0.999).check("accuracy")
    for odd in (True, "0.1", None, 1j):
        with pytest.raises(TombolaError, match="margin is"):
            Margin(odd, "absolute")  # type: ignore[arg-type]
    for value in (-0.1, math.nan, math.inf):
        with pytest.raises(TombolaError, match="must be a number of at least 0"):
            Margin(value, "absolute")
    with pytest.raises(TombolaError, match="use one of auto, absolute, relative"):
        Margin(0.1, "points")  # type: ignore[arg-type]


# -- speed


def test_earlier_only_if_the_interval_leaves_out_zero() -> None:
    arms = {
        "ticket": arm(0.9, 0.9, 0.9, steps=(50, 52, 54)),
        "dense": arm(0.9, 0.9, 0.9, steps=(100, 104, 108)),
    }
    assert speed(arms).verdict == "earlier"
    arms["ticket"] = arm(0.9, 0.9, 0.9, steps=(20, 100, 180))
    assert speed(arms).verdict == "no difference shown"


def test_a_minimum_at_the_end_or_a_loss_never_reached_is_not_observable() -> None:
    dense = arm(0.9, 0.9, 0.9, observed=False)
    assert speed({"ticket": arm(0.9, 0.9, 0.9), "dense": dense}).verdict == "not observable at this length"
    late = ArmFigures((0.9,) * 3, (10, 10, 10), (True,) * 3, (10, None, 10), (200,) * 3)
    assert speed({"ticket": late, "dense": arm(0.9, 0.9, 0.9)}).verdict == "not observable at this length"


def test_a_dense_run_above_its_own_mean_counts_with_its_whole_length() -> None:
    dense = ArmFigures((0.9,) * 4, (140,) * 4, (True,) * 4, (160, 140, 180, None), (200,) * 4)
    found = speed({"ticket": arm(0.9, 0.9, 0.9, 0.9, steps=(60, 60, 80, 60)), "dense": dense})
    assert (found.verdict, found.ticket_iterations, found.dense_iterations) == ("earlier", 65, 170)
    assert found.dense_runs_that_never_reach_it == 1


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (("yes", "yes", "yes"), True),
        (("yes", "no", "yes"), False),
        (("no", "undecided", "cannot decide"), False),
        (("yes", "undecided", "yes"), None),
        (("cannot decide", "yes", "yes"), None),
    ],
)
def test_wins_are_all_claims_or_none(verdicts: tuple[str, ...], expected: bool | None) -> None:
    assert wins({str(i): claim_result(verdict=verdict) for i, verdict in enumerate(verdicts)}) is expected


def pace(ticket: tuple[int, ...], dense: tuple[int, ...]) -> SpeedResult:
    return speed({"ticket": arm(*[0.9] * len(ticket), steps=ticket), "dense": arm(*[0.9] * len(dense), steps=dense)})


def test_speed_in_every_direction() -> None:
    found = pace((300, 310, 320), (100, 110, 120))
    # 200 more, a variance of 100 / 3 on either side: error 8.165, t(4) = 2.7764
    assert found.interval == pytest.approx([200 - 22.67, 200 + 22.67], abs=0.01)
    assert (found.verdict, found.covers) == ("later", "training seeds alone")
    assert pace((100, 110, 120), (300, 310, 320)).verdict == "earlier"
    assert pace((100, 110, 120), (100, 110, 120)).verdict == "no difference shown"
    assert pace((100, 110), (300, 310)).verdict == "undecided"
    # runs that all agree tell nothing of how far they scatter
    assert pace((100, 100, 100), (100, 100, 100)).verdict == "undecided"
    assert pace((200, 200, 200), (100, 100, 100)).verdict == "undecided"


def test_an_arm_as_json_says_what_its_interval_covers() -> None:
    alone = describe_arm(around(0.9), ["a.csv", "b.csv", "c.csv"])
    assert alone.covers == "training seeds alone"
    assert alone.interval == alone.seeds_alone.interval
    assert alone.interval == pytest.approx(interval([0.8995, 0.9, 0.9005]))
    assert alone.test_accuracy == pytest.approx([0.8995, 0.9, 0.9005])
    assert alone.early_stop_iteration == alone.iterations_to_dense_loss == (100, 100, 100)
    assert alone.early_stop_observed == (True,) * 3
    assert alone.metrics == ("a.csv", "b.csv", "c.csv")
    both = describe_arm(drawn(0.9, 200, 1), [])
    assert both.covers == "training seeds and test examples"
    (low, high), (seeds_low, seeds_high) = both.interval, both.seeds_alone.interval
    assert low < seeds_low < both.mean < seeds_high < high
    broken = describe_arm(arm(0.9, None, 0.9), [])
    assert (broken.mean, broken.interval, broken.seeds_alone) == (None, None, SeedsAlone(interval=None))


def test_two_values_have_an_interval() -> None:
    # t(1) = 12.706, half the distance is its error
    low, high = interval([0.0, 2.0]) or (0, 0)
    assert (low, high) == pytest.approx((1 - 12.7062, 1 + 12.7062), abs=1e-3)
    assert interval([1.0]) is None


def test_runs_that_agree_to_the_evaluation_are_known_to_within_it() -> None:
    arms = {"ticket": arm(0.9, 0.9, 0.9, steps=(80, 80, 80)), "dense": arm(0.9, 0.9, 0.9, steps=(100, 100, 100))}
    assert speed(arms).interval == (-20, -20)
    arms = {name: replace(found, evaluated_every=20) for name, found in arms.items()}
    found = speed(arms)
    # variances 20^2 / 12 over 3 each: error 4.714, t(.975, 4) = 2.7764
    assert found.interval == pytest.approx([-20 - 2.7764 * 4.714, -20 + 2.7764 * 4.714], abs=1e-2)
    assert found.verdict == "earlier"
    arms = {name: replace(found, evaluated_every=40) for name, found in arms.items()}
    assert speed(arms).verdict == "no difference shown"
