"""Learning a mask with its training stood in for: what is attached, trained, held, drawn, recorded and found again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from small_tickets import MASKED, mask_of, masked, network, same, splits
from tombola.errors import TombolaError
from tombola.levels import learn as module
from tombola.levels.hooks import LogUtilisation, Refresh
from tombola.levels.learn import (
    Learning,
    attached,
    check_learning,
    check_norms,
    dry_run,
    fine_tune,
    learn_mask,
    score_optimizer,
    second_recipe,
    tune_norms,
)
from tombola.levels.search import Level, Search, level_result
from tombola.levels.stability import WatchMasks
from tombola.methods.learned_mask import LearnedMask
from tombola.nn.outputs import OutputsKeptWarning
from tombola.results.codec import recovered
from tombola.results.trial import LevelResult, Utilisation
from tombola.supermask import Bernoulli, Binary, Masked, Threshold, TopK, attach, plain_state, read
from tombola.supermask.layers import layers
from tombola.ticket.origin import Origin
from tombola.ticket.storage import bits_per_weight
from tombola.train.evaluate import Score
from tombola.train.fabric import make_fabric
from tombola.train.hooks import Hook
from tombola.train.options import Options
from tombola.train.recipe import Recipe
from tombola.train.trial import Sampled, TrainedTrial, TrainingSetup, Trial
from trial_results import trial_result

RECIPE = Recipe(length="12it", batch_size=8, lr=0.1, optimizer="sgd", momentum=0.9, weight_decay=0.01)
OPTIONS = Options(progress=False, device="cpu")
START = dict(network().state_dict())
RESULT = trial_result(test_accuracy=0.5, steps=12)


def search_of(model: nn.Module | None = None, directory: Path | None = None, **more: Any) -> Search:
    given = network() if model is None else model
    setup = TrainingSetup(splits(), RECIPE, make_fabric("cpu", "32"), OPTIONS)
    fields = {"provenance": {"by": "hand"}, "architecture": given, "prefix": "replicate-0", **more}
    return Search(setup, Origin.stored(given), 3, directory=directory, **fields)


class Training:
    """Stands in for the training: notes what it is given, and adds 1 to all weights that are trained."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trials: list[SimpleNamespace] = []
        monkeypatch.setattr(module, "train_trial", self)

    def __call__(self, setup: Any, model: nn.Module, **more: Any) -> TrainedTrial:
        learns = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in learns and not name.endswith("scores"):
                    parameter += 1
        for hook in more.get("hooks", ()):
            if isinstance(hook, LogUtilisation):
                hook.rows.append(Utilisation(step=12, densities={}))
        if more["stage"] is not None:
            more["stage"].directory.mkdir(parents=True, exist_ok=True)
        held = more.get("mask")
        final = dict(model.state_dict())
        final = masked(final, held) if held is not None else final
        self.trials.append(SimpleNamespace(setup=setup, model=model, learns=learns, before=before, final=final, **more))
        trained: Any = SimpleNamespace(state=final, captured=None)
        return TrainedTrial(RESULT, (), trained)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    return Training(monkeypatch)


class Own(Hook):
    """A hook of the method's own."""


# -- the level that learns


@pytest.mark.parametrize("directory", [False, True])
def test_a_mask_is_learned_from_the_origin_and_its_ticket_kept(
    directory: bool, tmp_path: Path, training: Training
) -> None:
    search, own = search_of(directory=tmp_path if directory else None), Own()
    asked: list[Any] = []
    learning = Learning(TopK(0.5), hooks=lambda given: asked.append(given) or [own])
    level = learn_mask(search, learning)
    (trial,) = training.trials
    assert asked == [search]
    assert (trial.setup, trial.seed, trial.label) == (search.setup, 3, "mask   50.0%")
    assert trial.hooks[0] is own
    # masks are new after the method's own, and read when they are
    assert [type(hook) for hook in trial.hooks[1:]] == [Refresh, LogUtilisation, WatchMasks]
    assert trial.more_tests is None
    expected = network()
    attach(expected, TopK(0.5), seed=3)
    assert same(trial.before, dict(expected.state_dict()))
    assert {name.rsplit(".", 1)[1] for name in trial.learns} == {"scores"}
    assert level.level == 1
    assert level.ticket.mask == read(expected)
    assert level.ticket.provenance == {"by": "hand", "level": 1, "rewound_steps": 0}
    assert same(level.ticket.build(model=network()).state_dict(), masked(START, level.ticket.mask))
    result = level_result(1, level.ticket.mask, Trial(RESULT, (), None), "replicate-0/level-01").replace(
        utilisation=(Utilisation(step=12, densities={}),), bits_per_weight=bits_per_weight(level.ticket)
    )
    assert level.result == result
    if not directory:
        assert trial.stage is None
        return
    assert trial.stage.directory == tmp_path / "replicate-0" / "level-01"
    assert recovered(LevelResult, trial.stage) == result
    again = learn_mask(search, learning)
    assert len(training.trials) == 1
    assert (again.level, again.ticket, again.result) == (1, level.ticket, result)


