"""The pruning loop with its training stood in for: what each level starts from, keeps, records and finds again."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tombola as tb
from small_tickets import MASKED, mask_of, masked, network, same, splits
from tombola.errors import TombolaError
from tombola.levels import prune as module
from tombola.levels.context import context_of
from tombola.levels.prune import dry_run, plan_levels, prune_levels
from tombola.levels.search import Search, level_result
from tombola.mask import Mask
from tombola.nn.outputs import OutputsKeptWarning
from tombola.results.codec import recovered as found_in
from tombola.results.trial import LevelResult, TrialResult
from tombola.rng.seeds import generator
from tombola.select.barred import BarredWeightsWarning
from tombola.select.select import EmptyLayerWarning
from tombola.ticket.origin import Origin
from tombola.ticket.storage import bits_per_weight
from tombola.train.checkpoint import Snapshot
from tombola.train.fabric import make_fabric
from tombola.train.feeds import training_feed
from tombola.train.options import Options
from tombola.train.recipe import Recipe
from tombola.train.trial import TrainedTrial, TrainingSetup, Trial
from trial_results import trial_result

RECIPE = Recipe(length="12it", batch_size=8, lr=0.1)
OPTIONS = Options(progress=False, device="cpu")


def search_of(model: nn.Module | None = None, directory: Path | None = None, **more: Any) -> Search:
    given = network() if model is None else model
    setup = TrainingSetup(splits(), RECIPE, make_fabric("cpu", "32"), OPTIONS)
    fields = {"provenance": {"by": "hand"}, "architecture": given, "prefix": "replicate-0", **more}
    return Search(setup, Origin.stored(given), 3, directory=directory, **fields)


def pruning(**options: Any) -> Any:
    return tb.IterativePruning(**{"rate": 0.5, "levels": 2, **options}).pruning()


def moved(state: dict[str, Tensor], level: int) -> dict[str, Tensor]:
    """Trained weights of a level: other sizes, in another order."""
    draw = generator(level, "moved")
    return {name: value + torch.rand(value.shape, generator=draw) for name, value in state.items()}


class Training:
    """Stands in for the training of levels: notes what it is given, and moves the weights under the mask."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.levels: list[SimpleNamespace] = []
        monkeypatch.setattr(module, "train_trial", self)

    def __call__(self, setup: Any, model: nn.Module, **more: Any) -> TrainedTrial:
        level = len(self.levels)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        start, mask = more["start"], more["mask"]
        final = moved(start.model if start else state, level)
        if mask is not None:
            final = masked(final, mask)
        step = more["capture"]
        captured = Snapshot(step, moved(state, 100), {"o": 1}, (), ()) if step else None
        if more["stage"] is not None:
            more["stage"].directory.mkdir(parents=True, exist_ok=True)
        self.levels.append(SimpleNamespace(setup=setup, state=state, final=final, captured=captured, **more))
        trained: Any = SimpleNamespace(state=final, captured=captured)
        return TrainedTrial(self.result(level), (), trained)

    @staticmethod
    def result(level: int) -> TrialResult:
        return trial_result(test_accuracy=0.5 + level / 10, steps=12)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    return Training(monkeypatch)


def largest(final: dict[str, Tensor], mask: Mask, counts: dict[str, int]) -> Mask:
    """The largest of what the mask keeps."""
    kept = {}
    for name, count in counts.items():
        size = torch.where(mask[name], final[name].abs(), -1)
        kept[name] = size >= size.flatten().sort(descending=True).values[count - 1]
    return Mask(kept)


START = dict(network().state_dict())
FULL = Mask.full({name: START[name] for name in MASKED})
COUNTS = ({"0.weight": 15, "2.weight": 15}, {"0.weight": 8, "2.weight": 11})
"""At a rate of a half, of a quarter for the output layer: 30 and 20, 15 and 15, 7.5 and 11.25."""


# -- what a level starts from


