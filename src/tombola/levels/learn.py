"""Learn a mask: attach, train, read off, ticket; every method of learned masks is a setting of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from statistics import fmean
from typing import Any

from torch import Tensor, nn

from tombola.data.probe import some_batch, some_inputs
from tombola.errors import TombolaError
from tombola.hold import hold
from tombola.levels.detector import WATCHED, Watching
from tombola.levels.frozen import HoldFrozen, drawn_parts, freeze
from tombola.levels.hooks import LogUtilisation, Refresh
from tombola.levels.search import Level, Search
from tombola.levels.stage import TrainedLevel, check_connected, run_level, ticket_of
from tombola.levels.validate import check_evaluations, check_ticket
from tombola.levels.watch import histories, watch_learned_mask
from tombola.mask import Mask
from tombola.nn.forward import typed
from tombola.nn.init import NORMS
from tombola.nn.outputs import OutputsKeptWarning, output_weights, say_kept
from tombola.nn.rewrite import apply_rewrites
from tombola.parameters import prunable
from tombola.runs.stage import Stage
from tombola.select.select import EmptyLayerWarning
from tombola.supermask.attach import Rest, attach
from tombola.supermask.layers import groups, layers, plain_state
from tombola.supermask.masks import finalize_masks, multipliers, read, refresh
from tombola.supermask.represent import Identity, Represent
from tombola.supermask.rules import MaskRule, TopK
from tombola.supermask.weights import FROZEN, WeightRule
from tombola.ticket.representation import Representation
from tombola.ticket.tensors import first_few
from tombola.ticket.ticket import Ticket
from tombola.train.connectivity import is_cut
from tombola.train.dry_run import in_words, try_training
from tombola.train.hooks import Hook
from tombola.train.length import Length
from tombola.train.optimizer import build_optimizer
from tombola.train.recipe import Recipe
from tombola.train.trial import Evaluate, MoreTests, Sampled, train_trial

_AT_LAST = ("under the learned mask", "a higher density, a layerwise scope, or less pressure on the mask")
_AT_BEST = (
    "under the masks of the lowest validation loss",
    "hand_on last, or for a training that gets below that loss: longer, or at another lr",
)
"""What is said of masks that cut the network."""


@dataclass(frozen=True)
class Learning:
    """The axes of the parametrisation, and how the scores are trained.

    `best`: the masks of the lowest validation loss are handed on, and not those of the end.

    `score_settings`: the optimiser's settings for the scores where they differ from the recipe's (lr,
    weight_decay, momentum). `hooks` makes the method's own hooks, which run before the masks are refreshed.
    `frozen`: fraction of every layer's mask that stays as it is drawn at random, under the rule `TopK`.
    `train`: name patterns of unmasked parameters that are trained whatever `rest` says.
    `samples`: masks drawn for the mean metrics of a stochastic rule, at least 1. `prune_outputs`: whether the channel
    pattern prunes output layers too. `rewrites`: what the network is rewritten with first, as tickets hold it.
    """

    rule: MaskRule
    weights: WeightRule = FROZEN
    represent: Represent = field(default_factory=Identity)
    scores: str | float | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    rest: Rest | None = None
    score_settings: Mapping[str, Any] = field(default_factory=dict)
    hooks: Callable[[Search], Sequence[Hook]] = lambda search: ()
    frozen: float = 0.0
    train: tuple[str, ...] = ()
    samples: int = 10
    prune_outputs: bool = False
    rewrites: tuple[Mapping[str, Any], ...] = ()
    best: bool = False


def learn_mask(
    search: Search,
    learning: Learning,
    *,
    level: int = 1,
    watching: Watching | None = WATCHED,
    rewound_steps: int = 0,
    label: str | None = None,
    begin: Callable[[nn.Module], None] | None = None,
    capture: bool = False,
) -> Level:
    """Train scores (and what else the settings say) from the search's origin; the level holds the ticket.

    `watching`: how the masks are watched that the training goes through, and whether it ends once they are stable.
    `rewound_steps`: the iteration of the dense training that the origin is from.
    `label`: of its progress. `begin` changes the attached network before it trains. `capture`: whether the level keeps
    the state at the end of the training, scores and all weights, for another one (see `kept_snapshot`).
    """

    def train(stage: Stage | None) -> TrainedLevel:
        model = attached(search, learning)
        if begin is not None:
            begin(model)
        frozen = _frozen(search, learning, model)
        log = LogUtilisation()
        density = learning.rule.density
        watch = None if watching is None or density == 1.0 else watch_learned_mask(watching, density)
        trial = train_trial(
            search.setup,
            model,
            seed=search.seed,
            label=label or f"mask  {read(model).density:6.1%}",
            hooks=(*learning.hooks(search), *frozen, Refresh(), log, *([watch] if watch else [])),
            optimizer=lambda module, recipe: score_optimizer(module, recipe, learning.score_settings),
            more_tests=_sampled(learning.samples) if learning.rule.stochastic and not learning.rule.soft else None,
            capture=search.setup.total_steps if capture else None,
            best=learning.best,
            stage=stage,
        )
        check_connected(search, read(model), *(_AT_BEST if learning.best else _AT_LAST))
        ticket = make_ticket(search, model, learning.rewrites, level, rewound_steps, frozen)
        return TrainedLevel(trial, ticket, utilisation=tuple(log.rows), mask_histories=histories(watch))

    return run_level(search, level, train)


def dry_run(search: Search, learning: Learning, then: Recipe | None = None, *, norms: bool = False) -> None:
    """One step of learning the mask and one ticket, on copies: what cannot work says so before anything is trained.

    `then`: the recipe of a second level, which trains the weights under the mask, or with `norms` the norms; None where
    there is none.
    """
    if learning.best:
        check_evaluations(search.setup)
    model = attached(search, learning)
    frozen = _frozen(search, learning, model)
    try_training(
        search.setup,
        model,
        seed=search.seed,
        hooks=(*learning.hooks(search), *frozen, Refresh()),
        optimizer=lambda module, recipe: score_optimizer(module, recipe, learning.score_settings),
    )
    with in_words("the paths of the masked network cannot be followed"):
        is_cut(search.network(), read(model), some_inputs(search.setup.splits))
    ticket = make_ticket(search, model, learning.rewrites, 1, frozen=frozen)
    built = check_ticket(search, ticket, model)
    if then is not None:
        try_second_level(search, built, None if norms else ticket.mask, then)


def try_second_level(search: Search, built: nn.Module, held: Mask | None, recipe: Recipe) -> None:
    """One step of a second level, of a network that is built from the first one's ticket; without a mask, of norms."""
    _freeze_but(built, held)
    with hold(built, held) if held is not None else nullcontext():
        try_training(replace(search.setup, recipe=recipe), built, seed=search.seed)


