"""Iterative pruning end to end on tiny networks: counts, nesting, rewinding, patterns, edges."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from tombola.data.splits import Splits, make_splits
from tombola.errors import TombolaError
from tombola.levels import prune as loop
from tombola.mask import Mask
from tombola.methods import METHODS
from tombola.methods.imp import IterativePruning
from tombola.models.spec import ModelSpec
from tombola.parameters import prunable
from tombola.search.find import find, run_find, search
from tombola.search.presets import PRESETS
from tombola.search.request import make_request
from tombola.train.connectivity import is_cut
from tombola.train.feeds import training_feed
from tombola.train.recipe import Recipe

RECIPE = Recipe(length="12it", batch_size=8, lr=0.05, weight_decay=1e-3, eval_every="6it")


def splits() -> Splits:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(64, 1, 6, 6, generator=draw)
    y = (x.mean((1, 2, 3)) > 0).long()
    return make_splits((x[:40], y[:40]), (x[40:52], y[40:52]), (x[52:], y[52:]))


def network() -> nn.Module:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 4, 3, padding=1)
    return nn.Sequential(
        conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 2)
    )


def spied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Tensor], Any]]:
    """What every level's training begins with: the model's state and the snapshot it starts at."""
    seen: list[tuple[dict[str, Tensor], Any]] = []
    real = loop.train_trial

    def spy(setup: Any, model: nn.Module, **more: Any) -> Any:
        seen.append(({name: value.clone() for name, value in model.state_dict().items()}, more["start"]))
        return real(setup, model, **more)

    monkeypatch.setattr(loop, "train_trial", spy)
    return seen


def levels_of(method: IterativePruning, **more: Any) -> list[loop.Level]:
    return search(make_request(network(), splits(), method, recipe=RECIPE, **more))


def test_levels_are_exact_nested_and_zero_where_pruned() -> None:
    levels = levels_of(IterativePruning(rate=0.3, levels=3))
    total = {"0.weight": 36, "4.weight": 1152, "6.weight": 16}
    for level, earlier in zip(levels[1:], levels, strict=False):
        mask = level.ticket.mask
        rates = {"0.weight": 0.3, "4.weight": 0.3, "6.weight": 0.15}
        expected = {name: (round(n * (1 - rates[name]) ** level.level), n) for name, n in total.items()}
        assert mask.counts() == expected
        assert mask.nested_in(earlier.ticket.mask)
        state = level.ticket.build("final", model=network()).state_dict()
        assert all(bool((state[name][~kept] == 0).all()) for name, kept in mask.items())
        assert all(bool((state[name][kept] != 0).all()) for name, kept in mask.items())


def test_the_smallest_trained_weights_are_the_ones_that_go() -> None:
    dense, pruned = levels_of(IterativePruning(density=0.5, rounds=1))
    final = dense.ticket.build("final", model=network()).state_dict()
    for name, kept in pruned.ticket.mask.items():
        assert final[name][kept].abs().min() >= final[name][~kept].abs().max()


@pytest.mark.parametrize("rows", [1, 2])
def test_scores_count_with_their_sign(rows: int) -> None:
    pattern = "element" if rows == 1 else "block:2"
    dense, pruned = levels_of(IterativePruning(density=0.5, rounds=1, criterion="small_final", pattern=pattern))
    final = dense.ticket.build("final", model=network()).state_dict()
    for name, mask in pruned.ticket.mask.items():
        size = final[name].flatten(1).unflatten(0, (-1, rows)).abs().mean(1)
        kept = mask.flatten(1).unflatten(0, (-1, rows)).all(1)
        assert size[kept].max() <= size[~kept].min() + 1e-7


def test_without_inputs_the_last_prunable_weight_is_the_outputs() -> None:
    def rows(**more: Any) -> Any:
        mask, plan = loop.plan_levels(network(), IterativePruning(pattern="channel", **more).pruning())
        assert mask == Mask.full(prunable(network())) or more["exclude"]
        return plan[-1]

    assert rows(density=0.5, rounds=1) == {"0.weight": 2, "4.weight": 3, "6.weight": 2}  # 7 of 14, those 2 whole
    assert rows(density=0.5, rounds=1, exclude=("6.*",)) == {"0.weight": 2, "4.weight": 4}
    assert rows(levels=1, rate=0.5, prune_outputs=True) == {"0.weight": 2, "4.weight": 4, "6.weight": round(1.5)}


def test_a_target_density_is_met_exactly() -> None:
    levels = levels_of(IterativePruning(density=0.2, rounds=3))
    assert levels[-1].ticket.mask.kept == round(0.2 * 1204)
    assert len(levels) == 4


def test_global_scope_ranks_all_layers_together() -> None:
    dense, pruned = levels_of(IterativePruning(density=0.25, rounds=1, scope="global"))
    final = dense.ticket.build("final", model=network()).state_dict()
    mask = pruned.ticket.mask
    kept = torch.cat([final[name][keep].abs() for name, keep in mask.items()])
    gone = torch.cat([final[name][~keep].abs() for name, keep in mask.items()])
    assert len(kept) == round(0.25 * 1204)
    assert kept.min() >= gone.max()


def test_every_level_but_the_dense_one_trains_under_its_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, real = [], loop.train_trial
    monkeypatch.setattr(loop, "train_trial", lambda *given, **more: masks.append(more["mask"]) or real(*given, **more))
    levels = levels_of(IterativePruning(density=0.3, rounds=1))
    assert masks == [None, levels[1].ticket.mask]


def test_rewinding_to_the_beginning_returns_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spied(monkeypatch)
    levels_of(IterativePruning(density=0.3, rounds=2))
    first = network().state_dict()
    assert all(start is None for _, start in seen)
    assert all(torch.equal(state[name], first[name]) for state, _ in seen for name in first)


def test_rewinding_to_a_step_returns_weights_norms_statistics_and_optimiser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = spied(monkeypatch)
    levels = levels_of(IterativePruning(density=0.3, rounds=2, rewind="5it"))
    (_, none), (_, first), (_, second) = seen
    assert none is None
    assert (first.step, second.step) == (5, 5)
    assert int(first.model["1.num_batches_tracked"]) == 5  # batch norm's statistics are those of step 5
    momentum = first.optimizer["state"][0]["momentum_buffer"]
    assert bool((momentum != 0).any())
    start = levels[-1].ticket.build("origin", model=network()).state_dict()
    for name, kept in levels[-1].ticket.mask.items():
        assert torch.equal(start[name][kept], first.model[name][kept])
        assert not torch.equal(first.model[name], network().state_dict()[name])
    assert torch.equal(start["1.running_mean"], first.model["1.running_mean"])
    assert levels[-1].ticket.provenance["rewound_steps"] == 5


def test_learning_rate_rewinding_keeps_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spied(monkeypatch)
    levels = levels_of(IterativePruning(density=0.3, rounds=2, rewind="lr:4it"))
    for (_, start), before in zip(seen[1:], levels, strict=False):
        final = before.ticket.build("final", model=network()).state_dict()
        assert start.step == 4
        assert all(torch.equal(start.model[name], final[name]) for name in final)
    # what the ticket says it trains from is the trained dense network
    origin, dense = (
        levels[i].ticket.build(which, model=network()).state_dict() for i, which in ((2, "origin"), (0, "final"))
    )
    assert all(torch.equal(origin[name][kept], dense[name][kept]) for name, kept in levels[2].ticket.mask.items())
    assert torch.equal(origin["1.running_mean"], dense["1.running_mean"])


@pytest.mark.parametrize("pattern", ["block:4", "inputs:4", "channel", "2:4"])
def test_patterns_are_kept_or_dropped_as_one(pattern: str) -> None:
    density = None if pattern == "2:4" else 0.5  # N:M fixes it
    method = IterativePruning(pattern=pattern, rounds=1, exclude=("6.weight",), density=density)
    mask = levels_of(method)[-1].ticket.mask
    rows = mask["4.weight"]
    if pattern == "block:4":
        assert bool((rows.view(2, 4, -1).sum(1) % 4 == 0).all())
    elif pattern == "inputs:4":
        assert bool((rows.view(8, -1, 4).sum(2) % 4 == 0).all())
    elif pattern == "channel":
        assert bool((rows.all(1) | ~rows.any(1)).all())
    else:
        assert bool((rows.view(8, -1, 4).sum(2) == 2).all())


def test_what_is_prunable_can_be_narrowed_and_widened() -> None:
    method = IterativePruning(density=0.5, rounds=1, include=("4.bias", "6.bias"), exclude=("0.*",))
    assert set(levels_of(method)[-1].ticket.mask) == {"4.weight", "4.bias", "6.weight", "6.bias"}


def test_a_network_that_is_cut_through_is_refused() -> None:
    with (
        pytest.warns(UserWarning, match="nothing is kept of"),
        pytest.raises(TombolaError, match="no path leads"),
    ):
        levels_of(IterativePruning(density=0.002, rounds=1, output_rate=0.2))


def test_a_cut_is_told_from_dead_units_and_from_symmetry() -> None:
    x = torch.randn(4, 3)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    full = Mask.full(prunable(model))
    assert not is_cut(model, full, x)  # although a layer norm's gradient vanishes at symmetric weights
    dead = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.constant_(dead[0].bias, -100.0)  # type: ignore[arg-type]
    assert not is_cut(dead, Mask.full(prunable(dead)), x)  # constant output, but a path there is
    apart = {name: kept.clone() for name, kept in Mask.full(prunable(dead)).items()}
    apart["0.weight"][2:] = False
    apart["2.weight"][:, :2] = False
    assert is_cut(dead, Mask(apart), x)  # no layer is empty, yet nothing meets


def test_tokens_are_judged_only_where_the_network_tells_them_apart() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
    tokens, weights = torch.arange(24).view(8, 3) % 9, prunable(model)
    full, cut = Mask.full(weights), Mask({name: torch.zeros_like(w, dtype=torch.bool) for name, w in weights.items()})
    assert not is_cut(model, full, tokens)
    assert is_cut(model, cut, tokens)
    with torch.no_grad():
        model[4].weight.zero_()  # as some last layers start
    assert not is_cut(model, full, tokens)


def test_an_own_live_model_is_copied_and_its_weights_are_the_origin() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ticket = find(model, splits(), IterativePruning(density=0.5, rounds=1), recipe=RECIPE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    origin = ticket.build("origin", model=network()).state_dict()
    assert all(torch.equal(origin[name][kept], before[name][kept]) for name, kept in ticket.mask.items())


def test_the_public_names_do_the_whole_job(tmp_path: Path) -> None:
    data = splits()
    ticket = tb.find("mlp", data, tb.IterativePruning(density=0.2, rounds=2), recipe=tb.Recipe(length="2ep"), seed=1)
    ticket.save(tmp_path / "t.ticket")
    loaded = tb.Ticket.load(tmp_path / "t.ticket")
    first, second = ticket.build().eval(), loaded.build().eval()
    x = data.val.x  # type: ignore[union-attr]
    assert torch.equal(first(x), second(x))
    assert isinstance(loaded.mask, Mapping)
    with tb.hold(loaded.build("origin"), loaded.mask):
        pass
    verdict = tb.verify(loaded, data, replicates=3)
    assert {"dense", "random", "reinit"} == set(verdict.comparisons)
    assert verdict.wins in (True, False)
    assert isinstance(verdict.sentence, str)


def test_replicates_are_searches_of_their_own_and_finished_runs_are_found_again(tmp_path: Path) -> None:
    method = IterativePruning(density=0.5, rounds=1)
    request = make_request(ModelSpec("mlp"), splits(), method, recipe={"length": "3it"}, replicates=2)
    result = run_find(request, tmp_path)
    first, second = (tb.Ticket.load(Path(result.run) / replicate.ticket).mask for replicate in result.replicates)
    assert first != second
    files = {file: file.stat().st_mtime_ns for file in Path(result.run).rglob("*.ticket")}
    assert run_find(request, tmp_path) == result.replace(reused=True)
    assert files == {file: file.stat().st_mtime_ns for file in Path(result.run).rglob("*.ticket")}


def test_a_finished_run_is_found_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = make_request(ModelSpec("mlp"), splits(), IterativePruning(rounds=1), recipe={"length": "3it"})
    result = run_find(request, tmp_path)

    def read_only(*args: object, **named: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tombola.runs.atomic.tempfile.mkdtemp", read_only)
    assert run_find(request, tmp_path) == result.replace(reused=True)
    with pytest.raises(TombolaError, match=r"cannot be written to \(Read-only file system\)"):
        run_find(replace(request, seed=1), tmp_path)
    with pytest.raises(TombolaError, match=r"cannot be written to \(Read-only file system\)"):
        run_find(request, tmp_path / "new")


def test_a_foreign_network_by_import_path_is_trusted_by_whoever_names_it(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    x = torch.randn(24, 3, 32, 32)
    data = make_splits((x, torch.arange(24) % 3), (x[:4], torch.arange(4) % 3), (x[:4], torch.arange(4) % 3))
    spec = ModelSpec("torchvision.models.squeezenet1_1")
    ticket = find(spec, data, IterativePruning(density=0.5, rounds=1), recipe=Recipe(length="1it", batch_size=8))
    file = tmp_path / "t.ticket"
    ticket.save(file)
    with pytest.raises(tb.TicketError, match="torchvision"):
        tb.Ticket.load(file).build()
    built = tb.Ticket.load(file).build(trusted=("torchvision.models.",))
    assert built(x[:2]).shape == (2, 3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"density": 0.0}, r"density is 0.0.*\(0, 1\]"),
        ({"density": 1.5}, r"density is 1.5.*\(0, 1\]"),
        ({"density": 0.5, "levels": 3}, "both density and levels"),
        ({"rate": 1.0}, "rate is 1.0"),
        ({"rounds": 0}, "rounds is 0"),
        ({"scope": "galaxy"}, "allowed: layer, global"),
    ],
)
def test_wrong_settings_are_one_clear_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(TombolaError, match=words):
        IterativePruning(**settings)


def test_every_preset_fits_its_dataclasses() -> None:
    for (method, _, _), found in PRESETS.items():
        assert Recipe(**found.recipe)
        assert METHODS[method](**found.method)


@pytest.mark.parametrize("criterion", ["snip", "movement", "random", "large_final_same_sign"])
def test_other_criteria_are_settings_of_the_same_loop(criterion: str) -> None:
    assert levels_of(IterativePruning(density=0.5, rounds=1, criterion=criterion))[-1].ticket.mask.kept == 602


def test_mistakes_are_met_before_a_run_is_made(tmp_path: Path) -> None:
    for method in (IterativePruning(rewind="99it"), IterativePruning(criterion="guess"), IterativePruning(pattern="x")):
        with pytest.raises(TombolaError):
            run_find(make_request(network(), splits(), method, recipe=RECIPE), tmp_path)
    assert not list(tmp_path.iterdir())


def test_presets_reach_python_as_they_reach_the_command_line() -> None:
    x = torch.zeros(20, 3, 32, 32)
    data = make_splits((x, torch.arange(20) % 10), name="cifar10")
    request = make_request("conv-2", data, {"density": 0.5})
    assert (request.method.conv_rate, request.method.density, request.recipe.lr) == (0.1, 0.5, 2e-4)


def test_gradients_under_dropout_are_the_runs_own_draws() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.Dropout(0.5), nn.Linear(20, 2))
    method = IterativePruning(density=0.5, rounds=1, criterion="grad")
    masks = []
    for outside in (0, 1):
        torch.manual_seed(outside)
        state = torch.get_rng_state()
        masks.append(search(make_request(model, splits(), method, recipe=RECIPE))[-1].ticket.mask)
        assert torch.equal(torch.get_rng_state(), state)
    assert masks[0] == masks[1]
    other = search(make_request(model, splits(), method, recipe=RECIPE, seed=1))[-1].ticket.mask
    assert other != masks[0]


@pytest.mark.parametrize("criterion", ["snip", "grad"])
def test_a_gradient_is_that_of_the_masked_network_at_its_start(criterion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every level the loss's gradient at the initial weights, those that are pruned so far being 0, on the first
    batch; so that from the second level on it is another one than the dense network's."""
    contexts = {}  # the last of every level, by which the next mask is drawn; those before watched it
    real = loop._scores
    monkeypatch.setattr(
        loop,
        "_scores",
        lambda pruning, context: contexts.update({context.mask.kept: context}) or real(pruning, context),
    )
    levels = levels_of(IterativePruning(density=0.3, rounds=3, criterion=criterion))
    feed = training_feed(splits(), RECIPE, torch.device("cpu"), False)
    x, y = next(feed.epoch(0, 0))
    dense: dict[str, Tensor] = {}
    for level, context in enumerate(contexts.values()):
        model = network()
        with torch.no_grad():
            for name, keep in levels[level].ticket.mask.items():
                model.get_parameter(name).mul_(keep)
        torch.nn.functional.cross_entropy(model(x), y).backward()
        found = context.gradients()
        for name in levels[0].ticket.mask:
            torch.testing.assert_close(found[name], model.get_parameter(name).grad)
        assert found.keys() == levels[0].ticket.mask.keys()
        dense = dense or dict(found)
        assert all(torch.equal(dense[name], found[name]) for name in found) == (level == 0)
    assert len(contexts) == 3