@pytest.mark.parametrize("directory", [False, True])
@pytest.mark.parametrize(("rewind", "step"), [("init", 0), ("2it", 2), ("1ep", 3), ("lr", 0), ("lr:2it", 2)])
def test_every_level_starts_where_its_rewind_says(
    rewind: str, step: int, directory: bool, tmp_path: Path, training: Training
) -> None:
    search = search_of(directory=tmp_path if directory else None)
    found = prune_levels(search, pruning(rewind=rewind))
    dense, first, second = training.levels
    keeps_weights = rewind.startswith("lr")
    assert [level.seed for level in training.levels] == [3, 3, 3]
    assert [level.label for level in training.levels] == [
        "level 0  100.0%",
        "level 1   60.0%",
        "level 2   38.0%",
    ]
    assert [level.capture for level in training.levels] == [step or None, None, None]
    assert all(level.setup is search.setup for level in training.levels)
    assert (dense.mask, dense.start) == (None, None)
    assert same(dense.state, START)
    kept = largest(dense.final, FULL, COUNTS[0])
    assert first.mask == kept
    assert second.mask == largest(first.final, kept, COUNTS[1])
    for before, level in ((dense, first), (first, second)):
        held = before.final if before is dense else masked(before.final, before.mask)
        assert same(level.state, held if keeps_weights else START)
        if step == 0:
            assert level.start is None
        else:
            assert level.start.step == step
            assert same(level.start.model, held if keeps_weights else dense.captured.model)
            assert dict(level.start.optimizer) == {"o": 1}

    origins = [level.ticket.origin.state_dict(network()) for level in found]
    assert same(origins[0], START)
    expected = dense.final if keeps_weights else dense.captured.model if step else START
    for index in (1, 2):
        assert same(origins[index], expected)
    for index, (level, given) in enumerate(zip(found, training.levels, strict=True)):
        mask = given.mask if index else FULL
        assert level.level == index
        assert level.ticket.mask == mask
        assert same(level.ticket.build(model=network()).state_dict(), masked(given.final, mask))
        steps = step if index else 0
        assert level.ticket.provenance == {"by": "hand", "level": index, "rewound_steps": steps}
        path = f"replicate-0/level-{index:02d}"
        trial = Trial(Training.result(index), (), None)
        result = level_result(index, mask, trial, path, {}).replace(
            tied_kept=0, bits_per_weight=bits_per_weight(level.ticket)
        )
        assert level.result == result
        if directory:
            assert given.stage.directory == tmp_path / path
            assert found_in(LevelResult, given.stage) == result
            assert tb.Ticket.load(tmp_path / path / "network.ticket") == level.ticket
            assert (tmp_path / path / "rewind.pt").exists() == (index == 0 and step > 0)
        else:
            assert given.stage is None


def test_finished_levels_are_found_again_and_those_to_come_start_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(monkeypatch)
    search = search_of(directory=tmp_path)
    whole = prune_levels(search, pruning(rewind="2it"))
    last = training.levels.pop()
    (tmp_path / "replicate-0" / "level-02" / "result.json").unlink()
    resumed = prune_levels(search, pruning(rewind="2it"))
    assert len(training.levels) == 3
    assert [level.ticket for level in resumed] == [level.ticket for level in whole]
    assert [level.result for level in resumed] == [level.result for level in whole]
    level = training.levels[-1]
    assert level.mask == last.mask
    assert same(level.start.model, last.start.model)


def test_a_search_within_a_ticket_keeps_to_its_mask_from_the_start(training: Training) -> None:
    within = mask_of(network())
    found = prune_levels(search_of(mask=within), pruning(levels=1))
    assert training.levels[0].mask == within
    assert found[1].ticket.mask.counts() == {"0.weight": (10, 30), "2.weight": (8, 20)}  # 7.5 of 10 to even
    assert (found[1].ticket.mask & within) == found[1].ticket.mask


# -- what a criterion sees