def test_a_later_level_says_which_it_is(training: Training) -> None:
    level = learn_mask(search_of(), Learning(TopK(0.5)), level=4)
    assert (level.level, level.ticket.provenance["level"], level.result.level) == (4, 4, 4)
    assert level.result.metrics == "replicate-0/level-04/metrics.csv"


def test_what_is_learned_is_set_by_every_axis(training: Training) -> None:
    within = mask_of(network())
    learning = Learning(
        TopK(0.3),
        weights=Masked(),
        represent=Binary(),
        scores=0.5,
        exclude=("2.*",),
        rest="frozen",
        rewrites=({"kind": "binary-activations"},),
    )
    model = attached(search_of(), learning)
    (layer,) = layers(model)
    assert (layer.name, layer.supermask.rule, layer.supermask.weights) == ("0.weight", TopK(0.3), Masked())
    assert layer.supermask.represent == Binary()
    assert type(model[1]).__name__ == "BinaryActivation"  # type: ignore[index]
    assert not model[2].weight.requires_grad  # type: ignore[index]
    assert bool((layer.supermask.scores == 0.5).all())
    biased = attached(search_of(), Learning(TopK(0.3), include=("0.bias",)))
    assert {layer.name for layer in layers(biased)} == {"0.bias", *MASKED}
    kept = read(attached(search_of(mask=within), Learning(TopK(0.6))))
    assert kept.counts() == {"0.weight": (18, 30), "2.weight": (12, 20)}
    first, second = (kept[name] & within[name] for name in MASKED)
    assert (int(first.sum()), int(second.sum())) == (18, 10)  # what the start keeps comes first
    other = read(attached(replace(search_of(), seed=4), Learning(TopK(0.5))))
    assert other != read(attached(search_of(), Learning(TopK(0.5))))


def test_output_channels_stay_whole_unless_they_are_asked_for() -> None:
    rule = TopK(0.4, pattern="channel")
    with pytest.warns(OutputsKeptWarning, match="prune_outputs"):
        kept = read(attached(search_of(), Learning(rule)))
    assert kept.counts() == {"0.weight": (12, 30), "2.weight": (20, 20)}
    pruned = read(attached(search_of(), Learning(rule, prune_outputs=True)))
    assert pruned.counts() == {"0.weight": (12, 30), "2.weight": (10, 20)}


def test_a_mask_without_a_path_is_refused(training: Training) -> None:
    with (
        pytest.warns(UserWarning, match=r"0\.weight"),
        pytest.raises(TombolaError, match=r"density 0.4.* no path .*, 0\.weight being empty; ask"),
    ):
        learn_mask(search_of(), Learning(TopK(0.01, whole=("2.weight",))))


def test_scores_have_settings_of_their_own() -> None:
    model = network()
    scores, weights = attach(model, TopK(0.5), weights=Masked())
    optimizer = score_optimizer(model, RECIPE, {"lr": 0.7, "weight_decay": 0.0})
    first, second = optimizer.param_groups
    assert {id(p) for p in first["params"]} == {id(p) for p in scores}
    assert {id(p) for p in second["params"]} == {id(p) for p in weights}
    assert (first["lr"], first["weight_decay"], first["momentum"]) == (0.7, 0.0, 0.9)
    assert (second["lr"], second["weight_decay"], second["momentum"]) == (0.1, 0.01, 0.9)
    frozen = network()
    attach(frozen, TopK(0.5))
    assert len(score_optimizer(frozen, RECIPE, {}).param_groups) == 1
    assert score_optimizer(frozen, RECIPE, {"lr": 0.2}).param_groups[0]["lr"] == 0.2


