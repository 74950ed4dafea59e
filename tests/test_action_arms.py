"""The arms of a verdict on tickets whose pruned weights are not 0, or whose kept ones do not begin at the origin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tombola as tb
from small_tickets import mask_of, network, same, splits, ticket_of
from tombola.errors import TombolaError
from tombola.levels.actions import PRUNED_ACTIONS
from tombola.methods.imp import IterativePruning
from tombola.results.verification import VerificationResult
from tombola.study.actions import Actions, actions_of, in_words, retrain_of
from tombola.study.arms import ARMS, VerificationSetup, fresh_network, pruned_alike
from tombola.study.untrained import is_untrained
from tombola.ticket.begin import beginning_of
from tombola.ticket.storage import bits_per_weight
from tombola.ticket.ticket import Ticket
from tombola.train.options import Options
from tombola.train.recipe import Recipe

SETTINGS: dict[str, Any] = {"method": {"name": "imp", "kept_action": "rewind", "pruned_action": "zero", "retrain": {}}}


def half_zero(ticket: Ticket) -> dict[str, Tensor]:
    """In every layer the first half of the pruned weights at 0, the others at the origin's value."""
    state = ticket.origin.state_dict(network())
    values = {}
    for name, keep in ticket.mask.items():
        pruned = state[name][~keep].clone()
        pruned[: len(pruned) // 2] = 0
        values[name] = pruned
    return values


def arms_of(ticket: Ticket) -> tuple[VerificationSetup, dict[str, Any]]:
    subject = VerificationSetup(ticket, network())
    return subject, {name: make(subject, 5) for name, make in ARMS.items()}


@pytest.mark.parametrize("seeded", [False, True])
def test_frozen_weights_are_frozen_in_the_controls_too(seeded: bool) -> None:
    ticket = ticket_of(network(), seeded, pruned_rule="origin")
    subject, arms = arms_of(ticket)
    origin, fresh = ticket.origin.state_dict(network()), fresh_network(subject, 5).state_dict()
    assert same(arms["ticket"].model.state_dict(), origin)
    for name in ticket.mask:
        assert torch.equal(arms["ticket"].values[name], origin[name])
        for control in ("random", "reinit"):
            assert torch.equal(arms[control].values[name], fresh[name])
    assert arms["dense"].values is arms["dense"].mask is None
    assert arms["random"].mask != arms["reinit"].mask == ticket.mask


def test_mixtures_have_as_many_zeros_at_random_positions() -> None:
    ticket = replace(ticket_of(network()), pruned_values=half_zero(ticket_of(network())))
    subject, arms = arms_of(ticket)
    fresh, places = fresh_network(subject, 5).state_dict(), []
    for name, keep in ticket.mask.items():
        expected = int((~keep).sum()) // 2
        for control in ("random", "reinit"):
            pruned, values = ~arms[control].mask[name], arms[control].values[name]
            zeros = values == 0
            assert int(zeros.sum()) == expected
            assert not (zeros & ~pruned).any()
            assert torch.equal(values[~zeros], fresh[name][~zeros])
        places.append((arms["reinit"].values[name] == 0)[~keep][:expected].all())
    assert not all(places)
    other = pruned_alike(subject, ticket.mask, fresh, 6)
    assert other is not None
    assert any(not torch.equal(other[name], arms["reinit"].values[name]) for name in other)


def test_where_pruned_weights_train_nothing_is_held_and_they_begin_at_0() -> None:
    plain = ticket_of(network())
    trained = {name: torch.full((int((~keep).sum()),), 0.5) for name, keep in plain.mask.items()}
    ticket = replace(plain, pruned_rule="train", pruned_values=trained)
    assert not is_untrained(ticket)
    subject, arms = arms_of(ticket)
    fresh = fresh_network(subject, 5).state_dict()
    assert [arm.mask for arm in arms.values()] == [None] * 4
    assert [arm.values for arm in arms.values()] == [None] * 4
    for name, keep in ticket.mask.items():
        begun, final = (ticket.build(which, model=network()).state_dict()[name] for which in ("origin", "final"))
        assert not begun[~keep].any()
        assert bool((final[~keep] == 0.5).all())
        assert torch.equal(arms["ticket"].model.state_dict()[name], begun)
        reinit, random = (arms[control].model.state_dict()[name] for control in ("reinit", "random"))
        assert torch.equal(reinit, torch.where(keep, fresh[name], 0))
        assert int((random == 0).sum()) == int((~keep).sum())
    assert not same(arms["dense"].model.state_dict(), arms["ticket"].model.state_dict())


def test_a_ticket_begins_with_its_first_values_and_the_dense_arm_with_the_origin() -> None:
    plain = ticket_of(network())
    first = {name: torch.arange(int(keep.sum())).float() for name, keep in plain.mask.items()}
    _, arms = arms_of(replace(plain, begin=first))
    for name, keep in plain.mask.items():
        assert torch.equal(arms["ticket"].model.state_dict()[name][keep], first[name])
    assert same(arms["dense"].model.state_dict(), plain.origin.state_dict(network()))


def test_pruned_weights_at_0_are_held_as_ever() -> None:
    _, arms = arms_of(ticket_of(network()))
    assert [arm.values for arm in arms.values()] == [None] * 4


# -- what is stored


def test_the_smallest_fields_are_found() -> None:
    origin, mask = dict(network().state_dict()), mask_of(network())
    name = next(iter(mask))
    kept = {key: torch.where(keep, origin[key], 0) for key, keep in mask.items()}
    plain = beginning_of(origin, mask, kept)
    assert (plain.begin, plain.pruned_rule, plain.pruned_values, plain.representation.kind) == (
        {},
        "zero",
        {},
        "identity",
    )
    frozen = beginning_of(origin, mask, origin)
    assert (frozen.begin, frozen.pruned_rule, frozen.pruned_values) == ({}, "origin", {})
    one = beginning_of(origin, mask, {**origin, name: kept[name] * 2})
    smaller = min(reversed(list(mask)), key=lambda key: int((~mask[key]).sum()))  # the rule zero where they tie
    assert set(one.begin) == {name}
    assert set(one.pruned_values) == {smaller}
    assert torch.equal(one.begin[name], 2 * origin[name][mask[name]])
    signed = beginning_of(origin, mask, {**kept, name: kept[name].sign() * 0.25})
    assert not signed.begin
    assert float(signed.representation.scales[name]) == 0.25
    turned = beginning_of(origin, mask, {**kept, name: kept[name].sign() * -0.25})
    assert turned.begin[name].dtype == torch.int8


def test_zero_or_the_origins_value_takes_a_bit_for_a_pruned_weight() -> None:
    origin, mask = dict(network().state_dict()), mask_of(network())
    half = {name: torch.where(torch.arange(value.numel()).view_as(value) % 2 == 0, value, 0)
            for name, value in origin.items() if name in mask}  # fmt: skip
    values = {name: torch.where(keep, origin[name], half[name]) for name, keep in mask.items()}
    fields = beginning_of(origin, mask, values)
    assert {value.dtype for value in fields.pruned_values.values()} == {torch.int8}
    ticket = Ticket(origin=ticket_of(network()).origin, mask=mask, pruned_values=fields.pruned_values)
    read = Ticket.from_bytes(ticket.to_bytes())
    assert read == ticket
    alone = ticket.without_origin()
    assert Ticket.from_bytes(alone.to_bytes()) == alone
    for name in mask:
        for built in (read.build("origin", model=network()), alone.build(model=network())):
            assert torch.equal(built.state_dict()[name], values[name])
    assert bits_per_weight(ticket) < 40
    name = next(iter(mask))
    for odd in (torch.full_like(fields.pruned_values[name], 2), torch.tensor(1, dtype=torch.int8)):
        with pytest.raises(TombolaError, match=r"values for .* are not"):
            replace(ticket, pruned_values={name: odd})
    with pytest.raises(TombolaError, match="a ticket without an origin"):
        replace(alone, pruned_values={name: fields.pruned_values[name]})


# -- in words


def test_actions_are_named_where_they_are_others() -> None:
    ticket = ticket_of(network(), provenance=SETTINGS)
    assert actions_of(ticket) == Actions()
    assert in_words(ticket, {}) == ""
    assert actions_of(ticket_of(network())) == Actions()
    method = {"kept_action": "reshuffle", "pruned_action": "freeze"}
    found = actions_of(ticket_of(network(), provenance={"method": method}))
    assert found == Actions("reshuffle", "freeze")
    for odd in ("a\nb", 3, "", "x" * 201, None):
        assert actions_of(ticket_of(network(), provenance={"method": {"kept_action": odd}})) == Actions()
    text = in_words(ticket_of(network(), pruned_rule="origin", provenance={"method": method}), {"lr": 0.5})
    assert "kept action reshuffle" in text
    assert "pruned action freeze" in text
    assert "(lr 0.5)" in text


@pytest.mark.parametrize(
    ("retrain", "words"),
    [
        ({"rate": 1}, "does not say how its later levels were trained"),
        ({"length": "99999ep"}, "asks for a training of"),
        ({"optimizer": "os.system"}, "is not one of Tombola's own"),
    ],
)
def test_a_file_may_not_ask_for_anything(retrain: Any, words: str) -> None:
    with pytest.raises(TombolaError, match=words):
        retrain_of(ticket_of(network(), provenance={"method": {"retrain": retrain}}))


def test_what_later_levels_were_trained_by_is_taken_but_for_what_is_given() -> None:
    ticket = ticket_of(network(), provenance={"method": {"retrain": {"lr": 0.5, "length": "3it"}}})
    assert retrain_of(ticket) == {"lr": 0.5, "length": "3it"}
    assert retrain_of(ticket, {"lr": 1.0}) == {"length": "3it"}
    assert retrain_of(ticket_of(network(), provenance={"method": {"retrain": "continue"}})) == {}


# -- verdicts


def found_with(out: Path, **options: Any) -> Ticket:
    method = IterativePruning(density=0.4, rounds=1, **options)
    recipe = Recipe(length="6it", batch_size=8, lr=0.1, eval_every="3it")
    return tb.find(network(), splits(), method, recipe=recipe, options=Options(progress=False), out=out)


def verdict(ticket: Ticket, **more: Any) -> VerificationResult:
    options = Options(progress=False)
    return tb.verify(ticket, splits(), replicates=2, model=network(), options=options, **more)


@pytest.mark.parametrize("name", PRUNED_ACTIONS)
def test_a_ticket_of_every_pruned_action_is_verified(name: str, tmp_path: Path) -> None:
    ticket = found_with(tmp_path, pruned_action=name, retrain={"lr": 0.05})
    found = verdict(ticket)
    assert found.pruned_action == (None if name == "zero" else name)
    assert (f"pruned action {name}" in found.sentence) == (name not in ("zero", "train"))
    assert ("no network stays sparse" in found.sentence) == (name == "train")
    assert found.retrain == {"lr": 0.05}
    assert "trained as the search trained its tickets (lr 0.05)" in found.sentence
    assert verdict(ticket, recipe={"lr": 0.2}).retrain is None


def test_the_arms_train_by_what_the_search_changed(tmp_path: Path) -> None:
    ticket = found_with(tmp_path, retrain={"length": "4it"})
    found = verdict(ticket, out=tmp_path / "verified")
    rows = {name: Path(str(found.run), arm.metrics[0]).read_text().splitlines() for name, arm in found.arms.items()}
    last = {name: int(lines[-1].split(",")[0]) for name, lines in rows.items()}
    assert last == {"ticket": 4, "dense": 6, "random": 4, "reinit": 4}


@pytest.mark.parametrize("name", ["freeze", "train"])
def test_a_search_goes_on_from_a_ticket_with_its_kept_weights_and_the_others_pruned(name: str, tmp_path: Path) -> None:
    first = found_with(tmp_path, pruned_action=name, kept_action="reinit")
    method, recipe = IterativePruning(density=0.2, rounds=1, pruned_action=name), Recipe(length="2it", batch_size=8)
    options = Options(progress=False)
    then = tb.find(network(), splits(), method, recipe=recipe, options=options, start=first)
    final, begun = (
        ticket.build(which, model=network()).state_dict() for ticket, which in ((first, "final"), (then, "origin"))
    )
    for key, keep in then.mask.items():
        assert torch.equal(begun[key][keep], final[key][keep])
        assert not begun[key][~first.mask[key]].any()
        frozen = begun[key][first.mask[key] & ~keep]
        assert torch.equal(
            frozen, final[key][first.mask[key] & ~keep] if name == "freeze" else torch.zeros_like(frozen)
        )
    assert then.mask.nested_in(first.mask)


@pytest.mark.parametrize("name", PRUNED_ACTIONS)
def test_what_is_built_deployed_and_left_alone_is_the_trained_network(name: str, tmp_path: Path) -> None:
    ticket = found_with(tmp_path, pruned_action=name, kept_action="constant")
    again = Ticket.from_bytes(ticket.to_bytes())
    assert again == ticket
    x = torch.randn(5, 6)
    built = ticket.build(model=network()).eval()
    assert torch.equal(again.build(model=network()).eval()(x), built(x))
    alone = ticket.without_origin().build(model=network()).eval()
    assert same(alone.state_dict(), built.state_dict())
    deployed = tb.deploy(ticket, x, model=network())
    assert torch.allclose(deployed(x), built(x), rtol=1e-4, atol=1e-5)