def test_a_criterion_sees_the_start_the_trained_weights_and_the_mask(training: Training) -> None:
    seen: list[Any] = []

    def criterion(context: Any) -> dict[str, Tensor]:
        draw = torch.rand(3, generator=context.generator)
        seen.append((context.initial, context.final, context.mask, draw, context.gradient()))
        return {name: value.abs() for name, value in context.final.items()}

    prune_levels(search_of(), replace(pruning(), criterion=criterion))
    for level, (initial, final, mask, draw, gradient) in enumerate(seen):
        given = training.levels[level]
        own = given.mask or FULL
        assert mask == own
        assert same(initial, {name: START[name] for name in MASKED})
        assert same(final, {name: (given.final[name] * own[name]) for name in MASKED})
        assert torch.equal(draw, torch.rand(3, generator=generator(3, "criterion", level)))
        assert same(dict(gradient), gradient_by_hand(own))
    assert len(seen) == 2


def gradient_by_hand(mask: Mask) -> dict[str, Tensor]:
    """Of the first batch of the data order, at the start, under the mask."""
    model, data = network(), splits()
    model.load_state_dict(masked(START, mask))
    x, y = next(iter(training_feed(data, RECIPE, torch.device("cpu"), False).epoch(3, 0)))
    weights = [dict(model.named_parameters())[name] for name in MASKED]
    return dict(zip(MASKED, torch.autograd.grad(F.cross_entropy(model(x), y), weights), strict=True))


def test_frozen_weights_have_a_gradient_and_those_without_part_say_so() -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = network(), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Part()
    model.requires_grad_(False)
    search = search_of(model)
    before = torch.random.get_rng_state()
    found = context_of(search).gradients()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same({name: found[f"used.{name}"] for name in MASKED}, gradient_by_hand(FULL))
    with pytest.raises(TombolaError, match=r"no gradient of the loss reaches 'idle\.weight'"):
        found["idle.weight"]


@pytest.mark.parametrize(
    ("give", "says"),
    [
        (lambda context: None, "gave a NoneType; give a mapping"),
        (lambda context: {}, "gave None for '0.weight' of shape .5, 6.; give a mapping"),
        (lambda context: {"0.weight": torch.ones(6, 5)}, r"gave a tensor of shape \(6, 5\) for '0.weight'"),
        (lambda context: {"0.weight": torch.ones(5, 6), "2.weight": [1]}, r"gave \[1\] for '2.weight'"),
        (lambda context: context.nothing, "failed on its Context: .*nothing"),
    ],
)
def test_what_a_criterion_may_not_give_is_one_line(give: Any, says: str, training: Training) -> None:
    give.__qualname__ = "mine"
    with pytest.raises(TombolaError, match=f"criterion mine {says}"):
        prune_levels(search_of(), replace(pruning(), criterion=give))

    def own(context: Any) -> Any:
        raise TombolaError("as it is")

    with pytest.raises(TombolaError, match="as it is"):
        prune_levels(search_of(), replace(pruning(), criterion=own))


# -- what is kept


def test_a_level_without_a_path_is_refused_by_its_number(training: Training) -> None:
    def last_rows(context: Any) -> dict[str, Tensor]:
        return {name: torch.arange(value.numel()).view_as(value) for name, value in context.final.items()}

    few = replace(pruning(), plan=lambda *given: [{}, {"0.weight": 5, "2.weight": 5}, {"0.weight": 0, "2.weight": 1}])
    with (
        pytest.warns(EmptyLayerWarning, match=r"0\.weight"),
        pytest.raises(TombolaError, match=r"at level 2 \(density 0.02\) no path .*, 0\.weight being empty; ask"),
    ):
        prune_levels(search_of(), replace(few, criterion=last_rows))
    assert len(training.levels) == 2

    def apart(context: Any) -> dict[str, Tensor]:
        """Into the first hidden unit, and out of the last one."""
        first, second = (torch.zeros_like(value) for value in context.final.values())
        first[0], second[:, 4] = 1, 1
        return dict(zip(MASKED, (first, second), strict=True))

    cut = replace(pruning(), plan=lambda *given: [{}, {"0.weight": 6, "2.weight": 4}], criterion=apart)
    with pytest.raises(TombolaError, match=r"at level 1 \(density 0.2\) no path leads from input to output; ask"):
        prune_levels(search_of(), cut)