def test_the_optimiser_of_the_scores_is_what_trains(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(module, "score_optimizer", lambda *parts: given.append(parts) or "optimizer")
    learn_mask(search_of(), Learning(TopK(0.5), score_settings={"lr": 0.7}))
    model = network()
    assert training.trials[0].optimizer(model, RECIPE) == "optimizer"
    assert given == [(model, RECIPE, {"lr": 0.7})]


# -- stochastic masks


def test_sampled_figures_are_means_over_the_same_fresh_masks(training: Training) -> None:
    learn_mask(search_of(), Learning(Bernoulli(), scores=0.3, samples=3))
    (trial,) = training.trials
    model, masks = trial.model, {"val": [], "test": []}
    likeliest = {layer.name: layer.supermask.scores > 0 for layer in layers(model)}

    def scorer(split: str, offset: float) -> Any:
        def score() -> Score:
            masks[split].append(read(model))
            return Score(0.0, offset + len(masks[split]), 10)

        return score

    found = trial.more_tests(model, {"val": scorer("val", 0.0), "test": scorer("test", 10.0)})
    assert found == Sampled(val=2.0, test=12.0, samples=3)
    assert masks["val"] == masks["test"]
    assert len({str({n: m.tolist() for n, m in mask.items()}) for mask in masks["val"]}) == 3
    assert {name: kept.tolist() for name, kept in read(model).items()} == {
        name: kept.tolist() for name, kept in likeliest.items()
    }


# -- the level that trains


def learned(training: Training, represent: Any = None, directory: Path | None = None) -> tuple[Search, Level]:
    search = search_of(directory=directory)
    learning = Learning(TopK(0.5)) if represent is None else Learning(TopK(0.5), represent=represent)
    level = learn_mask(search, learning)
    training.trials.clear()
    return search, level


@pytest.mark.parametrize("directory", [False, True])
def test_weights_are_trained_under_the_learned_mask(directory: bool, tmp_path: Path, training: Training) -> None:
    search, before = learned(training, directory=tmp_path if directory else None)
    other = replace(RECIPE, lr=0.5)
    level = fine_tune(search, before, other)
    (trial,) = training.trials
    assert (trial.setup, trial.seed, trial.label) == (replace(search.setup, recipe=other), 3, "weights")
    assert trial.mask == before.ticket.mask == level.ticket.mask
    assert same(trial.before, masked(START, before.ticket.mask))
    assert trial.learns == set(START)
    assert level.level == 2
    assert level.ticket.provenance == {"by": "hand", "level": 2, "rewound_steps": 0}
    assert same(level.ticket.origin.state_dict(network()), START)
    assert same(level.ticket.build(model=network()).state_dict(), trial.final)
    path = "replicate-0/level-02"
    assert level.result == level_result(2, level.ticket.mask, Trial(RESULT, (), None), path).replace(
        bits_per_weight=bits_per_weight(level.ticket)
    )
    if directory:
        assert trial.stage.directory == tmp_path / path
        again = fine_tune(search, before, other)
        assert len(training.trials) == 1
        assert (again.level, again.ticket, again.result) == (2, level.ticket, level.result)


def test_represented_weights_are_trained_from_what_they_stand_for(training: Training) -> None:
    search, before = learned(training, Binary())
    assert before.ticket.representation.kind == "binary"
    level = fine_tune(search, before, RECIPE)
    given, found = before.ticket.representation, level.ticket.representation
    assert given.on != "origin"
    assert (found.kind, found.on) == ("binary", "origin")
    assert same(found.scales, given.scales)
    assert same(training.trials[0].before, before.ticket.build(model=network()).state_dict())
    assert same(level.ticket.build(model=network()).state_dict(), training.trials[0].final)


def normed() -> nn.Module:
    model = nn.Sequential(*network(), nn.BatchNorm1d(4))
    model[0].bias.requires_grad_(False)
    return model


def test_norms_alone_are_tuned_where_no_mask_is_held(training: Training) -> None:
    search = search_of(normed())
    before = learn_mask(search, Learning(TopK(0.5), represent=Binary()))
    level = tune_norms(search, before, RECIPE)
    trial = training.trials[-1]
    assert (trial.mask, trial.label) == (None, "norms")
    assert trial.learns == {"3.weight", "3.bias"}
    assert level.ticket.representation.on == before.ticket.representation.on
    assert same(level.ticket.representation.scales, before.ticket.representation.scales)
    assert same(level.ticket.build(model=normed()).state_dict(), trial.final)
    tuned = fine_tune(search, before, RECIPE)
    assert tuned.ticket.mask == before.ticket.mask
    check_norms(normed())
    with pytest.raises(TombolaError, match="no norm layers"):
        check_norms(network())
    frozen = normed()
    frozen.requires_grad_(False)
    with pytest.raises(TombolaError, match="norm layers without trainable scale and bias"):
        check_norms(frozen)


def test_a_second_level_has_its_length_and_rate_or_is_none(training: Training) -> None:
    search = search_of()
    assert second_recipe(search, "5it", 0.3) == replace(RECIPE, length="5it", lr=0.3)
    assert second_recipe(search, "0it", 0.3) is None
    assert [level.level for level in LearnedMask(rule="threshold").find(search)] == [1]
    first, second = LearnedMask(rule="threshold", finetune="5it", finetune_lr=0.3).find(search)
    assert (first.level, second.level) == (1, 2)
    assert training.trials[-1].setup.recipe == replace(RECIPE, length="5it", lr=0.3)
    assert second.ticket.mask == first.ticket.mask


# -- tickets, checks, the dry run


def test_a_ticket_holds_scales_multipliers_and_rewrites(training: Training) -> None:
    rewrites = ({"kind": "binary-activations"},)
    level = learn_mask(search_of(), Learning(TopK(0.5), represent=Binary(), rewrites=rewrites))
    ticket = level.ticket
    assert ticket.rewrites == rewrites
    for name in MASKED:
        expected = START[name][ticket.mask[name]].abs().mean()
        torch.testing.assert_close(ticket.representation.scales[name].flatten()[0], expected)
    plain = learn_mask(search_of(), Learning(TopK(0.5))).ticket
    assert plain.representation.kind == "identity"
    assert plain.multiplier is None
    signed = learn_mask(search_of(), Learning(tb.supermask.Signed(), scores="kaiming_normal")).ticket
    assert signed.multiplier is not None
    assert {int(value) for values in signed.multiplier.values() for value in values.unique()} <= {-1, 0, 1}


def test_settings_that_cannot_work_are_refused_on_a_copy() -> None:
    check_learning(network(), Learning(TopK(0.5)))
    with pytest.raises(TombolaError, match=r"at density 0.01 nothing is kept of 0\.weight, 2\.weight; ask"):
        check_learning(network(), Learning(TopK(0.01)))
    check_learning(network(), Learning(Threshold(), scores=-1.0))  # its density is an outcome
    with pytest.raises(TombolaError, match=r"whole pattern '9\.\*' matches no masked weight; there are: .*0\.weight"):
        check_learning(network(), Learning(TopK(0.5, whole=("2.*", "9.*"))))
    with pytest.raises(TombolaError, match="start mask"):
        check_learning(network(), Learning(TopK(0.5), exclude=("2.*",)), mask_of(network()))
    with pytest.raises(TombolaError, match="does not know the rewrite 'nothing'"):
        check_learning(network(), Learning(TopK(0.5), rewrites=({"kind": "nothing"},)))


def test_channels_are_checked_without_a_word(recwarn: pytest.WarningsRecorder) -> None:
    check_learning(network(), Learning(TopK(0.4, pattern="channel")))
    with pytest.raises(TombolaError, match="nothing is kept"):
        check_learning(network(), Learning(TopK(0.01)))
    assert not recwarn.list


def test_a_dry_run_tries_both_levels_and_the_ticket(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, checked = list[SimpleNamespace](), list[Any]()

    def step(setup: Any, model: nn.Module, **more: Any) -> dict[str, Tensor]:
        learns = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        held = None
        if not any(True for _ in layers(model)):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_(1.0)
            model.eval()(torch.ones(1, 6))
            held = {name: value.clone() for name, value in model.state_dict().items()}
        steps.append(SimpleNamespace(setup=setup, learns=learns, held=held, **more))
        return {}

    def check(search: Any, ticket: Any, model: nn.Module) -> nn.Module:
        checked.append((search, ticket))
        return ticket.build(model=search.architecture)

    monkeypatch.setattr(module, "try_training", step)
    monkeypatch.setattr(module, "check_ticket", check)
    own, search = Own(), search_of(normed())
    learning = Learning(TopK(0.5), hooks=lambda given: [own], score_settings={"lr": 0.7})
    dry_run(search, learning)
    (first,) = steps
    assert (first.setup, first.seed) == (search.setup, 3)
    assert [type(hook) for hook in first.hooks] == [Own, Refresh]
    model = network()
    attach(model, TopK(0.5))
    assert first.optimizer(model, RECIPE).param_groups[0]["lr"] == 0.7
    assert checked[0][0] is search
    ticket = checked[0][1]
    assert ticket.provenance == {"by": "hand", "level": 1, "rewound_steps": 0}
    assert same(plain_state(attached(search, learning)), ticket.origin.state_dict(normed()))

    then = replace(RECIPE, lr=0.5)
    dry_run(search, learning, then)
    second = steps[-1]
    assert (second.setup, second.seed) == (replace(search.setup, recipe=then), 3)
    assert "0.weight" in second.learns
    assert all(torch.equal(second.held[name], ticket.mask[name].float()) for name in MASKED)
    dry_run(search, learning, then, norms=True)
    assert steps[-1].learns == {"3.weight", "3.bias"}
    assert bool((steps[-1].held["0.weight"] == 1).all())  # nothing is held

    def untraceable(*given: Any) -> Any:
        raise RuntimeError("no way through")

    monkeypatch.setattr(module, "is_cut", untraceable)
    with pytest.raises(TombolaError, match=r"the paths of the masked network cannot be followed.*no way through"):
        dry_run(search, learning)
