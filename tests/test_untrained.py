"""A ticket as it stands against random masks and other weights, and the recipe by which its weights are trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import tombola as tb
from tombola.data.config import DataSpec
from tombola.data.registry import load_data
from tombola.errors import TombolaError
from tombola.formats import percent
from tombola.mask import Mask
from tombola.methods.signed import SignedSupermask
from tombola.results.statistics import Adjusted, interval
from tombola.study.arms import VerificationSetup
from tombola.study.recorded import recipe_of
from tombola.study.untrained import _CONTROLS, _compare, is_untrained, untrained, untrained_sentence
from tombola.ticket.origin import Origin
from tombola.ticket.representation import Representation
from tombola.ticket.ticket import Ticket
from tombola.train.evaluate import Score
from tombola.train.fabric import make_fabric
from tombola.train.trial import TrainingSetup

DIGITS = load_data(DataSpec("digits"))
QUICK = {"length": "6ep", "lr": 0.1, "momentum": 0.9, "batch_size": 60}


@pytest.mark.parametrize("method", [tb.EdgePopup(density=0.4), SignedSupermask()], ids=lambda m: m.name)
def test_a_supermask_beats_random_masks_and_other_weights(method: object) -> None:
    ticket = tb.find("mlp", DIGITS, method, recipe=QUICK)
    assert is_untrained(ticket)
    found = untrained(
        VerificationSetup(ticket), TrainingSetup(DIGITS, tb.Recipe(), make_fabric("cpu", "32")), seed=1, replicates=4
    )
    assert found.test_accuracy > 0.6
    for arm in ("random", "reinit"):
        assert len(set(getattr(found, arm).test_accuracy)) > 1  # every draw is another one
        assert getattr(found, arm).mean < 0.4
        compared = found.comparisons[arm]
        assert compared.covers == "draws of the control and test examples"
        assert compared.difference == pytest.approx(found.test_accuracy - getattr(found, arm).mean)
        assert 0 < compared.lower_holm <= compared.lower < compared.difference
        assert compared.p <= compared.p_holm < 0.05
    assert "better by +" in untrained_sentence(found, "accuracy")
    assert untrained_sentence(found, "accuracy").startswith(
        f"As it stands, no weight trained, it reaches {percent(found.test_accuracy)};"
    )


def scores(outcomes: np.ndarray) -> list[Score]:
    return [Score(0.0, float(row.mean()), len(row), torch.tensor(row, dtype=torch.float32)) for row in outcomes]


def test_of_an_error_the_lower_one_is_better() -> None:
    draw = np.random.default_rng(0)
    right, others = draw.random((1, 200)) < 0.9, draw.random((4, 200)) < 0.7
    better = _compare(scores(right)[0], scores(others), 1)
    found = _compare(scores(1 - right)[0], scores(1 - others), -1)
    assert better.estimate.difference == pytest.approx(right.mean() - others.mean())
    assert found.estimate.difference == pytest.approx(better.estimate.difference)
    assert found.estimate.interval == pytest.approx(better.estimate.interval)
    assert found.draws_alone.lower == pytest.approx(better.draws_alone.lower)
    assert found.p_value == pytest.approx(better.p_value)
    # three draws decide, over the draws alone where an example's result is not known
    two, three = (_compare(scores(right)[0], scores(others)[:count], 1) for count in (2, 3))
    assert two.p_value is None
    assert three.p_value is not None
    blind = _compare(replace(scores(right)[0], values=None), scores(others), 1)
    assert blind.estimate == blind.draws_alone
    assert blind.result(Adjusted(0.5, 0.025)).covers == "draws of the control alone"
    values = [right.mean() - row.mean() for row in others]
    assert blind.estimate.interval == pytest.approx(interval(values))


def test_controls_of_a_signed_binary_ticket_are_shuffled_within_their_layers() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10, bias=False))
    weight = model[1].weight.detach()
    signs = torch.sign(torch.randn(10, 64, generator=torch.Generator().manual_seed(0))).to(torch.int8)
    signs[:, ::2] = 0
    name, kept = "1.weight", signs != 0
    ticket = Ticket(
        origin=Origin.stored(model),
        mask=Mask({name: kept}),
        multiplier={name: signs},
        representation=Representation("binary", {name: weight[kept].abs().mean()}),
    )
    first, second = (_CONTROLS["random"](VerificationSetup(ticket, model), seed) for seed in (1, 2))
    for control in (first, second):
        assert control.multiplier is not None
        found = control.multiplier[name]
        assert torch.equal(found.flatten().sort().values, signs.flatten().sort().values)
        assert torch.equal(control.mask[name], found != 0)
        alpha = control.representation.scales[name]
        torch.testing.assert_close(alpha, weight[found != 0].abs().mean())  # its own, of what it keeps
        assert not torch.equal(alpha, ticket.representation.scales[name])
    assert first.mask != second.mask


def test_the_same_seed_draws_the_same_controls() -> None:
    ticket = tb.find("mlp", DIGITS, tb.EdgePopup(), recipe={**QUICK, "length": "1ep"})
    given = (VerificationSetup(ticket), TrainingSetup(DIGITS, tb.Recipe(), make_fabric("cpu", "32")))
    assert untrained(*given, seed=3, replicates=2) == untrained(*given, seed=3, replicates=2)


def test_norms_of_the_controls_take_their_own_statistics() -> None:
    recipe = {**QUICK, "length": "2it", "eval_every": "2it"}
    ticket = tb.find("wrn-10-1", DIGITS, tb.EdgePopup(), recipe=recipe)
    before = ticket.to_bytes()
    found = untrained(
        VerificationSetup(ticket),
        TrainingSetup(DIGITS, tb.Recipe(batch_size=300), make_fabric("cpu", "32")),
        seed=1,
        replicates=1,
    )
    assert 0 <= found.random.mean <= 1
    assert ticket.to_bytes() == before


def test_trained_tickets_are_not_judged_as_they_stand() -> None:
    trained = tb.find("mlp", DIGITS, tb.IterativePruning(density=0.5, rounds=1), recipe={**QUICK, "length": "2it"})
    assert not is_untrained(trained)


def test_weights_are_not_trained_by_the_recipe_of_the_scores() -> None:
    ticket = tb.find("lenet-300-100", "digits", tb.EdgePopup(), recipe={**QUICK, "length": "1ep", "lr": 7.0})
    assert recipe_of(ticket).optimizer == "adam"  # the preset of training weights
    assert recipe_of(ticket, {"lr": 0.5}).lr == 0.5
    unknown = tb.find("conv-2", "digits", tb.EdgePopup(), recipe={**QUICK, "length": "1it"})
    with pytest.raises(TombolaError, match="trained no weights, so that its recipe does not suit them"):
        recipe_of(unknown)
    with pytest.raises(TombolaError, match=r"Recipe cannot be made of .*learning_rate"):
        recipe_of(unknown, {"learning_rate": 0.5})
    assert recipe_of(unknown, {"lr": 0.5}).lr == 0.5


def test_verify_takes_a_mapping_that_changes_the_tickets_own_recipe() -> None:
    ticket = tb.find("mlp", DIGITS, tb.IterativePruning(density=0.5, rounds=1), recipe={**QUICK, "length": "2it"})
    found = tb.verify(ticket, "digits", replicates=1, recipe={"length": "3it", "lr": 0.03})
    assert recipe_of(ticket, {"length": "3it"}).batch_size == recipe_of(ticket).batch_size
    assert (found.recipe["length"], found.recipe["lr"]) == ("3it", 0.03)
    with pytest.raises(TombolaError, match=r"Recipe cannot be made of .*learning_rate"):
        tb.verify(ticket, "digits", replicates=1, recipe={"learning_rate": 0.03})
