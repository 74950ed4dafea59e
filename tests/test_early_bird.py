"""Early-bird tickets: when they are drawn, what they keep, and the smaller network that is trained on."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from channel_networks import plain, pre_activation
from supermask_searches import KillAt, Killed
from tombola.compact import channel_groups, compact
from tombola.data.splits import Splits, make_splits
from tombola.errors import TombolaError
from tombola.levels.carry import small_snapshot
from tombola.levels.channels import kept_channels
from tombola.levels.draw import ScalePressure
from tombola.models.spec import ModelSpec
from tombola.report.drawn import drawn_lines
from tombola.search.find import run_find, search, validate
from tombola.search.request import make_request
from tombola.train import trial
from tombola.train.hooks import Hook
from tombola.train.options import Options
from tombola.train.recipe import Recipe
from tombola.train.state import Loop

RECIPE = Recipe(length="8ep", batch_size=16, lr=0.05, momentum=0.9, eval_every="2ep")
OPTIONS = Options(checkpoint_seconds=0, progress=False)


def splits() -> Splits:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(96, 3, 4, 4, generator=draw)
    y = (x.mean((2, 3)) @ torch.tensor([1.0, -1.0, 0.5]) > 0).long()
    return make_splits((x[:64], y[:64]), (x[64:80], y[64:80]), (x[80:], y[80:]))


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return plain(6, 8)


def levels_of(method: tb.EarlyBird, model: nn.Module | None = None, recipe: Recipe = RECIPE) -> list[Any]:
    return search(make_request(model or network(), splits(), method, recipe=recipe))


def test_drawn_at_the_end_it_is_pruned_after_a_whole_training() -> None:
    dense, small = levels_of(tb.EarlyBird(density=0.5, draw_at="end"))
    total = dense.result.mask_histories[0].planned
    assert dense.result.steps == small.result.channels.drawn == total
    assert dense.result.stopped is None


def test_the_largest_scales_are_kept_exactly_ties_to_the_first() -> None:
    assert kept_channels(torch.tensor([0.9, 0.1, 0.5, 0.3]), 0.5).tolist() == [True, False, True, False]
    assert kept_channels(torch.ones(5), 0.5).tolist() == [True, True, False, False, False]  # round(2.5) is 2


def test_pressure_is_the_sign_of_the_scale_times_its_strength() -> None:
    class Seen(Hook):
        def before_step(self, loop: Loop) -> None:
            norm = loop.model.get_submodule("1")
            norm.weight.data.copy_(torch.tensor([2.0, -3.0, 0.0, 1.0, 1.0, 1.0]))

        def after_backward(self, loop: Loop) -> None:
            self.grad = loop.model.get_parameter("1.weight").grad.clone()
            ScalePressure(0.25).after_backward(loop)
            self.pressed = loop.model.get_parameter("1.weight").grad.clone()

    from tombola.train.loop import train

    seen = Seen()
    train(network(), splits(), replace(RECIPE, length="1it"), hooks=[seen])
    signs = torch.tensor([1.0, -1.0, 0.0, 1.0, 1.0, 1.0])
    assert torch.allclose(seen.pressed - seen.grad, 0.25 * signs, atol=1e-6)


@pytest.mark.parametrize("density", [0.3, 0.5, 0.75, 1.0])
def test_the_density_of_channels_is_exact_and_the_small_network_goes_on(density: float) -> None:
    method = tb.EarlyBird(density=density, draw_at="2ep", watch=(0.4,))
    drawn, last = levels_of(method)
    units = 6 + 8 + 6
    assert (last.result.channels.kept, last.result.channels.total) == (round(density * units), units)
    assert last.result.channels.drawn == drawn.result.steps == 8
    assert (last.result.first_step, last.result.steps) == (8, 32)
    assert drawn.result.density == 1.0
    own, watched = drawn.result.mask_histories
    assert (own.unit, own.density, watched.density) == ("channels", density, 0.4)
    assert own.steps == watched.steps == (0, 4, 8)
    assert last.ticket.mask.keys() == drawn.ticket.mask.keys()
    if density < 1:
        assert last.result.cost.flops < 0.9 * drawn.result.cost.flops * 3  # 6 epochs after 2


def test_the_ticket_builds_the_masked_network_that_compaction_makes_the_trained_one_of() -> None:
    last = levels_of(tb.EarlyBird(density=0.5, draw_at="2ep"))[-1]
    model, x = last.ticket.build(model=network()).eval(), splits().test.x
    small = compact(model, x, fold_norms=False)
    kept = sum(len(indices[0]) for name, indices in small.kept.items() if name in ("1.weight", "4.weight", "9.weight"))
    assert kept == last.result.channels.kept == 10
    with torch.no_grad():
        off = (small.module(x) - model(x)).abs().max() / model(x).abs().max()
    assert off < 1e-5
    assert last.ticket.density == sum(
        p.numel() for n, p in small.module.named_parameters() if n in last.ticket.mask
    ) / (last.ticket.mask.total)


@pytest.mark.parametrize("stop", [True, False])
def test_the_ticket_is_drawn_when_the_last_distances_are_small(stop: bool) -> None:
    method = tb.EarlyBird(stop_when_stable=stop, stable_distance=0.9, stable_window=2)
    drawn, last = levels_of(method)
    (history,) = drawn.result.mask_histories
    assert history.emerged == last.result.channels.drawn == 8  # two distances, of three masks
    assert drawn.result.steps == (8 if stop else 32)
    assert (drawn.result.stopped is not None) == stop
    assert last.result.steps == 32


def test_whether_the_search_goes_on_does_not_change_the_ticket() -> None:
    one, other = (
        levels_of(tb.EarlyBird(stop_when_stable=stop, stable_distance=0.9, stable_window=2))[-1]
        for stop in (True, False)
    )
    assert one.ticket.mask == other.ticket.mask
    ours, theirs = (level.ticket.build(model=network()).state_dict() for level in (one, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_ticket_that_did_not_emerge_is_drawn_at_the_end_and_goes_through_the_schedule_again(tmp_path: Path) -> None:
    method = tb.EarlyBird(stable_distance=1e-9, stable_window=8)
    result = run_find(make_request(network(), splits(), method, recipe=RECIPE, options=OPTIONS), tmp_path)
    drawn, last = result.replicates[0].levels
    assert drawn.mask_histories is not None
    assert drawn.mask_histories[0].emerged is None
    assert result.dense_test_accuracy == drawn.test_accuracy
    assert last.channels is not None
    assert (last.channels.drawn, last.first_step, last.steps) == (32, 0, 32)
    (line,) = drawn_lines(result)
    assert "channels: 10 of 20 kept; ticket did not emerge (" in line
    assert line.endswith("drawn at epoch 8 of 8")


def test_the_command_says_when_the_ticket_emerged(tmp_path: Path) -> None:
    method = tb.EarlyBird(stable_distance=0.9, stable_window=2, watch=(0.25,))
    result = run_find(make_request(network(), splits(), method, recipe=RECIPE, options=OPTIONS), tmp_path)
    assert result.dense_test_accuracy is None  # the dense network was not trained to the end
    one, two = drawn_lines(result)
    assert one == "channels: 10 of 20 kept; ticket emerged at epoch 2 of 8"
    assert two.startswith("at 25.00 % of the channels a ticket emerged at epoch 2 of 8")
    early = tb.EarlyBird(draw_at="3it")
    (line,) = drawn_lines(run_find(make_request(network(), splits(), early, recipe=RECIPE, options=OPTIONS), tmp_path))
    assert line.endswith("ticket drawn at iteration 3")


def test_from_scratch_the_kept_weights_begin_where_they_began() -> None:
    recipe = replace(RECIPE, lr=1e-6)
    last = levels_of(tb.EarlyBird(density=0.9, draw_at="1ep", retrain="scratch"), recipe=recipe)[-1]
    assert last.result.first_step == 0
    built, origin = last.ticket.build(model=network()).state_dict(), network().state_dict()
    for name, keep in last.ticket.mask.items():
        assert torch.allclose(built[name], origin[name] * keep, atol=1e-3)


def test_momentum_goes_along_cut_to_what_is_kept() -> None:
    class Stop(Exception):
        pass

    model, x = network(), splits().val.x
    groups = channel_groups(model, x)
    kept = kept_channels(torch.arange(groups.count) % 2, 0.5)
    from tombola.compact.slim import slim
    from tombola.train.loop import train

    trained = train(model, splits(), replace(RECIPE, length="3it"), capture=3)
    assert trained.captured is not None
    small = slim(model, groups.mask(kept), x)
    point = small_snapshot(trained.captured, model, small)
    assert not isinstance(point, int)
    names = [name for name, _ in small.module.named_parameters()]
    whole = [name for name, _ in model.named_parameters()]
    for i, name in enumerate(names):
        momentum = trained.captured.optimizer["state"][whole.index(name)]["momentum_buffer"]
        own = point.optimizer["state"][i]["momentum_buffer"]
        assert own.shape == small.module.get_parameter(name).shape
        rows, *columns = small.kept[name]
        assert torch.equal(own, momentum[rows][:, columns[0]] if columns else momentum[rows])
    changed = replace(trained.captured, optimizer={**trained.captured.optimizer, "param_groups": [{}, {}]})
    assert small_snapshot(changed, model, small) == 3  # an optimiser of another kind starts anew


def dead_branch() -> nn.Module:
    """Pre-activation blocks of which the first has by far the smallest scales within."""
    model = pre_activation()
    with torch.no_grad():
        for name in ("bn2", "bn3"):
            getattr(model[1], name).weight.fill_(1e-3)
    return model


def test_a_whole_branch_may_die_and_stays_silent_while_the_rest_trains() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = dead_branch()
    method = tb.EarlyBird(density=0.6, draw_at="1it", pressure=0.0, residual=True)
    _, last = levels_of(method, model, replace(RECIPE, lr=1e-3))
    assert last.result.channels.kept == round(0.6 * 36)
    mask = last.ticket.mask
    assert not mask["1.conv3.weight"].any()
    built, x = last.ticket.build(model=model).eval(), splits().test.x
    with torch.no_grad():
        bare = copy.deepcopy(built)
        bare[1] = _Bias(built[1].conv3.bias)
        assert torch.allclose(built(x), bare(x), atol=1e-5)


class _Bias(nn.Module):
    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias[:, None, None]


def test_a_network_that_is_cut_in_two_is_refused_by_the_layers_name() -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("4.weight").fill_(1e-3)
    with pytest.raises(TombolaError, match=r"none of 3\.weight stays, so that no path leads from input to output"):
        levels_of(tb.EarlyBird(density=0.5, draw_at="1it", pressure=0.0), model, replace(RECIPE, lr=1e-4))


def test_mistakes_are_met_before_anything_is_trained() -> None:
    def found(model: Any, method: tb.EarlyBird) -> None:
        tb.find(model, splits(), method, recipe=RECIPE)

    with pytest.raises(TombolaError, match=r"density 0\.1 keeps 2 of 20 channels, but 3 layers need one each"):
        found(network(), tb.EarlyBird(density=0.1))
    with pytest.raises(TombolaError, match="draw_at is 9ep, but training ends at iteration 32"):
        found(network(), tb.EarlyBird(draw_at="9ep"))
    with pytest.raises(TombolaError, match=r"draw_at is 0\.1ep, not one of 4 iterations an epoch"):
        found(network(), tb.EarlyBird(draw_at="0.1ep"))
    with pytest.raises(TombolaError, match="no norm has a trained scale"):
        found(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), tb.EarlyBird())
    for options, message in (
        ({"draw_at": "0ep"}, "draw after some training"),
        ({"retrain": "again"}, "retrain"),
        ({"search_precision": "4"}, "search_precision"),
        ({"watch": (1.5,)}, "density is 1.5"),
        ({"pressure": -1.0}, "pressure is -1.0"),
        ({"detector": "correlation"}, "detector"),
    ):
        with pytest.raises(TombolaError, match=message):
            tb.EarlyBird(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "args", "wanted"),
    [
        ("conv-2", {}, {"norms": True, "affine": True}),
        ("lenet-300-100", {"width": 0.1}, {"norms": True, "affine": True, "width": 0.1}),
        ("vgg-16", {}, {"affine": True}),
        ("conv-2", {"activation": "binary"}, {"affine": True, "activation": "binary"}),
        ("torchvision.models.resnet18", {"weights": None}, {"weights": None}),
    ],
)
def test_networks_of_tombolas_own_get_norms_with_scales(name: str, args: Any, wanted: Any) -> None:
    assert tb.EarlyBird().network(ModelSpec(name, args)).args == wanted


@pytest.mark.parametrize(("level", "step"), [(0, 17), (0, 30), (1, 20)])
def test_a_search_killed_in_either_level_ends_as_if_never_killed(
    level: int, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ticket is drawn at iteration 12, before each kill."""
    method = tb.EarlyBird(stop_when_stable=False, stable_distance=0.9, stable_window=3, watch=(0.3,))

    def run(out: str) -> Any:
        return run_find(make_request(network(), splits(), method, recipe=RECIPE, options=OPTIONS), tmp_path / out)

    expected, real, trainings = run("whole"), trial.train, [-1]

    def train(*args: Any, hooks: Any = (), **more: Any) -> Any:
        trainings[0] += 1
        return real(*args, hooks=(*hooks, KillAt(step)) if trainings[0] == level else hooks, **more)

    with monkeypatch.context() as patched:
        patched.setattr(trial, "train", train)
        with pytest.raises(Killed):
            run("killed")
    resumed = run("killed")
    assert Path(resumed.ticket).read_bytes() == Path(expected.ticket).read_bytes()
    ours, theirs = ([one.replace(seconds=0, cost=None) for one in r.replicates[0].levels] for r in (resumed, expected))
    assert ours == theirs


def test_the_ticket_is_verified_and_deployed_as_a_smaller_network() -> None:
    ticket = levels_of(tb.EarlyBird(density=0.5, draw_at="2ep"))[-1].ticket
    found = tb.verify(ticket, splits(), model=network(), replicates=1, recipe=RECIPE, options=OPTIONS)
    assert set(found.arms) == {"ticket", "dense", "random", "reinit"}
    x = splits().test.x[:1]
    deployed = tb.deploy(ticket, x, model=network())
    before, after = deployed.report.compaction.flops
    assert after < 0.7 * before


def test_a_layer_that_the_dry_run_drops_whole_stays_pruned_in_it() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
        )
    recipe = replace(RECIPE, optimizer="adamw", momentum=0.0)
    for seed in range(2):  # seed 0 draws no channel of the first layer
        validate(make_request(model, splits(), tb.EarlyBird(density=0.5), recipe=recipe, seed=seed), splits())
