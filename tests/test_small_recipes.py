"""IteRand, Gem-Miner, signed and multicoated supermasks, learnable N:M: hand-computed steps, and searches on digits."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tombola.data.config import DataSpec
from tombola.data.registry import load_data
from tombola.errors import TombolaError
from tombola.levels.hooks import FreezeOut, Redraw, Refresh
from tombola.levels.search import Level, Search
from tombola.methods.edge_popup import EdgePopup
from tombola.methods.gem_miner import GemMiner
from tombola.methods.iterand import IteRand, fresh_weights
from tombola.methods.joint import Joint
from tombola.methods.learned_mask import LearnedMask
from tombola.methods.multicoat import Multicoat
from tombola.methods.signed import SignedSupermask
from tombola.models.spec import ModelSpec
from tombola.search.find import search, validate
from tombola.search.request import make_request
from tombola.supermask import Coats, Round, TopK, attach, read, refresh
from tombola.supermask.layers import layers
from tombola.ticket.ticket import Ticket
from tombola.train.evaluate import evaluate
from tombola.train.feeds import evaluation_feed
from tombola.train.loop import train
from tombola.train.recipe import Recipe

SPLITS = load_data(DataSpec("digits"))
RECIPE = Recipe(length="24it", batch_size=60, lr=0.1, momentum=0.9, eval_every="12it")
SMALL = ModelSpec("mlp", args={"hidden": (16,)})


def searched(method: Any, model: Any = SMALL, recipe: Recipe = RECIPE, seed: int = 0) -> list[Level]:
    return search(make_request(model, SPLITS, method, recipe=recipe, seed=seed))


def captured(monkeypatch: pytest.MonkeyPatch, method: Any, model: Any = SMALL, seed: int = 0) -> Search:
    """The search that a method is given."""
    seen: list[Search] = []

    def find(self: Any, given: Search) -> list[Level]:
        seen.append(given)
        raise NotImplementedError

    monkeypatch.setattr(type(method), "find", find)
    with pytest.raises(NotImplementedError):
        searched(method, model, seed=seed)
    return seen[0]


def one_layer(rule: Any, scores: list[float], weights: list[float] | None = None) -> nn.Module:
    model = nn.Sequential(nn.Linear(len(scores), 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([weights or [1.0] * len(scores)]))
    attach(model, rule)
    set_scores(model, scores)
    return model


def set_scores(model: nn.Module, scores: list[float]) -> None:
    with torch.no_grad():
        next(layers(model)).supermask.scores.copy_(torch.tensor([scores]))
    refresh(model)


def at(step: int, model: nn.Module) -> Any:
    return SimpleNamespace(step=step, model=model)


def accuracy(model: nn.Module) -> float:
    assert SPLITS.test is not None
    feed = evaluation_feed(SPLITS, SPLITS.test, torch.device("cpu"), False)
    return evaluate(model, feed, SPLITS.task, nullcontext).metric


def effective(ticket: Ticket) -> Mapping[str, Tensor]:
    state = ticket.build("final").state_dict()
    return {name: state[name] for name in ticket.mask}


# ---- IteRand -----------------------------------------------------------------------------------------------


def test_redraw_changes_pruned_weights_only_and_at_its_steps_only() -> None:
    model = one_layer(TopK(0.5), [0.4, -0.1, 0.2, -0.3], [1.0, 2.0, 3.0, 4.0])
    hook = Redraw(lambda step: {"0.weight": torch.full((1, 4), float(step))}, every=3, probability=1.0, seed=0)
    weight = next(layers(model)).weight
    for step in (0, 1, 2, 4):
        hook.before_step(at(step, model))
        assert weight.tolist() == [[1.0, 2.0, 3.0, 4.0]]
    hook.before_step(at(6, model))
    assert weight.tolist() == [[1.0, 6.0, 6.0, 4.0]]  # |scores| 0.4 and 0.3 are kept
    hook.probability = 0.0
    hook.before_step(at(9, model))
    assert weight.tolist() == [[1.0, 6.0, 6.0, 4.0]]


def test_redraw_hits_the_asked_for_share_and_repeats_itself() -> None:
    def redrawn(step: int, seed: int = 0) -> Tensor:
        model = one_layer(TopK(0.5), torch.rand(40_000, generator=torch.Generator().manual_seed(1)).tolist())
        hook = Redraw(lambda step: {"0.weight": torch.full((1, 40_000), 7.0)}, every=300, probability=0.1, seed=seed)
        hook.before_step(at(step, model))
        return next(layers(model)).weight == 7

    first = redrawn(300)
    assert 1800 < int(first.sum()) < 2200  # a tenth of 20,000: 5 standard deviations are 212
    assert torch.equal(first, redrawn(300))
    assert not torch.equal(first, redrawn(600))
    assert not torch.equal(first, redrawn(300, seed=1))


@pytest.mark.parametrize("init", ["signed_constant", "kaiming_normal", "torch_default"])
def test_seeded_origins_redraw_from_their_scheme(init: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = IteRand(density=0.25, scale_fan=True)
    given = captured(monkeypatch, method, ModelSpec("mlp", args={"hidden": (400,)}, init=init))
    draw, origin = fresh_weights(given), given.state()
    for name in ("fc1.weight", "fc2.weight"):
        first, again, other = (draw(step)[name].detach().clone() for step in (300, 300, 600))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert not torch.equal(first, origin[name])
        assert float(first.std()) == pytest.approx(float(origin[name].std()), rel=0.05)
        assert float(first.abs().max()) == pytest.approx(float(origin[name].abs().max()), rel=0.3)


def test_stored_origins_redraw_from_their_own_values(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    given = captured(monkeypatch, IteRand(), net)
    draw = fresh_weights(given)
    drawn = draw(300)["1.weight"]
    assert drawn.shape == (10, 64)
    assert set(drawn.flatten().tolist()) <= set(net[1].weight.flatten().tolist())
    assert torch.equal(drawn, draw(300)["1.weight"])
    assert not torch.equal(drawn, draw(600)["1.weight"])


def test_probability_zero_is_edge_popup_and_one_stores_what_changed() -> None:
    popup = searched(EdgePopup(density=0.3, scores="kaiming_uniform"))[0].ticket
    still = searched(IteRand(density=0.3, every="5it", probability=0.0))[0].ticket
    assert still.mask == popup.mask
    assert still.trained is None
    moved = searched(IteRand(density=0.3, every="5it", probability=1.0))[0].ticket
    assert moved.trained
    before, after = moved.build("origin").state_dict(), effective(moved)
    changed = [int((before[name] != after[name]).sum()) for name in moved.mask]
    assert all(0 < n < moved.mask[name].sum() for n, name in zip(changed, moved.mask, strict=True))
    sizes = {name: set(after[name].abs()[moved.mask[name]].tolist()) for name in moved.mask}
    assert all(len(found) == 1 for found in sizes.values())  # still signed constants


# ---- resuming ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [IteRand(every="7it", probability=0.5), GemMiner(density=0.1, freeze_every="7it")])
@pytest.mark.parametrize("cut", [7, 10, 14])
def test_resumed_from_a_snapshot_the_run_ends_bit_for_bit(
    method: Any, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = captured(monkeypatch, method)

    def run(**more: Any) -> Any:
        model, learning = given.network(), method.learning(given.network())
        attach(model, learning.rule, scores=learning.scores, seed=0)
        return train(model, SPLITS, RECIPE, hooks=(*learning.hooks(given), Refresh()), **more)

    whole = run(capture=cut)
    rest = run(start=whole.captured)
    assert rest.steps == whole.steps == 24
    assert whole.state.keys() == rest.state.keys()
    for name, value in whole.state.items():
        assert torch.equal(value, rest.state[name]), name


# ---- Gem-Miner ---------------------------------------------------------------------------------------------


def test_gem_miner_falls_geometrically_and_ends_before_the_end() -> None:
    assert GemMiner(density=0.25, freeze_every="4it").densities(10, 9) == {4: 0.5, 8: 0.25}
    assert GemMiner(density=0.25, freeze_every="4it").densities(10, 8) == {4: 0.25}
    paper = GemMiner(density=0.0144).densities(391, 150 * 391)
    assert (min(paper), max(paper), len(paper)) == (5 * 391, 145 * 391, 29)
    assert paper[145 * 391] == 0.0144


def test_frozen_scores_stay_at_zero_and_the_last_step_keeps_the_rest() -> None:
    model = one_layer(Round(), [0.9, 0.1, 0.6, 0.4])
    hook, scores = FreezeOut({1: 0.75, 2: 0.5}, "layer", keep_all_at=4), next(layers(model)).supermask.scores
    hook.after_step(at(1, model))
    assert scores.tolist() == [pytest.approx([0.9, 0.0, 0.6, 0.4])]
    scores.grad = torch.ones(1, 4)
    hook.after_backward(at(1, model))
    assert scores.grad.tolist() == [[1.0, 0.0, 1.0, 1.0]]
    set_scores(model, [0.9, 0.8, -3.0, 0.4])  # an optimiser's momentum; -3 counts as 0
    hook.after_step(at(2, model))
    assert scores.tolist() == [pytest.approx([0.9, 0.0, 0.0, 0.4])]
    resumed = FreezeOut({}, "layer", keep_all_at=4)
    resumed.load_state_dict(hook.state_dict())
    resumed.on_start(at(3, model))
    set_scores(model, [0.7, 1.0, 1.0, 0.1])
    resumed.after_step(at(4, model))
    refresh(model)
    assert scores.tolist() == [pytest.approx([0.7, 0.0, 0.0, 0.5])]
    assert read(model)["0.weight"].tolist() == [[True, False, False, True]]


def test_scopes_freeze_over_the_network_or_each_layer() -> None:
    for scope, expected in (("global", [4, 1]), ("layer", [2, 3])):
        model = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Linear(6, 1, bias=False))
        attach(model, Round())
        high, low = (layer.supermask.scores for layer in layers(model))
        with torch.no_grad():
            high.copy_(torch.tensor([[0.9, 0.8, 0.7, 0.6]]))
            low.copy_(torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.55]]))
        FreezeOut({1: 0.5}, scope).after_step(at(1, model))
        assert [int(torch.count_nonzero(scores)) for scores in (high, low)] == expected


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_gem_miner_ends_at_its_density_exactly(scope: str) -> None:
    mask = searched(GemMiner(density=0.137, freeze_every="5it", scope=scope))[0].ticket.mask
    total = {"fc1.weight": 1024, "fc2.weight": 160}
    if scope == "layer":
        assert mask.counts() == {name: (round(0.137 * n), n) for name, n in total.items()}
    assert mask.kept == round(0.137 * 1184)
    loose = searched(GemMiner(density=0.137, freeze_every="5it", scope=scope, exact=False))[0].ticket.mask
    assert loose.nested_in(mask)


def test_gem_miner_finetunes_under_its_mask_as_learned_mask_does() -> None:
    for method in (GemMiner(density=0.3, freeze_every="6it", finetune="6it"), LearnedMask(finetune="6it")):
        first, second = searched(method)
        assert second.ticket.mask == first.ticket.mask
        assert second.result.steps == 6
        assert second.ticket.trained
        assert second.result.test_accuracy == accuracy(second.ticket.build("final"))


# ---- signed and multicoated --------------------------------------------------------------------------------


def test_signed_supermask_keeps_drops_and_inverts() -> None:
    ticket = searched(SignedSupermask(threshold=0.05))[0].ticket
    assert ticket.multiplier is not None
    origin = ticket.origin.state_dict()
    for name, factor in ticket.multiplier.items():
        assert factor.dtype == torch.int8
        assert set(factor.flatten().tolist()) == {-1, 0, 1}
        assert torch.equal(effective(ticket)[name], origin[name] * factor)
    assert ticket.trained is None


def test_coats_add_up_with_ties_to_the_lower_index() -> None:
    model = one_layer(Coats((0.2, 0.6, 0.4)), [0.5, -0.9, 0.3, 0.3, 0.1])
    assert next(layers(model)).supermask.mask.tolist() == [[2, 3, 1, 0, 0]]
    set_scores(model, [-0.1, 0.0, 0.2, 0.4, 0.3])
    assert next(layers(model)).supermask.mask.tolist() == [[0, 0, 1, 3, 2]]


def test_multicoat_has_each_coats_density_and_its_fan() -> None:
    ticket = searched(Multicoat(densities=(0.1, 0.4, 0.2)))[0].ticket
    assert ticket.multiplier is not None
    for name, factor in ticket.multiplier.items():
        n = factor.numel()
        expected = [round(d * n) for d in (0.4, 0.2, 0.1)]
        assert [int((factor >= coat).sum()) for coat in (1, 2, 3)] == expected
        fan_in = ticket.mask[name].shape[1]
        assert float(effective(ticket)[name].abs().max()) == pytest.approx(3 * (2 / (0.4 * fan_in)) ** 0.5)


# ---- learnable N:M -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [EdgePopup(pattern="2:4"), Joint(pattern="2:4", weight_gradient="sr-ste")])
def test_two_of_every_four_inputs_are_kept(method: Any) -> None:
    first, last = searched(method), searched(method, recipe=Recipe(length="1it", lr=0.1))
    for levels in (first, last):
        for mask in levels[0].ticket.mask.values():
            assert bool((mask.reshape(-1, 4).sum(1) == 2).all())
    assert first[0].ticket.mask != last[0].ticket.mask  # the mask was learned


# ---- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::tombola.select.select.EmptyLayerWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IteRand(every="0it"), "every is 0it"),
        (lambda: IteRand(every="0.001ep"), "every is 0.001ep"),
        (lambda: IteRand(probability=1.5), "probability is 1.5"),
        (lambda: GemMiner(freeze_every="24it"), "freeze_every is 24it"),
        (lambda: GemMiner(freeze_every="0it"), "freeze_every is 0it"),
        (lambda: GemMiner(density=0.001, freeze_every="2it", scope="layer"), "nothing is kept of fc2.weight"),
        (lambda: GemMiner(scope="model"), "scope 'model'"),
        (lambda: GemMiner(finetune_lr=-1), "finetune_lr is -1"),
        (lambda: SignedSupermask(threshold=0.9), "above every first score of fc1.weight"),
        (lambda: SignedSupermask(threshold=-1), "threshold is -1"),
        (lambda: Multicoat(densities=()), "densities is ()"),
        (lambda: Multicoat(densities=("0.3", "x")), "densities is ('0.3', 'x')"),
        (lambda: Multicoat(densities=(0.3, 2)), "density is 2"),
        (lambda: Multicoat(densities=(0.001, 0.0005)), "nothing is kept of fc2.weight"),
    ],
)
def test_mistakes_are_met_before_training(make: Any, message: str) -> None:
    with pytest.raises(TombolaError) as error:
        validate(make_request(SMALL, SPLITS, make(), recipe=RECIPE), SPLITS)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_densities_may_come_as_texts() -> None:
    assert Multicoat(densities=("0.3", "0.1")) == Multicoat(densities=(0.3, 0.1))  # type: ignore[arg-type]
