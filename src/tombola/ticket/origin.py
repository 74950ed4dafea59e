"""Where a ticket's weights come from: a seeded recipe that regenerates them, stored tensors, or a named base."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tombola.errors import TicketError, TombolaError
from tombola.fields import described
from tombola.hold import release
from tombola.machine.defaults import plainly
from tombola.names import imported_if_trusted
from tombola.parameters import unwrap
from tombola.ticket import base as bases
from tombola.ticket.base import Base
from tombola.ticket.format import plain_json
from tombola.ticket.tensors import (
    check_name,
    first_few,
    hash_state,
    is_dense,
    own_all,
    show,
    tensors_of,
    ties,
    write_into,
)


@dataclass(frozen=True)
class NetworkSpec:
    """A network by name: one of Tombola's own, or an import path that a caller may choose to trust.

    `args` JSON-able keyword arguments; `input_shape` of one example, without the batch: (C, H, W) or
    (features,); `classes` number of outputs.
    """

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    input_shape: tuple[int, ...] | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isprintable() or not 0 < len(self.name) <= 300:
            raise TicketError(f"network name {show(self.name)} is not 1 to 300 printable characters")
        args = plain_json(self.args, "network args")
        if not isinstance(args, dict):
            raise TicketError(f"network args are {type(args).__name__}; give a mapping of keyword arguments")
        object.__setattr__(self, "args", args)
        if self.input_shape is not None:
            object.__setattr__(self, "input_shape", tuple(self.input_shape))
        for value in (*(self.input_shape or ()), *(() if self.classes is None else (self.classes,))):
            if type(value) is not int or not 0 < value < 2**31:
                raise TicketError(f"network {show(self.name)}: size {show(value)} is not a positive integer")

    def size(self) -> int | None:
        """How many numbers its parameters and buffers hold, without allocating them; None where that is unknown.

        That is so for networks that are not Tombola's own, and those that cannot be built.
        """
        from tombola.models.registry import is_known

        if not is_known(self.name):
            return None
        try:
            module = self.build(device="meta")
        except TicketError:
            return None
        return sum(int(tensor.numel()) for tensor in module.state_dict().values())

    def build(self, trusted: Sequence[str] = (), device: str = "cpu") -> nn.Module:
        """A fresh module with its constructor's values, float32 on `device` unless it chooses others itself.

        Only Tombola's own networks are built freely; any other is imported only if its import path, and the
        module that defines it, lie under one of `trusted` (e.g. "torchvision.models."). With input_shape and
        classes it gets num_classes and the like as `build_network` gives them, else `args` alone.
        Raises TicketError.
        """
        try:
            # A constructor's draws must not move the caller's generator.
            with torch.random.fork_rng(devices=[]):
                built = self._construct(trusted, device)
        except TicketError:
            raise
        except TombolaError as error:
            raise TicketError(str(error)) from error
        except Exception as error:  # a constructor may raise anything; the user sees one line
            reason = show(error) if str(error) else "no reason given"
            raise TicketError(f"network {show(self.name)}: {type(error).__name__} {reason}") from error
        if not isinstance(built, nn.Module):
            raise TicketError(f"{show(self.name)} gives a {type(built).__name__}, not a torch.nn.Module")
        return built

    def _construct(self, trusted: Sequence[str], device: str) -> Any:
        from tombola.models.registry import build_network, is_known

        known = is_known(self.name)
        instead = "pass model=, or trusted=(its import prefix,)"
        target = None if known else imported_if_trusted("network", self.name, trusted, instead)
        if self.input_shape is None or self.classes is None:
            if target is not None:
                with plainly(device):
                    return target(**self.args)
            raise TicketError(f"network {show(self.name)} needs input_shape and classes; the ticket has none")
        shape, classes = self.input_shape, self.classes
        return build_network(self.name, input_shape=shape, classes=classes, args=self.args, device=device)


Kind = Literal["seeded", "stored", "omitted", "base"]


@dataclass(frozen=True, eq=False)
class Origin:
    """The dense weights that a ticket starts from. Make one with `Origin.seeded` or `Origin.stored`.

    `network`: how to build the module; None for a user's own model, which is then passed as `model=`.
    `init`, `seed`: scheme of `tombola.nn.init` and its seed; for stored tensors they only inform.
    `init_args`: further JSON-able arguments of `initialise_`, e.g. {"norm_scale": "uniform"}.
    `tensors`: None for a seeded origin; otherwise every parameter and buffer by state_dict name.
    `tied`: alias -> owner for names that share one tensor. `weights_hash`: of the seeded
    weights, see `hash_state`. `omitted`: the weights are neither stored nor seeded (`Ticket.without_origin`);
    `weights_hash` is what they were, `tied` holds ties of what the ticket's state stores.
    `base`: name -> first digits of the hash of each tensor that a base gives, which the ticket does not hold
    (`Ticket.on_base`); `weights_hash` is that of all of them, `tensors` holds masked weights that the base lacks.
    """

    network: NetworkSpec | None = None
    init: str | None = None
    seed: int | None = None
    tensors: Mapping[str, Tensor] | None = None
    tied: Mapping[str, str] = field(default_factory=dict)
    weights_hash: str | None = None
    init_args: Mapping[str, Any] = field(default_factory=dict)
    omitted: bool = False
    base: Mapping[str, str] | None = None
    _drawn: Origin | None = field(default=None, init=False)
    """The weights of a seeded origin that were drawn here, as stored ones: what follows in this process copies them."""

    def __repr__(self) -> str:
        what = {
            "seeded": f"init {self.init}, seed {self.seed}",
            "stored": f"{len(self.tensors or {})} tensors",
            "omitted": "weights left out",
            "base": f"{len(self.base or {})} tensors of the base {str(self.weights_hash)[:12]}",
        }[self.kind]
        return f"Origin({self.kind}, {what}{f', network {self.network.name}' if self.network else ''})"

    def __post_init__(self) -> None:
        if self.seed is not None and (type(self.seed) is not int or not 0 <= self.seed < 2**64):
            raise TicketError(f"origin seed {show(self.seed)} is not an integer from 0 to 2^64-1")
        if self.init is not None and (not isinstance(self.init, str) or not self.init.isprintable()):
            raise TicketError(f"origin init {show(self.init)} is not the name of a scheme")
        init_args = plain_json(self.init_args, "init_args")
        if not isinstance(init_args, dict):
            raise TicketError(f"origin init_args are {show(init_args)}; give a mapping of keyword arguments")
        object.__setattr__(self, "init_args", init_args)
        object.__setattr__(self, "tied", dict(self.tied))
        if self.base is not None:
            self._check_named(self.base)
            return
        if self.tensors is not None:
            tensors = own_all(self.tensors)
            object.__setattr__(self, "tensors", tensors)
            wrong = [a for a, owner in self.tied.items() if a in tensors or owner not in tensors]
            if self.weights_hash is not None or not tensors or wrong or self.omitted:
                raise TicketError(
                    f"stored origin with {len(tensors)} tensors, wrong ties {wrong[:3]}; "
                    "give at least one tensor, ties to stored tensors, and no weights_hash"
                )
            return
        text = self.weights_hash
        seeded = self.init is not None and self.seed is not None and not self.tied
        if not isinstance(text, str) or not (seeded or self.omitted):
            raise TicketError("origin without tensors needs init, seed and weights_hash: use Origin.seeded(...)")
        _check_hex(text, 64, "weights_hash")

    def _check_named(self, named: Mapping[str, str]) -> None:
        """TicketError unless the base is named soundly; its names and what is held become the origin's own."""
        tensors = own_all(self.tensors)
        object.__setattr__(self, "tensors", tensors or None)
        object.__setattr__(self, "base", {check_name(name): start for name, start in named.items()})
        for start in named.values():
            _check_hex(start, bases.SHORT, "hash of a base's tensor")
        _check_hex(self.weights_hash, 64, "weights_hash")
        twice = sorted(tensors.keys() & named.keys())
        if not named or twice or self.omitted:
            raise TicketError(
                f"the origin names {len(named)} tensors of a base, and holds {len(twice)} of them; name at least one, "
                "and hold what the base lacks"
            )

    @classmethod
    def seeded(
        cls,
        network: NetworkSpec | None,
        init: str,
        seed: int,
        model: nn.Module | None = None,
        init_args: Mapping[str, Any] | None = None,
    ) -> Origin:
        """An origin that regenerates. TicketError if the scheme leaves a parameter unwritten: then store."""
        module, args = _instantiate(network, model, ()), dict(init_args or {})
        _initialise(module, init, seed, args)
        weights_hash = hash_state(tensors_of(module))
        origin = cls(network=network, init=init, seed=seed, weights_hash=weights_hash, init_args=args)
        object.__setattr__(origin, "_drawn", cls.stored(module))
        return origin

    @classmethod
    def stored(
        cls,
        state: nn.Module | Mapping[str, Tensor],
        network: NetworkSpec | None = None,
        init: str | None = None,
        seed: int | None = None,
    ) -> Origin:
        """The present values of a model, or of a full state dict (a rewind point), copied."""
        values = tensors_of(state) if isinstance(state, nn.Module) else dict(state)
        if isinstance(state, nn.Module) and not values:
            raise TicketError(
                f"the {type(state).__name__} has no parameters, so nothing to train; give one with weights"
            )
        tied = ties({name: value for name, value in values.items() if isinstance(value, Tensor) and is_dense(value)})
        tensors = {name: value for name, value in values.items() if name not in tied}
        return cls(network=network, init=init, seed=seed, tensors=tensors, tied=tied)

    @property
    def kind(self) -> Kind:
        """ "seeded" if the weights regenerate, "stored" if the ticket holds them, "omitted" if it was left out.

        "base" if it names a base that has them.
        """
        if self.base is not None:
            return "base"
        if self.omitted:
            return "omitted"
        return "seeded" if self.tensors is None else "stored"

    def bare_module(self, model: nn.Module | None = None, trusted: Sequence[str] = ()) -> nn.Module:
        """A fresh module (a deep copy of `model` if given) with whatever values its constructor, or `model`, gives."""
        return _instantiate(self.network, model, trusted).train()

    def state_dict(self, model: nn.Module | None = None, trusted: Sequence[str] = ()) -> dict[str, Tensor]:
        """The full dense state at the origin, on CPU; tied names share one tensor. Safe to change."""
        stored = self._drawn or self
        if stored.tensors is None or stored.base is not None:
            return {n: t.to("cpu") for n, t in tensors_of(self.network_module(model, trusted)).items()}
        values = {name: tensor.clone() for name, tensor in stored.tensors.items()}
        return values | {alias: values[owner] for alias, owner in stored.tied.items()}

    def views(self) -> dict[str, Tensor]:
        """The stored tensors under all their names, not copied: for reading only. Empty when nothing is stored."""
        tensors = dict(self.tensors or {})
        return tensors | {alias: tensors[owner] for alias, owner in self.tied.items() if owner in tensors}

    def network_module(self, model: nn.Module | None = None, trusted: Sequence[str] = ()) -> nn.Module:
        """A fresh module (a deep copy of `model` if given) that holds the origin's values, in train mode.

        Raises TicketError if the network cannot be built here, does not fit, its seeded weights differ from those the
        ticket was made with, or the origin was left out. Of a base `model` must have the values.
        """
        if self.base is not None:
            module = self.module_on(None, model, trusted)
            held = self.views()
            if left := [show(name) for name in tensors_of(module) if name not in {**self.base, **held, **self.tied}]:
                raise TicketError(
                    f"{first_few(left)} are not the base's, and what they were before training was left out: the "
                    "ticket can be built, deployed and exported, but not trained again; use the whole ticket"
                )
            return module
        self.check_held()
        module = _instantiate(self.network, model, trusted)
        if (stored := self._drawn or self).tensors is not None:
            write_into(module, stored.views())
        else:
            assert self.init is not None
            assert self.seed is not None
            _initialise(module, self.init, self.seed, self.init_args)
            weights_hash = hash_state(tensors_of(module))
            if weights_hash != self.weights_hash:
                raise TicketError(
                    f"the regenerated weights differ from the ticket's (hash {weights_hash[:12]}, recorded "
                    f"{str(self.weights_hash)[:12]}); use the network and version that made the ticket"
                )
        return module.train()

    def check_held(self) -> None:
        """TicketError if the origin was left out."""
        if self.omitted:
            raise TicketError(
                "the ticket was saved without its origin: it can be built, deployed and exported, but not verified or "
                "trained again; use the whole ticket, or make it with its origin, whose hash is "
                f"{str(self.weights_hash)[:12]}"
            )

    def module_on(
        self,
        base: Base | None,
        model: nn.Module | None = None,
        trusted: Sequence[str] = (),
        held: Mapping[str, Tensor] | None = None,
    ) -> nn.Module:
        """A fresh module with the values of the base that is named, in train mode.

        Args:
            base: what has these values; None: `model` has.
            model: the network where it is another than the base; by default one of Tombola's own by its name, else a
                copy of the base.
            held: what else the ticket holds: layers of the sizes of it, as `refit_` makes them.

        Raises:
            TicketError: no base is named, it is another one, or the network cannot be built here or does not fit.
        """
        if self.base is None:
            raise TicketError(f"the ticket's origin is {self.kind}: it names no base; leave base out")
        module = self._bare_on(base, model, trusted)
        bases.refit_(module, {**(held or {}), **self.views()})
        own = tensors_of(module)
        values = own if base is None else bases.completed(bases.state_of(base), self.tied)
        bases.check_base(self.base, str(self.weights_hash), values)
        given = {} if base is None else {name: values[name] for name in self.base}
        write_into(module, {**given, **self.views()}, subset=True)
        return module.train()

    def _bare_on(self, base: Base | None, model: nn.Module | None, trusted: Sequence[str]) -> nn.Module:
        from tombola.models.registry import is_known

        if base is None and model is None:
            raise TicketError(
                f"the ticket is of a base that it does not hold (hash {str(self.weights_hash)[:12]}): give that "
                "network, its state_dict or its file as base"
            )
        by_name = self.network is not None and is_known(self.network.name)
        if model is None and isinstance(base, nn.Module) and not by_name:
            model = base
        return _instantiate(self.network, model, trusted)


