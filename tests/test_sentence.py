"""Whole verdicts in words, from figures made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tombola.results.verification import ClaimResult, VarianceBySource
from tombola.study.margin import Margin
from tombola.study.sentence import VerdictContext, sentence, why
from tombola.study.verdict import Examples
from trial_results import claim_result, speed_result

ALL, SEEDS = "training seeds and test examples", "training seeds alone"
NO_PACE = speed_result()
SIZES = " Sizes named are for a probability of 80 %, if variances and differences are as estimated."


def found(verdict: str, difference: float | None, lower: float | None, **more: Any) -> ClaimResult:
    """One claim's comparison; a control's, seen over examples too, unless `more` says otherwise."""
    return claim_result(verdict=verdict, difference=difference, lower_holm=lower, **{"covers": ALL, **more})


def said(
    count: int | None = 500, replicates: int = 5, metric: str = "accuracy", *, share: bool = True
) -> VerdictContext:
    allowance = Margin().of(metric, 50.0, share=share)
    return VerdictContext(allowance, Examples(count, 1 / count if count and share else None), replicates)


def bounds(count: str = "500 test examples (one is 0.2 points)", claims: int = 3) -> str:
    together = f" for the {claims} claims together (Holm's correction)" if claims > 1 else ""
    return f" The bounds cover 5 training seeds and {count}; they hold at 95 %{together}."


def test_a_win_and_its_pace() -> None:
    three = {
        "dense": found("yes", 0.01, 0.003, threshold=-0.002),
        "random": found("yes", 0.05, 0.04),
        "reinit": found("yes", 0.06, 0.05),
    }
    pace = speed_result("earlier", 1234.4, 2000.0)
    text = sentence("This ticket", three, pace, said())
    assert text == (
        "This ticket wins: it matches the dense network to within 0.2 points (+1.00 points, at least +0.30), beats a "
        "random mask (+5.00 points, at least +4.00) and beats reinitialised weights (+6.00 points, at least +5.00)."
        f"{bounds()} It reaches the dense network's lowest validation loss earlier, after 1,234 iterations instead of "
        "2,000."
    )
    assert "loss later, after 1,234" in sentence("This ticket", three, pace.replace(verdict="later"), said())
    assert {why(each, said()) for each in three.values()} == {""}


def test_what_is_refuted_and_what_is_not_shown() -> None:
    wrong = found("no", -0.05, -0.06, refuted=True)
    three = {"dense": wrong.replace(threshold=-0.002), "random": wrong, "reinit": wrong}
    numbers = "(−5.00 points, at least −6.00)"
    assert sentence("This ticket", three, NO_PACE, said()) == (
        f"This ticket does not win: it does not match the dense network to within 0.2 points {numbers}, beat a random "
        f"mask {numbers} or beat reinitialised weights {numbers}.{bounds()}"
    )
    assert why(wrong, said()) == "the opposite is shown"
    open_ = found("no", 0.01, -0.01, replicates_to_decide=12)
    more = found("no", -0.01, -0.02, replicates_to_decide=1234)
    assert sentence("This ticket", {"dense": three["dense"], "random": open_, "reinit": more}, NO_PACE, said()) == (
        f"This ticket does not win: it does not match the dense network to within 0.2 points {numbers} and it is not "
        "shown that it beats a random mask (+1.00 points, at least −1.00; about 12 replicates would decide) or that it "
        "beats reinitialised weights (−1.00 points, at least −2.00; about 1,234 replicates would decide against it)."
        f"{bounds()}{SIZES}"
    )
    two = {"dense": found("yes", 0.0, 0.0, threshold=-0.002), "random": open_}
    assert sentence("This ticket", two, NO_PACE, said()) == (
        "This ticket does not win: it matches the dense network to within 0.2 points (0.00 points, at least 0.00), but "
        "it is not shown that it beats a random mask (+1.00 points, at least −1.00; about 12 replicates would decide)."
        f"{bounds(claims=2)}{SIZES}"
    )
    only = sentence("This ticket", {"random": found("no", 0.0, -0.01)}, NO_PACE, said())
    assert only == (
        "This ticket does not win: it is not shown that it beats a random mask (0.00 points, at least −1.00; no number "
        f"of replicates would decide on 500 test examples).{bounds(claims=1)}"
    )


@pytest.mark.parametrize(
    ("needed", "words"),
    [(7, "7"), (42, "42"), (100, "100"), (101, "110"), (1230, "1,300"), (98_765, "99,000"), (99_001, "100,000")],
)
def test_planned_examples_are_rounded_up_to_two_digits(needed: int, words: str) -> None:
    text = why(found("no", 0.01, -0.01, examples_to_decide=needed), said())
    assert text == f"no number of replicates would decide on 500 test examples, but on about {words} or more"


def test_the_side_that_more_replicates_would_decide_for() -> None:
    on_it = found("no", 0.0, -0.01, replicates_to_decide=1)
    assert why(on_it, said()) == "about 1 replicate would decide"
    assert why(on_it.replace(difference=-1e-9), said()) == "about 1 replicate would decide against it"
    assert why(on_it.replace(difference=-0.001, threshold=-0.002), said()) == "about 1 replicate would decide"
    assert why(found("no", 0.0, -0.01), said(None)) == "10,000 replicates would not decide"


def test_what_a_test_set_cannot_decide() -> None:
    dense = found("cannot decide", 0.0, -0.01, threshold=-0.002, examples_to_decide=1234)
    start = "Whether this ticket matches the dense network to within 0.2 points, this test set cannot decide (0.00 "
    assert sentence("This ticket", {"dense": dense}, NO_PACE, said(400)) == (
        f"{start}points, at least −1.00): one of its 400 examples is 0.25 points; to show equal networks equal takes "
        f"about 1,300 or more.{bounds('400 test examples (one is 0.25 points)', 1)}{SIZES}"
    )
    # a margin of one example is a margin
    noise = "the noise of its 500 examples alone is larger than that"
    assert why(dense.replace(examples_to_decide=None), said(500)) == noise
    assert why(dense, said(1)) == (
        "its one example is 100 points; to show equal networks equal takes about 1,300 or more"
    )
    shown = {"dense": dense, "random": found("yes", 0.05, 0.04)}
    assert sentence("This ticket", shown, NO_PACE, said(400)).startswith(
        "This ticket beats a random mask (+5.00 points, at least +4.00). Whether it matches the dense network to within"
    )


def test_what_is_open_and_what_would_decide_it() -> None:
    two = {
        "dense": found("undecided", 0.01, None, threshold=-0.002, replicates_to_decide=3),
        "random": found("undecided", 0.01, None, replicates_to_decide=3),
        "reinit": found("undecided", 0.01, None, replicates_to_decide=3),
    }
    needs = "a verdict needs 3 replicates of every arm, and there are 2"
    assert sentence("This ticket", two, NO_PACE, said(replicates=2)) == (
        f"It is undecided whether this ticket wins: {needs}. Whether it matches the dense network to within 0.2 "
        f"points, beats a random mask and beats reinitialised weights: about 3 replicates would decide.{SIZES}"
    )
    controls = {name: two[name] for name in ("random", "reinit")}
    assert "Whether it beats a random mask and reinitialised weights: about 3" in sentence(
        "This ticket", controls, NO_PACE, said(replicates=2)
    )
    assert why(two["random"], said(replicates=2)) == f"{needs}; about 3 replicates would decide"
    assert why(two["random"].replace(standard_error=0.0), said(replicates=2)) == needs
    agree = "no run differs from another in its test result, which tells nothing of how far they scatter"
    assert why(two["random"], said(replicates=3)) == agree
    mixed = {
        "dense": found("undecided", None, None, threshold=-0.002),
        "random": found("yes", 0.05, 0.04),
        "reinit": found("cannot decide", 0.05, 0.04),
    }
    text = sentence("This ticket", mixed, NO_PACE, said())
    assert text.startswith("This ticket beats a random mask (+5.00 points, at least +4.00). Whether it beats reinit")
    assert (
        ". It is undecided whether it matches the dense network to within 0.2 points: the metric of some runs is not a "
        "finite number. The bounds cover 5 training seeds and 500 test examples" in text
    )


def test_what_the_bounds_cover() -> None:
    one = {"random": found("yes", 0.05, 0.04)}
    alone = "cover 5 training seeds alone, not the choice of test examples, whose results are not known one by one;"
    assert bounds(claims=1) in sentence("This ticket", one, NO_PACE, said())
    assert alone in sentence("This ticket", one, NO_PACE, said(None))
    some = {**one, "dense": found("yes", 0.05, 0.04, covers=SEEDS, threshold=-0.002)}
    assert alone in sentence("This ticket", some, NO_PACE, said())
    loss = sentence("This ticket", one, NO_PACE, said(500, metric="loss", share=False))
    assert "beats a random mask (+0.05000 in loss, at least +0.04000)." in loss
    assert "and 500 test examples; they hold" in loss
    exact = sentence("This ticket", one, NO_PACE, said(400, metric="exact match"))
    assert "and 400 test examples (one is 0.0025 in exact match); they hold" in exact
    assert "(one is 0.14 in exact match)" in sentence("This ticket", one, NO_PACE, said(7, metric="exact match"))


@pytest.mark.parametrize(
    ("count", "covers", "variance", "few"),
    [
        (9, ALL, (9.0, 1.0, 1.0), "9 test examples are"),
        (1, ALL, (9.0, 1.0, 1.0), "1 test example is"),
        (10, ALL, (9.0, 1.0, 1.0), "5 training seeds are"),
        (500, ALL, (2.0, 1.0, 1.0), "500 test examples are"),
        (500, ALL, (2.1, 1.0, 1.0), "5 training seeds are"),
        (500, SEEDS, (2.0, 1.0, 1.0), "5 training seeds are"),
        (None, ALL, (2.0, 1.0, 1.0), "5 training seeds are"),
    ],
)
def test_a_bound_of_everything_names_what_is_too_little(
    count: int | None, covers: str, variance: tuple[float, ...], few: str
) -> None:
    seeds, examples, interaction = variance
    parts = VarianceBySource(seeds=seeds, examples=examples, interaction=interaction)
    wide = {"random": found("no", 0.0, -1.0, covers=covers, variance=parts)}
    last = f" A bound of −100 points excludes nothing: {few} too few."
    assert sentence("This ticket", wide, NO_PACE, said(count)).endswith(last)
    near = {"random": wide["random"].replace(lower_holm=-0.999)}
    assert "excludes nothing" not in sentence("This ticket", near, NO_PACE, said(count))
    # of a loss a bound of -1 is one like any other
    assert "excludes nothing" not in sentence("This ticket", wide, NO_PACE, said(count, metric="loss", share=False))