def second_recipe(search: Search, length: str, lr: float) -> Recipe | None:
    """The recipe of a second level; None where it has no length."""
    return None if Length.parse(length) == Length() else replace(search.setup.recipe, length=length, lr=lr)


def fine_tune(search: Search, before: Level, recipe: Recipe) -> Level:
    """Freeze the mask and train the weights from where they are: a learned mask as an initialisation."""
    represented = before.ticket.representation
    trained = represented if represented.kind == "identity" else replace(represented, on="origin")
    return _train_on(search, before, recipe, "weights", before.ticket.mask, trained)


def tune_norms(search: Search, before: Level, recipe: Recipe) -> Level:
    """Freeze mask and weights and train scale and bias of the norm layers (Diffenderfer & Kailkhura 2021, "tuned")."""
    return _train_on(search, before, recipe, "norms", None, before.ticket.representation)


def _train_on(
    search: Search, before: Level, recipe: Recipe, what: str, held: Mask | None, representation: Representation
) -> Level:
    """Another level, from the ticket of the one before; without a mask to hold, only norms are trained."""
    number = before.level + 1

    def train(stage: Stage | None) -> TrainedLevel:
        model = before.ticket.build("final", model=search.architecture, trusted=search.trusted)
        _freeze_but(model, held)
        setup = replace(search.setup, recipe=recipe)
        trial = train_trial(setup, model, seed=search.seed, label=what, mask=held, stage=stage)
        ticket = ticket_of(
            search,
            number,
            before.ticket.mask,
            trial.trained.state,
            representation=representation,
            rewrites=before.ticket.rewrites,
        )
        return TrainedLevel(trial, ticket)

    return run_level(search, number, train)


def _freeze_but(model: nn.Module, held: Mask | None) -> None:
    """Without a mask to hold, freeze all but the norms; what the user has frozen stays so in any case."""
    norms = {id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters()}
    for parameter in model.parameters():
        if held is None and id(parameter) not in norms:
            parameter.requires_grad_(False)


def attached(search: Search, learning: Learning) -> nn.Module:
    """The network at the origin, rewritten, with its supermasks."""
    model = apply_rewrites(search.network(), learning.rewrites, *_example(search, learning))
    outputs = None
    if isinstance(learning.rule, TopK) and learning.rule.pattern == "channel":
        weights = prunable(model, learning.include, learning.exclude)
        outputs = [] if learning.prune_outputs else output_weights(model, some_inputs(search.setup.splits), weights)
        say_kept(outputs, "prune_outputs")
    _attach(model, learning, search.seed, search.mask, outputs)
    return model


