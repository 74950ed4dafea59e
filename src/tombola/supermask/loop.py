"""Learn a mask: attach, train, read off, ticket; every method of learned masks is a setting of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.supermask.attach import attach, groups, layers, multipliers, plain_state, read, refresh
from tombola.supermask.hooks import LogUtilisation, Refresh
from tombola.supermask.represent import Identity, Represent
from tombola.supermask.rules import MaskRule
from tombola.supermask.weights import FROZEN, WeightRule
from tombola.ticket.representation import Representation
from tombola.ticket.ticket import Ticket
from tombola.train.hooks import Hook
from tombola.train.optimizer import build_optimizer
from tombola.train.recipe import Recipe
from tombola.train.search import Level, Search, level_result
from tombola.train.trial import Evaluate, run_trial


@dataclass(frozen=True)
class Learning:
    """The axes of the parametrisation, and how the scores are trained.

    `score_settings`: the optimiser's settings for the scores where they differ from the recipe's (lr,
    weight_decay, momentum). `hooks` makes the method's own hooks, which run before the masks are refreshed.
    `samples`: masks drawn for the mean test metric of a stochastic rule.
    """

    rule: MaskRule
    weights: WeightRule = FROZEN
    represent: Represent = field(default_factory=Identity)
    scores: str | float | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    train_rest: bool | None = None
    score_settings: Mapping[str, Any] = field(default_factory=dict)
    hooks: Callable[[Search], Sequence[Hook]] = lambda search: ()
    samples: int = 10


def learn_mask(search: Search, learning: Learning, *, level: int = 1) -> Level:
    """Train scores (and what else the settings say) from the search's origin; the level holds the ticket."""
    name = f"level-{level:02d}"
    stage = search.stage(name)
    file = stage.directory / "network.ticket" if stage else None
    model = attached(search, learning)
    log = LogUtilisation()
    trial = run_trial(
        search.bench,
        model,
        seed=search.seed,
        label=f"mask  {read(model).density:6.1%}",
        hooks=(*learning.hooks(search), Refresh(), log),
        optimizer=lambda module, recipe: score_optimizer(module, recipe, learning.score_settings),
        settle=_settle,
        more_tests=_sampled(learning.samples) if learning.rule.stochastic else None,
        stage=stage,
    )
    if trial.trained is None:
        assert file is not None
        return Level(level, Ticket.load(file), trial.result)
    ticket = make_ticket(search, model, {**search.provenance, "level": level, "rewound_steps": 0})
    if file is not None:
        ticket.save(file)
    trial = replace(trial, result={**trial.result, "utilisation": log.rows})
    result = level_result(level, ticket.mask, trial, search.path(name))
    if stage is not None:
        stage.finish(result)
    return Level(level, ticket, result)


def fine_tune(search: Search, before: Level, recipe: Recipe, *, level: int = 2) -> Level:
    """Freeze the mask and train the weights from where they are: a learned mask as an initialisation."""
    name = f"level-{level:02d}"
    stage = search.stage(name)
    file = stage.directory / "network.ticket" if stage else None
    model = before.ticket.build("final", model=search.architecture, trusted=search.trusted)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    mask = before.ticket.mask
    trial = run_trial(
        replace(search.bench, recipe=recipe), model, seed=search.seed, label="weights", mask=mask, stage=stage
    )
    if trial.trained is None:
        assert file is not None
        return Level(level, Ticket.load(file), trial.result)
    represented = before.ticket.representation
    ticket = Ticket.from_models(
        origin=search.origin,
        mask=mask,
        final_state=trial.trained.state,
        representation=represented if represented.kind == "identity" else replace(represented, on="origin"),
        multiplier=before.ticket.multiplier,
        provenance={**search.provenance, "level": level, "rewound_steps": 0},
        model=search.architecture,
        trusted=search.trusted,
    )
    if file is not None:
        ticket.save(file)
    result = level_result(level, mask, trial, search.path(name))
    if stage is not None:
        stage.finish(result)
    return Level(level, ticket, result)


def attached(search: Search, learning: Learning) -> nn.Module:
    """The network at the origin with its supermasks."""
    model = search.network()
    _attach(model, learning, search.seed, search.mask)
    return model


def check_learning(network: nn.Module, learning: Learning, mask: Mask | None = None) -> None:
    """TombolaError if these settings cannot work on this network; the network is attached to."""
    _attach(network, learning, 0, mask)
    empty = read(network).empty_layers() if learning.rule.density is not None else []
    if empty:
        raise TombolaError(
            f"at density {learning.rule.density:g} nothing is kept of {', '.join(empty)}; ask for a higher density, "
            "or leave those layers out with --exclude"
        )


def _attach(model: nn.Module, learning: Learning, seed: int, mask: Mask | None) -> None:
    attach(
        model,
        learning.rule,
        weights=learning.weights,
        represent=learning.represent,
        scores=learning.scores,
        seed=seed,
        include=learning.include,
        exclude=learning.exclude,
        train_rest=learning.train_rest,
        mask=mask,
    )


def score_optimizer(model: nn.Module, recipe: Recipe, settings: Mapping[str, Any]) -> Any:
    """One optimiser with a group for the scores, under their own settings, and one for everything else."""
    scores, weights = groups(model)
    both = [{"params": scores, **settings}, {"params": weights}]
    return build_optimizer([group for group in both if group["params"]], recipe)


def make_ticket(search: Search, model: nn.Module, provenance: Mapping[str, Any]) -> Ticket:
    """The ticket of an attached model, whose masks have settled."""
    scales: dict[str, Tensor] = {
        layer.name: layer.supermask.scale.detach().to("cpu", copy=True)
        for layer in layers(model)
        if layer.supermask.scale is not None
    }
    kind = next(layers(model)).supermask.represent.kind
    return Ticket.from_models(
        origin=search.origin,
        mask=read(model),
        final_state={name: value.detach().to("cpu").contiguous() for name, value in plain_state(model).items()},
        representation=Representation(kind, scales) if scales else None,
        multiplier=multipliers(model),
        provenance=provenance,
        model=search.architecture,
        trusted=search.trusted,
    )


def _settle(model: nn.Module) -> None:
    """Stochastic masks become p > 0.5; the others stand as they are."""
    refresh(model, sample=False)


def _sampled(count: int) -> Callable[[nn.Module, Evaluate], Mapping[str, Any]]:
    """The mean test metric over freshly drawn masks; the model ends settled."""

    def tests(model: nn.Module, evaluate: Evaluate) -> Mapping[str, Any]:
        found = []
        for _ in range(count):
            refresh(model)
            found.append(evaluate().metric)
        _settle(model)
        return {"test_accuracy_sampled": fmean(found), "samples": count} if found else {}

    return tests