def test_barred_and_tied_weights_are_counted_in_the_level(training: Training) -> None:
    def barring(context: Any) -> dict[str, Tensor]:
        scores = {name: value.abs() + 1 for name, value in context.final.items()}
        scores["0.weight"][1:] = -torch.inf  # 6 are left
        return scores

    with pytest.warns(BarredWeightsWarning, match="at level 1") as caught:
        found = prune_levels(search_of(), replace(pruning(levels=1), criterion=barring))
    assert "barring" in str(caught[0].message)
    level = found[1]
    assert level.result.barred_kept == 9  # 15 are asked for
    assert level.result.layers[0].barred_kept == 9
    assert level.ticket.provenance["barred_kept"] == {"0.weight": 9}
    assert bool(level.ticket.mask["0.weight"][0].all())
    masks = []
    for seed in (3, 3, 4):
        training.levels.clear()
        with pytest.warns(BarredWeightsWarning):
            again = prune_levels(replace(search_of(), seed=seed), replace(pruning(levels=1), criterion=barring))
        masks.append(again[1].ticket.mask)
    assert masks[0] == masks[1] == level.ticket.mask  # drawn from the run's own seed
    assert masks[2] != level.ticket.mask

    def alike(context: Any) -> dict[str, Tensor]:
        return {name: torch.ones_like(value) for name, value in context.final.items()}

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tied = prune_levels(search_of(), replace(pruning(levels=1), criterion=alike))[1]
    assert tied.result.tied_kept == 30
    assert any("at level 1" in str(warning.message) for warning in said)


@pytest.mark.filterwarnings("ignore::tombola.nn.outputs.OutputsKeptWarning")
def test_output_channels_stay_whole_unless_they_are_asked_for(training: Training) -> None:
    asked = {"pattern": "channel", "levels": 1}
    with pytest.warns(OutputsKeptWarning, match="prune_outputs"):
        kept = prune_levels(search_of(), pruning(**asked))[1].ticket.mask
    assert bool(kept["2.weight"].all())
    assert kept.counts()["0.weight"] == (12, 30)  # 2 of 5 rows, half to even
    pruned = prune_levels(search_of(), pruning(prune_outputs=True, **asked))[1].ticket.mask
    assert pruned.counts()["2.weight"] == (15, 20)
    together = prune_levels(search_of(), pruning(scope="global", density=0.6, levels=None, pattern="channel"))
    assert bool(together[-1].ticket.mask["2.weight"].all())


def test_a_plan_runs_over_the_mask_or_all_that_is_prunable() -> None:
    given: list[Any] = []

    def plan(*parts: Any) -> list[Any]:
        given.append(parts)
        return [1, 2]

    model, within = network(), mask_of(network())
    asked = replace(pruning(), plan=plan)
    assert plan_levels(model, asked) == (FULL, [1, 2])
    assert plan_levels(model, asked, within) == (within, [1, 2])
    assert given == [(FULL, "2.weight", []), (within, "2.weight", [])]
    x = splits().train.x[:4]
    for inputs in (None, x):
        plan_levels(model, replace(asked, spare_outputs=True), None, inputs)
        assert given[-1] == (FULL, "2.weight", ["2.weight"])
    only = replace(asked, exclude=("2.weight",), spare_outputs=True)
    plan_levels(model, only)
    assert given[-1][1:] == ("2.weight", [])  # the output layer is not among them
    with pytest.raises(TombolaError, match=r"differ in '2\.weight'; set include and exclude alike"):
        plan_levels(model, only, within)
    with pytest.raises(TombolaError, match="no prunable weight"):
        plan_levels(model, replace(asked, exclude=("*",)))
    with pytest.raises(TombolaError, match=r"'0\.weight' is parametrised"):
        plan_levels(nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4))), asked)


# -- the dry run


