"""What a search starts from: a network by name on seeded weights, or a user's own model as it is."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from tombola.data.splits import Splits
from tombola.errors import TicketError, TombolaError
from tombola.hold import masking, release
from tombola.methods.base import Method
from tombola.methods.dense import DenseTraining
from tombola.models.foreign import filled_args
from tombola.models.registry import check_name, default_init, is_known, load_checkpoint_
from tombola.models.spec import ModelSpec
from tombola.parameters import parameters_by_name, unwrap
from tombola.rng.seeds import derive
from tombola.search.request import Request
from tombola.ticket import checks
from tombola.ticket.origin import NetworkSpec, Origin
from tombola.ticket.ticket import Ticket
from tombola.train.fit import check_fits


@dataclass(frozen=True)
class Start:
    """An origin, the architecture where it cannot be built by name, and the import paths the caller has named."""

    origin: Origin
    architecture: nn.Module | None = None
    trusted: tuple[str, ...] = ()

    def network(self) -> nn.Module:
        """A fresh module at the origin."""
        return self.origin.network_module(self.architecture, self.trusted)


class Starts:
    """What a search starts from, kept until another is asked for: check, search and record share one drawn network."""

    def __init__(self) -> None:
        self._last: tuple[Request, int, Start] | None = None

    def of(self, request: Request, splits: Splits, seed: int) -> Start:
        """The start of this very request under that seed."""
        if self._last is None or self._last[0] is not request or self._last[1] != seed:
            start = start_from(request.model, splits, seed=seed, method=request.method, ticket=request.start)
            self._last = request, seed, start
        return self._last[2]


def start_from(
    model: nn.Module | ModelSpec,
    splits: Splits,
    *,
    seed: int,
    method: Method | None = None,
    ticket: Ticket | None = None,
) -> Start:
    """The start of one search.

    A live model is copied and its present weights are the origin. A network of Tombola's own is drawn from the
    seed by its initialisation scheme; so is a foreign one if a scheme is asked for, else its own constructor
    draws it and the weights are stored. A checkpoint's weights are stored. Where no scheme is asked for, that of
    the method holds, if it has one.
    From a `ticket` the search goes on: its trained network is the origin, its seeded weights if it has no other. A
    method that starts fresh has an origin of its own instead, never drawn as a search without a ticket draws it.

    Raises:
        TombolaError: the network cannot be built, or does not take this data, or is not the ticket's.
    """
    method = method or DenseTraining()
    fresh = ticket is not None and method.starts_fresh
    if isinstance(model, ModelSpec) and model.init is None:
        model = replace(model, init=method.init())
    if isinstance(model, ModelSpec) and is_known(model.name):
        model = _formed(model, method, ticket)
    if isinstance(model, nn.Module):
        own = unwrap(model)
        start = Start(Origin.stored(own), _copied(own).to("cpu"))
    else:
        start = _by_name(model, splits, derive(seed, "fresh") if fresh else seed, method.init_args())
    if ticket is not None:
        _check_activations_stay(ticket, method)
        if fresh:
            _network_of(ticket, start)
        else:
            start = replace(start, origin=_handed_on(ticket, start))
    check_fits(start.network(), splits)
    return start


def _formed(spec: ModelSpec, method: Method, ticket: Ticket | None) -> ModelSpec:
    """A network of Tombola's own in the form of the ticket that the search goes on from, else in the method's."""
    if ticket is None or ticket.origin.network is None or ticket.origin.network.name != spec.name:
        return method.network(spec)
    args = {**ticket.origin.network.args, **spec.args}
    if method.activations == "binary" and args.get("activation") != "binary":
        raise TombolaError(
            f"the ticket to start from is of {spec.name} with float activations, whose binary form is another network; "
            "start from a ticket found with binary activations, or leave activations at float"
        )
    return replace(spec, args=args)


def _check_activations_stay(ticket: Ticket, method: Method) -> None:
    """TombolaError if a user's own network would lose the binary activations that the ticket's rewrites gave it."""
    binary = any(rewrite.get("kind") == "binary-activations" for rewrite in ticket.rewrites)
    if binary and method.activations != "binary":
        raise TombolaError(
            "the ticket to start from has binary activations instead of the network's ReLUs, which this search would "
            "restore; use a method whose activations are binary (joint, multi-prize, binary-weights)"
        )


def _copied(model: nn.Module) -> nn.Module:
    try:
        copied = copy.deepcopy(model)
        release(copied)
        _warn_of_parameter_hooks(model)
        return copied
    except (RuntimeError, TypeError) as error:
        raise TombolaError(
            f"the model cannot be copied ({str(error).splitlines()[0]}); make what was attached to it plain first, "
            "e.g. with torch.nn.utils.prune.remove"
        ) from None


def _warn_of_parameter_hooks(model: nn.Module) -> None:
    """Warn of hooks on parameters: `copy.deepcopy` of a parameter leaves them out, those on modules are copied."""
    hooked = [name for name, weight in model.named_parameters() if _hooks_of_users(weight)]
    if hooked:
        more = f" and {len(hooked) - 3} more" if len(hooked) > 3 else ""
        warnings.warn(
            f"hooks on parameters are not copied with the model, so training goes without those of "
            f"{', '.join(hooked[:3])}{more}; hooks on modules are kept",
            stacklevel=2,
        )


def _hooks_of_users(weight: nn.Parameter) -> list[Any]:
    """The hooks on a parameter that are not those by which a mask is held, which the copy is to be without."""
    kinds = ("_backward_hooks", "_post_accumulate_grad_hooks")
    found = [hook for kind in kinds for hook in (getattr(weight, kind, None) or {}).values()]
    return [hook for hook in found if getattr(hook, "__module__", None) != masking.__name__]


def _handed_on(ticket: Ticket, start: Start) -> Origin:
    """The origin of a search that goes on from a ticket."""
    trained = ticket.trained or ticket.state or ticket.multiplier or ticket.representation.kind != "identity"
    plain = ticket.prunes_to_zero and ticket.begin is None and ticket.origin.base is None
    if not trained and plain:
        try:
            checks.check_against(ticket, start.origin.state_dict(start.architecture, start.trusted))
        except TicketError as error:
            raise TombolaError(f"the ticket to start from is of another network: {error}") from None
        return ticket.origin
    module = _network_of(ticket, start)
    return Origin.stored(_with_pruned(ticket, module, start), network=start.origin.network)


def _network_of(ticket: Ticket, start: Start) -> nn.Module:
    """The ticket's trained network; TombolaError if that is not the start's."""
    try:
        return ticket.build("final", model=start.network())
    except TicketError as error:
        raise TombolaError(f"the ticket to start from is of another network: {error}") from None


def _with_pruned(ticket: Ticket, module: nn.Module, start: Start) -> nn.Module:
    """The ticket's network with the weights that it pruned back at their start: a learned mask may want them again.

    At 0 no score of theirs would ever get a gradient. A search that prunes holds them at 0 anyway.
    """
    on_base = ticket.origin.base is not None
    base = ticket.origin.state_dict(start.network() if on_base else start.architecture, start.trusted)
    weights = parameters_by_name(module)
    with torch.no_grad():
        for name, keep in ticket.mask.items():
            before = ticket.representation.apply(name, base[name])
            weights[name].copy_(torch.where(keep, weights[name], before))
    return module


def _by_name(spec: ModelSpec, splits: Splits, seed: int, init_args: Mapping[str, Any]) -> Start:
    shape, classes = splits.input_shape, splits.outputs
    own = is_known(spec.name)
    check_name(spec.name)
    if own and classes is None:
        raise TombolaError(
            f"it is not known how many outputs {spec.name} should have: the targets are neither class numbers nor "
            "floats of shape (N,) or (N, outputs): use make_splits(..., classes=...), or give a network of your own"
        )
    # One float per example is no number of classes: a constructor's own default says more.
    certain = splits.classes is not None or classes != 1
    args = dict(spec.args)
    if not own:
        args = filled_args(spec.name, input_shape=shape, classes=classes, args=spec.args, certain=certain)
        classes = classes if certain else None
    network = NetworkSpec(spec.name, args, shape, classes)
    trusted = () if own else (spec.name,)
    init = default_init(spec.name) if spec.init is None else spec.init
    if spec.checkpoint is None and init is not None:
        model = None if own else _built(network, seed)
        return Start(
            Origin.seeded(network, init, derive(seed, "init"), model=model, init_args=init_args), None, trusted
        )
    module = _built(network, seed)
    if spec.checkpoint is not None:
        load_checkpoint_(module, spec.checkpoint, spec.checkpoint_without)
    return Start(Origin.stored(module, network=network), None, trusted)


def _built(network: NetworkSpec, seed: int) -> nn.Module:
    # a constructor draws its weights from torch's global generator
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "constructor"))
        return network.build(trusted=(network.name,))