def _check_hex(text: object, digits: int, what: str) -> None:
    if not isinstance(text, str) or len(text) != digits or set(text) - set("0123456789abcdef"):
        raise TicketError(f"origin {what} {show(text)} is not {digits} hex digits")


def _instantiate(network: NetworkSpec | None, model: nn.Module | None, trusted: Sequence[str]) -> nn.Module:
    if model is None:
        if network is None:
            raise TicketError(
                "the ticket is of a user's own model: pass a model of that architecture as model= (on the command "
                "line its import path)"
            )
        return network.build(trusted)
    if not isinstance(model, nn.Module):
        raise TicketError(f"model= is {described(model)}; give a torch.nn.Module")
    try:
        module = copy.deepcopy(unwrap(model))
    except Exception as error:  # deepcopy of a user's model may raise anything
        raise TicketError(f"the model cannot be copied: {type(error).__name__} {show(error)}") from error
    release(module)
    module.zero_grad(set_to_none=True)
    return module


def _initialise(module: nn.Module, init: str, seed: int, args: Mapping[str, Any]) -> None:
    from tombola.nn.init import initialise_

    tensors_of(module)  # refuse lazy and meta modules before anything is drawn
    for part in module.modules():
        reset = getattr(part, "reset_running_stats", None)
        if callable(reset):  # a copied model may come with used statistics
            reset()
    try:
        missed = list(initialise_(module, init, seed, **args))
    except (TombolaError, TypeError, ValueError, AttributeError) as error:  # arguments may come from a file
        raise TicketError(f"init {show(init)} with {show(args)}: {str(error)[:200]}") from error
    if missed:
        listed = first_few([show(name) for name in missed])
        raise TicketError(f"init {show(init)} does not write {listed}; use Origin.stored(model) for this network")