def test_a_dry_run_trains_one_step_under_the_mask_and_selects_once(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Any] = []
    tickets: list[Any] = []

    def step(setup: Any, model: nn.Module, *, seed: int, hooks: object) -> dict[str, Tensor]:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(1.0)
        model(torch.ones(1, 6))  # what is held is masked again
        state = {name: value.clone() for name, value in model.state_dict().items()}
        steps.append((setup, seed, state))
        return state

    def check(search: Any, ticket: Any, model: nn.Module) -> None:
        tickets.append((search, ticket, model))

    def criterion(context: Any) -> dict[str, Tensor]:
        seen.append(context)
        return {name: value.abs() for name, value in context.final.items()}

    seen: list[Any] = []
    monkeypatch.setattr(module, "try_training", step)
    monkeypatch.setattr(module, "check_ticket", check)
    within = mask_of(network())
    for mask in (None, within):
        search = search_of(mask=mask)
        dry_run(search, replace(pruning(), criterion=criterion))
        setup, seed, state = steps[-1]
        assert (setup, seed) == (search.setup, 3)
        kept = mask or FULL
        assert all(torch.equal(state[name], kept[name].float()) for name in MASKED)
        given, ticket, _ = tickets[-1]
        assert given is search
        assert ticket.mask == kept
        assert ticket.provenance == {"by": "hand", "level": 0, "rewound_steps": 0}
        assert same(seen[-1].final, {name: kept[name].float() for name in MASKED})
        assert seen[-1].mask == kept
    assert len(seen) == 2
    dry_run(search_of(), replace(pruning(levels=0), criterion=criterion))
    assert len(seen) == 2  # nothing is to be selected

    def untraceable(*given: Any) -> Any:
        raise RuntimeError("no way through")

    monkeypatch.setattr(module, "is_cut", untraceable)
    with pytest.raises(TombolaError, match=r"the paths of the pruned network cannot be followed.*no way through"):
        dry_run(search_of(), pruning())


def test_a_dry_run_says_nothing_of_weights_that_hardly_moved(recwarn: pytest.WarningsRecorder) -> None:
    dry_run(search_of(), pruning(criterion="movement"))
    assert not recwarn.list


def test_what_is_pruned_never_comes_back_whatever_the_criterion(training: Training) -> None:
    def smallest(context: Any) -> dict[str, Tensor]:
        return {name: -value.abs() for name, value in context.final.items()}  # 0 is the best of all

    for within in (None, mask_of(network())):
        training.levels.clear()
        found = prune_levels(search_of(mask=within), replace(pruning(), criterion=smallest))
        masks = [level.ticket.mask for level in found]
        assert masks[1] & masks[2] == masks[2]
        assert masks[0] & masks[1] == masks[1]
        assert [mask.kept for mask in masks[1:]] == ([30, 19] if within is None else [18, 11])


def test_the_plan_runs_over_what_is_included_and_finds_the_last_layer_of_many() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4))
    given: list[Any] = []
    asked = replace(pruning(), plan=lambda *parts: given.append(parts) or [1], spare_outputs=True)
    plan_levels(model, replace(asked, include=("1.bias",)))
    assert set(given[0][0]) == {"0.weight", "1.weight", "1.bias", "2.weight"}
    assert given[0][1:] == ("2.weight", ["2.weight"])


def test_a_dry_run_keeps_a_criterions_warnings_for_when_they_count(recwarn: pytest.WarningsRecorder) -> None:
    def warning(context: Any) -> dict[str, Tensor]:
        warnings.warn("hardly moved", stacklevel=1)
        return {name: value.abs() for name, value in context.final.items()}

    dry_run(search_of(), replace(pruning(), criterion=warning))
    assert not recwarn.list


def test_a_network_without_parameters_is_refused_in_its_own_words() -> None:
    data = (torch.randn(8, 2), torch.arange(8) % 2)
    with pytest.raises(TombolaError, match="the Flatten has no parameters"):
        tb.find(nn.Flatten(), (data, data, data))