def _frozen(search: Search, learning: Learning, model: nn.Module) -> list[HoldFrozen]:
    """What keeps a part of the masks of an attached model frozen, if any is to be; from now on it is."""
    if not learning.frozen:
        return []
    assert isinstance(learning.rule, TopK)
    spared = {name for name in read(model) if any(fnmatchcase(name, whole) for whole in learning.rule.whole)}
    return [freeze(model, drawn_parts(model, search.seed, learning.frozen, learning.rule.density, spared))]


def _example(search: Search, learning: Learning) -> list[Tensor]:
    """Inputs on which activations that become binary are looked at; none where none do."""
    if not any(rewrite["kind"] == "binary-activations" for rewrite in learning.rewrites):
        return []
    ((x, _),) = typed([some_batch(search.setup.splits, 8)], search.network())
    return [x]


def check_norms(network: nn.Module) -> None:
    """TombolaError if no norm layer of the network has a scale or bias that can be trained."""
    norms = [module for module in network.modules() if isinstance(module, NORMS)]
    if not any(parameter.requires_grad for module in norms for parameter in module.parameters()):
        raise TombolaError(
            "norms are to be trained, but the network has "
            + ("norm layers without trainable scale and bias" if norms else "no norm layers")
            + "; leave them fixed, or choose a network with affine norms"
        )


def check_learning(network: nn.Module, learning: Learning, mask: Mask | None = None) -> None:
    """TombolaError if these settings cannot work on this network; the network is attached to."""
    network = apply_rewrites(network, learning.rewrites)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyLayerWarning)  # an error here
        warnings.simplefilter("ignore", OutputsKeptWarning)  # the search says which, from its inputs
        _attach(network, learning, 0, mask)
    mask_before = read(network)
    _check_whole(learning.rule, mask_before)
    empty = mask_before.empty_layers() if learning.rule.density is not None else []
    if empty:
        raise TombolaError(
            f"at density {learning.rule.density:g} nothing is kept of {', '.join(empty)}; ask for a higher density, "
            "or leave those layers out (exclude)"
        )


def _check_whole(rule: MaskRule, mask: Mask) -> None:
    """TombolaError if a name pattern of weights to be kept whole matches none of those that are masked."""
    for pattern in rule.whole if isinstance(rule, TopK) else ():
        if not any(fnmatchcase(name, pattern) for name in mask):
            raise TombolaError(
                f"whole pattern {pattern!r} matches no masked weight; there are: {first_few(list(mask))}"
            )


def _attach(
    model: nn.Module, learning: Learning, seed: int, mask: Mask | None, outputs: Sequence[str] | None = None
) -> None:
    attach(
        model,
        learning.rule,
        weights=learning.weights,
        represent=learning.represent,
        scores=learning.scores,
        seed=seed,
        include=learning.include,
        exclude=learning.exclude,
        rest=learning.rest,
        train=learning.train,
        mask=mask,
        outputs=() if learning.prune_outputs else outputs,
    )


def score_optimizer(model: nn.Module, recipe: Recipe, settings: Mapping[str, Any]) -> Any:
    """One optimiser with a group for the scores, under their own settings, and one for everything else."""
    scores, weights = groups(model)
    both = [{"params": scores, **settings}, {"params": weights}]
    return build_optimizer([group for group in both if group["params"]], recipe)


def make_ticket(
    search: Search,
    model: nn.Module,
    rewrites: Sequence[Mapping[str, Any]],
    level: int,
    rewound_steps: int = 0,
    frozen: Sequence[HoldFrozen] = (),
) -> Ticket:
    """The ticket of an attached model, whose masks are final."""
    scales: dict[str, Tensor] = {
        layer.name: layer.supermask.scale.detach().to("cpu", copy=True)
        for layer in layers(model)
        if layer.supermask.scale is not None
    }
    kind = next(layers(model)).supermask.represent.kind
    return ticket_of(
        search,
        level,
        read(model),
        {name: value.detach().to("cpu").contiguous() for name, value in plain_state(model).items()},
        rewound_steps=rewound_steps,
        representation=Representation(kind, scales) if scales else None,
        multiplier=multipliers(model),
        rewrites=rewrites,
        frozen={name: part for held in frozen for name, part in held.parts.items()},
    )


def _sampled(count: int) -> MoreTests:
    """The mean metric of every split over the same freshly drawn masks; the model ends under the p > 0.5 masks."""

    def tests(model: nn.Module, evaluate: Mapping[str, Evaluate]) -> Sampled:
        metrics: dict[str, list[float]] = {split: [] for split in evaluate}
        for _ in range(count):
            refresh(model)
            for split, score in evaluate.items():
                metrics[split].append(score().metric)
        finalize_masks(model)
        return Sampled(**{split: fmean(values) for split, values in metrics.items()}, samples=count)

    return tests
