"""Masks handed from method to method: every search that starts from a ticket begins with its mask."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tombola as tb
from tombola.data.config import DataSpec
from tombola.data.registry import load_data
from tombola.data.splits import Splits, make_splits
from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.methods.dense import DenseTraining
from tombola.methods.edge_popup import EdgePopup
from tombola.methods.imp import IterativePruning
from tombola.methods.joint import Joint
from tombola.methods.learned_mask import LearnedMask
from tombola.models.spec import ModelSpec
from tombola.results.search import SearchResult
from tombola.search.find import find, run_find, search
from tombola.search.origin import start_from
from tombola.search.request import make_request
from tombola.supermask import Coats, Round, Signed, Threshold, TopK, attach, read
from tombola.supermask.layers import layers
from tombola.supermask.rules import Bernoulli, MaskRule
from tombola.ticket.ticket import Ticket
from tombola.train.options import Options
from tombola.train.recipe import Recipe

RECIPE = Recipe(length="6it", batch_size=8, lr=0.05, eval_every="3it")
SMALL = ModelSpec("mlp", {"hidden": [12, 8]})


def splits() -> Splits:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(64, 1, 6, 6, generator=draw)
    y = (x.mean((1, 2, 3)) > 0).long()
    return make_splits((x[:40], y[:40]), (x[40:52], y[40:52]), (x[52:], y[52:]))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2))


def found(model: Any, method: Any, **more: Any) -> Ticket:
    return find(model, splits(), method, recipe=RECIPE, **more)


MODELS = [pytest.param(network(), id="live"), pytest.param(SMALL, id="by name")]


@pytest.fixture(scope="module", params=MODELS)
def popped(request: pytest.FixtureRequest) -> tuple[Any, Ticket]:
    """A model and an edge-popup ticket of it."""
    return request.param, found(request.param, EdgePopup(density=0.5))


# -- scores under which a mask is kept first

shapes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=3)


def scored(sizes: list[tuple[int, int]], seed: int, levels: int) -> tuple[dict[str, torch.Tensor], Mask]:
    draw = torch.Generator().manual_seed(seed)
    scores = {str(i): (torch.randn(size, generator=draw) * levels).round() / levels for i, size in enumerate(sizes)}
    scores["0"] *= 1e-3  # layers differ in size
    return scores, Mask({name: torch.rand(s.shape, generator=draw) < 0.5 for name, s in scores.items()})


@settings(max_examples=80)
@given(
    sizes=shapes,
    seed=st.integers(0, 999),
    levels=st.sampled_from([0, 1, 3, 1000]),
    scope=st.sampled_from(["layer", "global"]),
)
def test_scores_from_a_mask_lie_strictly_above_all_else(
    sizes: list[tuple[int, int]], seed: int, levels: int, scope: str
) -> None:
    scores, mask = scored(sizes, seed, max(levels, 1))
    if levels == 0:
        scores = {name: torch.zeros_like(s) for name, s in scores.items()}
    lifted = TopK(0.5, scope).scores_from_mask(scores, mask)
    groups = [list(scores)] if scope == "global" else [[name] for name in scores]
    for names in groups:
        kept = torch.cat([lifted[n][mask[n]].abs() for n in names])
        pruned = torch.cat([lifted[n][~mask[n]].abs() for n in names])
        if kept.numel() and pruned.numel():
            assert kept.min() > pruned.max()
    for name, old in scores.items():
        new, keep = lifted[name], mask[name]
        assert torch.equal(new[~keep], old[~keep])
        assert torch.equal(torch.sign(new)[old != 0], torch.sign(old)[old != 0])
        assert torch.equal(new[keep].abs().argsort(stable=True), old[keep].abs().argsort(stable=True)) or levels < 1000


RULES: list[tuple[MaskRule, bool]] = [
    (Threshold(), True),
    (Bernoulli(), True),
    (Round(), True),
    (Signed(), True),
    (Coats((0.5, 0.2)), False),
]


@settings(max_examples=40)
@given(sizes=shapes, seed=st.integers(0, 999), which=st.integers(0, len(RULES) - 1))
def test_every_rule_begins_with_the_mask_it_is_given(sizes: list[tuple[int, int]], seed: int, which: int) -> None:
    rule, exactly = RULES[which]
    model = nn.ModuleList(nn.Linear(*size) for size in sizes)
    draw = torch.Generator().manual_seed(seed)
    mask = Mask({n: torch.rand(m.shape, generator=draw) < 0.5 for n, m in Mask.full(model).items()})
    attach(model, rule, mask=mask, seed=seed)
    rule.write([layer.supermask for layer in layers(model)], False)
    if exactly:
        assert read(model) == mask
    else:
        for name, kept in read(model).items():
            assert bool((kept <= mask[name]).all()) or bool((kept >= mask[name]).all())


@settings(max_examples=40)
@given(
    sizes=shapes,
    seed=st.integers(0, 99),
    density=st.floats(0.05, 1),
    scope=st.sampled_from(["layer", "global"]),
    pattern=st.sampled_from(["element", "channel", "block:2"]),
    scores=st.sampled_from(["torch_default", "signed_constant", 0.0, -1.0]),
)
@pytest.mark.filterwarnings("ignore:nothing is kept")
def test_top_k_begins_with_a_top_k_mask_of_the_same_density(
    sizes: list[tuple[int, int]], seed: int, density: float, scope: str, pattern: str, scores: Any
) -> None:
    first, second = (nn.ModuleList(nn.Linear(*size) for size in sizes) for _ in "ab")
    attach(first, TopK(density, scope, pattern), seed=seed)
    mask = read(first)
    attach(second, TopK(density, scope, pattern), seed=seed + 1, scores=scores, mask=mask)
    assert read(second) == mask


@pytest.mark.filterwarnings("ignore:nothing is kept")
@settings(max_examples=30)
@given(
    seed=st.integers(0, 99),
    density=st.floats(0.05, 1),
    other=st.floats(0.05, 1),
    scope=st.sampled_from(["layer", "global"]),
)
def test_other_densities_nest(seed: int, density: float, other: float, scope: str) -> None:
    first, second = network(), network()
    attach(first, TopK(density, scope), seed=seed)
    attach(second, TopK(other, scope), seed=seed + 1, mask=read(first))
    small, large = (first, second) if density <= other else (second, first)
    assert read(small).nested_in(read(large))


def test_two_of_four_is_handed_on() -> None:
    first, second = network(), network()
    attach(first, TopK(0.5, pattern="2:4"))
    attach(second, TopK(0.5, pattern="2:4"), seed=5, mask=read(first))
    assert read(second) == read(first)


# -- edge-popup before others


def test_pruning_goes_on_from_an_untrained_ticket(popped: tuple[Any, Ticket]) -> None:
    model, ticket = popped
    levels = search(make_request(model, splits(), IterativePruning(density=0.1, rounds=3), recipe=RECIPE, start=ticket))
    assert [level.level for level in levels] == [0, 1, 2, 3]
    assert levels[0].ticket.mask == ticket.mask
    for before, after in pairwise(levels):
        assert after.ticket.mask.nested_in(before.ticket.mask)
    assert levels[-1].ticket.mask.kept == round(0.1 * ticket.mask.total)
    base = ticket.origin.state_dict(network() if isinstance(model, nn.Module) else None)
    again = levels[-1].ticket.origin.state_dict(network() if isinstance(model, nn.Module) else None)
    assert all(torch.equal(value, again[name]) for name, value in base.items())
    assert levels[-1].ticket.origin.kind == ticket.origin.kind


@pytest.mark.filterwarnings("ignore:nothing is kept")
@settings(max_examples=40)
@given(density=st.floats(0.02, 0.98), share=st.floats(0.02, 0.98), rounds=st.integers(1, 4), seed=st.integers(0, 9))
def test_a_target_below_a_tickets_is_met_exactly(density: float, share: float, rounds: int, seed: int) -> None:
    model = nn.ModuleList([nn.Linear(13, 11), nn.Linear(11, 7)])
    attach(model, TopK(density, "global"), seed=seed)
    mask = read(model)
    target = share * mask.density
    method = IterativePruning(density=target, rounds=rounds, output_rate=0.2)
    plan = method.plan(mask, "1.weight")
    counts = plan[-1]
    assert isinstance(counts, dict)
    assert sum(counts.values()) == round(target * mask.total)


def test_a_ticket_is_trained_as_it_is(popped: tuple[Any, Ticket]) -> None:
    model, ticket = popped
    for method in (IterativePruning(levels=0), DenseTraining()):
        trained = found(model, method, start=ticket)
        assert trained.mask == ticket.mask
        assert trained.trained is not None
        assert Mask.from_zeros(trained.build(model=network() if isinstance(model, nn.Module) else None)) == ticket.mask


def test_a_target_that_cannot_be_met_is_named_as_it_was_asked_for() -> None:
    mask = Mask({"a": torch.arange(100).reshape(10, 10) < 50, "b": torch.ones(5, 10, dtype=torch.bool)})
    with pytest.raises(TombolaError, match=r"density 0\.2 cannot be reached in 1 rounds: .* at least 0\.333"):
        IterativePruning(density=0.2, rounds=1, output_rate=0.0).plan(mask, "b")


@pytest.mark.parametrize("density", [0.5, 0.7, 1.0])
def test_more_than_the_ticket_keeps_cannot_be_kept(popped: tuple[Any, Ticket], density: float) -> None:
    model, ticket = popped
    with pytest.raises(TombolaError, match=r"keeps 0\.5; ask for less") as caught:
        found(model, IterativePruning(density=density, rounds=2), start=ticket)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_joint_training_goes_on_from_a_ticket(popped: tuple[Any, Ticket], scope: str) -> None:
    model, ticket = popped
    joint = found(model, Joint(density=0.5, scope=scope, weights_first="5it"), start=ticket)
    assert joint.mask == ticket.mask  # the scores have had one step, and their gap is wide
    assert joint.trained is not None
    half = found(model, Joint(density=0.25, freeze_scores=1.0), start=ticket)
    assert half.mask.nested_in(ticket.mask)


# -- learned masks before others


def test_edge_popup_begins_with_a_learned_mask_of_its_density() -> None:
    learned = found(network(), LearnedMask(rule="bernoulli"))
    method = EdgePopup(density=learned.density, scope="global")
    still = Recipe(length="1it", batch_size=8, lr=0.0)
    after = find(network(), splits(), method, recipe=still, start=learned)
    assert after.mask == learned.mask


def test_a_finetuned_mask_hands_on_its_trained_weights() -> None:
    two = found(network(), LearnedMask(rule="threshold", mask_decay=0.1, finetune="4it", finetune_lr=0.1))
    assert two.trained is not None
    later = found(network(), IterativePruning(density=two.density / 2, rounds=1), start=two)
    effective = two.build(model=network()).state_dict()
    origin = later.origin.state_dict(network())
    assert all(torch.equal(value, origin[name]) for name, value in effective.items())
    assert later.mask.nested_in(two.mask)


@pytest.mark.parametrize("model", MODELS)
def test_a_learned_mask_begins_with_a_pruned_one(model: Any) -> None:
    pruned = found(model, IterativePruning(density=0.3, rounds=1))
    still = Recipe(length="1it", batch_size=8, lr=0.0)
    for rule in ("threshold", "bernoulli"):
        learned = find(model, splits(), LearnedMask(rule=rule), recipe=still, start=pruned)
        assert learned.mask == pruned.mask
        # it goes on with the trained weights, of which nothing but the kept ones is left
        built = (t.build(model=network() if isinstance(model, nn.Module) else None) for t in (pruned, learned))
        first, second = (dict(m.state_dict()) for m in built)
        assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_represented_weights_are_handed_on_as_they_take_effect() -> None:
    first = found(network(), LearnedMask(weights="signed_constant", rescale=True))
    effective = first.build(model=network()).state_dict()
    second = found(network(), IterativePruning(levels=0), start=first)
    origin = second.origin.state_dict(network())
    for name, value in effective.items():
        kept = first.mask[name] if name in first.mask else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(value[kept], origin[name][kept])  # what was pruned is back at its start


# -- a mask for a user's own loop


def test_a_ticket_in_an_own_loop(popped: tuple[Any, Ticket]) -> None:
    model, ticket = popped
    built = ticket.build("origin", model=network() if isinstance(model, nn.Module) else None)
    optimizer = torch.optim.AdamW(built.parameters(), weight_decay=0.1)
    with tb.hold(built, ticket.mask):
        for _ in range(3):
            built(torch.randn(4, 1, 6, 6)).pow(2).mean().backward()
            optimizer.step()
    assert Mask.from_zeros(built) == ticket.mask
    again = network() if isinstance(model, nn.Module) else ticket.build("origin")
    attach(again, TopK(0.5), mask=ticket.mask)
    assert read(again) == ticket.mask


def test_a_request_with_its_ticket_goes_to_other_processes() -> None:
    ticket = found(SMALL, EdgePopup(density=0.5))
    request = make_request(SMALL, "digits", Joint(density=0.3), recipe=RECIPE, start=ticket)
    assert pickle.loads(pickle.dumps(request)) == request


def test_frozen_weights_are_pruned_and_stay_as_they_are() -> None:
    model = network()
    model[1].requires_grad_(False)
    for method in (IterativePruning(density=0.3, rounds=1), Joint(density=0.3)):
        state = found(model, method).build(model=network()).state_dict()
        kept = state["1.weight"] != 0
        assert 0 < int(kept.sum()) < kept.numel()
        assert torch.equal(state["1.weight"][kept], network()[1].weight[kept])  # type: ignore[index]
        assert torch.equal(state["1.bias"], network()[1].bias)
        assert not torch.equal(state["3.bias"], network()[3].bias)


def test_a_model_that_is_attached_already_is_refused() -> None:
    model = network()
    attach(model)
    with pytest.raises(TombolaError, match="attached to this model already"):
        found(model, EdgePopup())


# -- what does not fit


def test_tickets_of_other_networks_are_refused() -> None:
    ticket = found(SMALL, EdgePopup(density=0.5))
    for model in (ModelSpec("mlp", {"hidden": [12, 9]}), nn.Sequential(nn.Flatten(), nn.Linear(36, 2))):
        for method in (IterativePruning(density=0.1, rounds=1), EdgePopup(), Joint()):
            with pytest.raises(TombolaError, match="another network") as caught:
                found(model, method, start=ticket)
            assert "\n" not in str(caught.value)


def test_other_layers_than_the_tickets_are_refused() -> None:
    ticket = found(network(), EdgePopup(density=0.5))
    for method in (IterativePruning(density=0.1, rounds=1, exclude=["5.*"]), EdgePopup(exclude=["5.*"])):
        with pytest.raises(TombolaError, match=r"differ in '5\.weight'") as caught:
            found(network(), method, start=ticket)
        assert "\n" not in str(caught.value)


def test_runs_from_a_file_are_named_by_the_ticket(tmp_path: Path) -> None:
    file = tmp_path / "a.ticket"
    found(SMALL, EdgePopup(density=0.5)).save(file)
    one, two = tmp_path / "one", tmp_path / "two"

    def run(out: Path, start: Any) -> SearchResult:
        return run_find(make_request(SMALL, splits(), Joint(density=0.3), recipe=RECIPE, start=start), out)

    first = run(one, file)
    assert run(one, Ticket.load(file)).run == first.run
    assert run(one, None).run != first.run
    second = run(two, str(file))
    assert Path(first.ticket).read_bytes() == Path(second.ticket).read_bytes()
    assert Ticket.load(first.ticket).provenance["start"] == Ticket.load(file).digest
    with pytest.raises(TombolaError, match="nowhere"):
        run(one, tmp_path / "nowhere.ticket")


def test_weights_that_a_ticket_pruned_can_be_learned_back() -> None:
    first = tb.find("mlp", "digits", tb.Joint(density=0.2), recipe={"length": "3it"}, options=Options(progress=False))
    request = make_request("mlp", "digits", tb.EdgePopup(density=0.6), start=first)
    began = start_from(request.model, load_data(DataSpec("digits")), seed=0, method=request.method, ticket=first)
    weights = dict(began.network().named_parameters())
    kept, origin = first.build().state_dict(), first.origin.state_dict()
    for name, keep in first.mask.items():
        assert torch.equal(weights[name][keep], kept[name][keep])
        assert torch.equal(weights[name][~keep], origin[name][~keep])
        assert bool(weights[name][~keep].any())
