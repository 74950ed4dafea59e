"""A ticket as it stands against random masks and other weights, and the recipe by which its weights are trained."""

from __future__ import annotations

import pytest

import tombola as tb
from tombola.data.config import DataSpec
from tombola.data.registry import load_data
from tombola.errors import TombolaError
from tombola.formats import percent
from tombola.methods.signed import SignedSupermask
from tombola.study.arms import Contest
from tombola.study.recorded import recipe_of
from tombola.study.untrained import is_untrained, untrained, untrained_sentence
from tombola.train.fabric import make_fabric

DIGITS = load_data(DataSpec("digits"))
QUICK = {"length": "6ep", "lr": 0.1, "momentum": 0.9, "batch_size": 60}


@pytest.mark.parametrize("method", [tb.EdgePopup(density=0.4), SignedSupermask()], ids=lambda m: m.name)
def test_a_supermask_beats_random_masks_and_other_weights(method: object) -> None:
    ticket = tb.find("mlp", DIGITS, method, recipe=QUICK)
    assert is_untrained(ticket)
    found = untrained(Contest(ticket), DIGITS, tb.Recipe(), make_fabric("cpu", "32"), seed=1, replicates=4)
    assert found["test_accuracy"] > 0.6
    for arm in ("random", "reinit"):
        assert len(set(found[arm]["test_accuracy"])) > 1  # every draw is another one
        assert found[arm]["mean"] < 0.4
        compared = found["comparisons"][arm]
        assert compared["covers"] == "draws of the control and test examples"
        assert compared["difference"] == pytest.approx(found["test_accuracy"] - found[arm]["mean"])
        assert 0 < compared["lower_holm"] <= compared["lower"] < compared["difference"]
        assert compared["p"] <= compared["p_holm"] < 0.05
    assert "better by +" in untrained_sentence(found, "accuracy")
    assert untrained_sentence(found, "accuracy").startswith(
        f"As it stands, no weight trained, it reaches {percent(found['test_accuracy'])};"
    )


def test_the_same_seed_draws_the_same_rivals() -> None:
    ticket = tb.find("mlp", DIGITS, tb.EdgePopup(), recipe={**QUICK, "length": "1ep"})
    given = (Contest(ticket), DIGITS, tb.Recipe(), make_fabric("cpu", "32"))
    assert untrained(*given, seed=3, replicates=2) == untrained(*given, seed=3, replicates=2)


def test_norms_of_the_rivals_take_their_own_statistics() -> None:
    recipe = {**QUICK, "length": "2it", "eval_every": "2it"}
    ticket = tb.find("wrn-10-1", DIGITS, tb.EdgePopup(), recipe=recipe)
    before = ticket.to_bytes()
    found = untrained(
        Contest(ticket), DIGITS, tb.Recipe(batch_size=300), make_fabric("cpu", "32"), seed=1, replicates=1
    )
    assert 0 <= found["random"]["mean"] <= 1
    assert ticket.to_bytes() == before


def test_trained_tickets_are_not_judged_as_they_stand() -> None:
    trained = tb.find("mlp", DIGITS, tb.IterativePruning(density=0.5, rounds=1), recipe={**QUICK, "length": "2it"})
    assert not is_untrained(trained)


def test_weights_are_not_trained_by_the_recipe_of_the_scores() -> None:
    ticket = tb.find("lenet-300-100", "digits", tb.EdgePopup(), recipe={**QUICK, "length": "1ep", "lr": 7.0})
    assert recipe_of(ticket).optimizer == "adam"  # the preset of training weights
    assert recipe_of(ticket, {"lr": 0.5}).lr == 0.5
    unknown = tb.find("conv-2", "digits", tb.EdgePopup(), recipe={**QUICK, "length": "1it"})
    with pytest.raises(TombolaError, match="training scores, whose recipe does not suit weights"):
        recipe_of(unknown)
    with pytest.raises(TombolaError, match=r"Recipe cannot be made of .*learning_rate"):
        recipe_of(unknown, {"learning_rate": 0.5})
    assert recipe_of(unknown, {"lr": 0.5}).lr == 0.5


def test_verify_takes_a_mapping_that_changes_the_tickets_own_recipe() -> None:
    ticket = tb.find("mlp", DIGITS, tb.IterativePruning(density=0.5, rounds=1), recipe={**QUICK, "length": "2it"})
    found = tb.verify(ticket, "digits", replicates=1, recipe={"length": "3it", "lr": 0.03})
    assert recipe_of(ticket, {"length": "3it"}).batch_size == recipe_of(ticket).batch_size
    assert (found["recipe"]["length"], found["recipe"]["lr"]) == ("3it", 0.03)
    with pytest.raises(TombolaError, match=r"Recipe cannot be made of .*learning_rate"):
        tb.verify(ticket, "digits", replicates=1, recipe={"learning_rate": 0.03})
