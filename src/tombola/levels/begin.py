"""How a level of a pruning search begins: its weights after the kept and the pruned action, and its recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError, in_short
from tombola.levels.actions import KeptAction, Layer, PrunedAction, rewind, zero
from tombola.levels.search import Search
from tombola.levels.stage import final_state
from tombola.mask import Mask
from tombola.parameters import parameters_by_name
from tombola.rng.seeds import generator
from tombola.ticket.ticket import Ticket
from tombola.train.checkpoint import Snapshot, State
from tombola.train.recipe import Recipe
from tombola.train.snapshots import copy_state
from tombola.train.trial import TrainingSetup

Values = Mapping[str, Tensor]
"""Of every masked weight, in full: what kept weights begin with, and what pruned ones are held at."""


def are_plain(kept: KeptAction, pruned: PrunedAction) -> bool:
    """Whether kept weights begin at the rewind point and pruned ones are 0, so that nothing has to be worked out."""
    return kept is rewind and pruned.value is zero and not pruned.trains


def first_values(
    search: Search, kept: KeptAction, pruned: PrunedAction, *, level: int, mask: Mask, at: State, drawn_from: Ticket
) -> Values:
    """What the masked weights of a level begin with.

    Args:
        level: its number, from which draws derive.
        mask: what it keeps, nested in what `drawn_from` keeps.
        at: the network's state at the rewind point.
        drawn_from: the ticket of whose trained weights the mask was made; what that pruned keeps its value.

    Raises:
        TombolaError: an action fails, or gives no finite tensor of the weight's shape.
    """
    trained = final_state(search, drawn_from)
    values = {}
    for name, keep in mask.items():
        before = drawn_from.mask[name].to("cpu")
        w, keep = at[name].detach().to("cpu"), keep.to("cpu")
        parts = w, trained[name].detach(), keep, before & ~keep

        def layer(what: str, name: str = name, parts: tuple[Tensor, Tensor, Tensor, Tensor] = parts) -> Layer:
            return _own(parts, generator(search.seed, what, level, name))

        draws = layer("kept-action")
        begin = _asked("kept action", kept, name, w, draws)
        begin = _asked("pruned action", pruned.begin, name, w, _own(parts, draws.generator), begin)
        held = _asked("pruned action", pruned.value, name, w, layer("pruned-action"))
        earlier = torch.zeros_like(w) if pruned.trains else trained[name].detach()
        values[name] = torch.where(keep, begin, torch.where(before, held, earlier))
    return values


def _own(parts: tuple[Tensor, Tensor, Tensor, Tensor], draws: torch.Generator) -> Layer:
    """A layer of copies, which an action may change."""
    w, w_f, kept, pruned = (part.clone() for part in parts)
    return Layer(w, w_f, kept, pruned, draws)


def _asked(what: str, action: Callable[..., Tensor], name: str, w: Tensor, *given: object) -> Tensor:
    """What an action gives for a layer, in w's dtype, or a TombolaError."""
    whose = f"{what} {getattr(action, '__qualname__', repr(action)[:80])}"
    try:
        values = action(*given)
    except TombolaError:
        raise
    except Exception as error:  # a user's own function may raise anything
        raise TombolaError(f"{whose} failed on the Layer of {name!r}: {in_short(error)}") from error
    if not isinstance(values, Tensor) or values.shape != w.shape:
        found = f"a tensor of shape {tuple(values.shape)}" if isinstance(values, Tensor) else repr(values)[:60]
        raise TombolaError(f"{whose} gave {found} for {name!r}; give values in the weight's shape {tuple(w.shape)}")
    if values.is_meta or values.layout != torch.strided or values.is_complex() or values.is_quantized:
        kind = str(
            values.device if values.is_meta else values.dtype if values.layout == torch.strided else values.layout
        )
        raise TombolaError(f"{whose} gave {kind} values for {name!r}; give a dense tensor of real numbers")
    values = values.detach().to("cpu", w.dtype)
    if not bool(values.isfinite().all()):
        raise TombolaError(f"{whose} gave NaN or infinite values for {name!r}; give finite ones")
    return values


def begun_at(model: nn.Module, start: Snapshot | None, values: Values) -> Snapshot | None:
    """Write first values into the network (in place), and into the snapshot that its training begins at."""
    if start is not None:
        model.load_state_dict(start.model)
    parameters = parameters_by_name(model)
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)
    return None if start is None else replace(start, model=copy_state(model))


# ---- recipes of levels -------------------------------------------------------------------------------------

_HYPERPARAMETERS = ("lr", "momentum", "nesterov", "weight_decay")


def retraining(setup: TrainingSetup, retrain: Mapping[str, Any]) -> TrainingSetup:
    """The setup of the levels after the dense one; TombolaError for a recipe that cannot be."""
    if not retrain:
        return setup
    try:
        return replace(setup, recipe=replace(setup.recipe, **retrain))
    except TombolaError as error:
        raise TombolaError(f"retrain: {error}") from None


def check_retraining(setup: TrainingSetup, retrain: Mapping[str, Any], rewound: int) -> None:
    """TombolaError if levels cannot go on from the dense network's iteration `rewound` by the changed recipe."""
    then = retraining(setup, retrain)
    if rewound >= then.total_steps:
        raise TombolaError(
            f"rewind is to iteration {rewound}, but retrain makes the training of later levels {then.total_steps} "
            "long; rewind to an earlier one"
        )
    for name in ("optimizer", "batch_size"):
        ours, theirs = getattr(setup.recipe, name), getattr(then.recipe, name)
        if rewound and ours != theirs:
            raise TombolaError(
                f"retrain changes {name} from {ours!r} to {theirs!r}, but levels go on from iteration {rewound} of the "
                "dense network's training; rewind to init"
            )


def with_hyperparameters(start: Snapshot | None, recipe: Recipe, retrain: Mapping[str, Any]) -> Snapshot | None:
    """The snapshot whose optimiser has the changed learning rate and the like, with its state as it was."""
    changed = {name: getattr(recipe, name) for name in _HYPERPARAMETERS if name in retrain}
    if start is None or not changed:
        return start
    if "lr" in changed:
        changed["initial_lr"] = changed["lr"]
    groups = [
        {**group, **{name: value for name, value in changed.items() if name in group}}
        for group in start.optimizer["param_groups"]
    ]
    return replace(start, optimizer={**start.optimizer, "param_groups": groups})
