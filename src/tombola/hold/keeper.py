"""How a mask is held: hooks that look weights up by name and write the pruned values.

Every module that has a held weight, or contains one that does, has a hook that runs before its forward pass. It
always writes, since a write of others through `.data` cannot be detected. Of nested modules the outermost that is
called writes for all.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from tombola.errors import TombolaError
from tombola.hold.masking import Alive, Masking, PreparedWeight, Pruned, set_pruned
from tombola.machine.compiling import compiling
from tombola.parameters import module_at, unwrap

Path = tuple[str, ...]
_FSDP = "_is_fsdp_managed_module"  # whose weights are views, of the whole parameter in the forward pass alone


class HeldWeight:
    """A held weight: its name, the path of its module from the root, and the attribute.

    `tied`: whether several modules have it. `last`: the parameter seen last. `ready`: the same by type, since a sharded
    parameter alternates with the whole one.
    """

    def __init__(self, name: str, path: Path, local: str, pruned: Pruned, tied: bool) -> None:
        self.name, self.path, self.local, self.pruned, self.tied = name, path, local, pruned, tied
        self.ready: dict[type, PreparedWeight] = {}
        self.last: PreparedWeight | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "ready": {}, "last": None}

    def prepare(self, parameter: Tensor) -> PreparedWeight:
        """Prepare a parameter at first use, or after it has moved or been replaced."""
        if parameter.shape != self.pruned.keep.shape:
            raise TombolaError(
                f"{self.name!r} is held under a mask of shape {tuple(self.pruned.keep.shape)} and has shape "
                f"{tuple(parameter.shape)} now; release the hold before the network is changed"
            )
        old = self.ready.get(type(parameter))
        if old is not None:
            old.drop()  # also where it is the same parameter: hooks are lost when tensors are swapped
        ready = self.ready[type(parameter)] = PreparedWeight(parameter, self.pruned, old)
        return ready


class _Running(threading.local):
    """The outermost module that runs in a thread."""

    outer: Path | None = None


class _Traced:
    """The same for a compiler, which follows one thread."""

    outer: Path | None = None


class Keeper:
    """What is held on one model; shared by the hooks on its modules, and copied and pickled with them."""

    def __init__(self, weights: list[HeldWeight], changing: bool = False) -> None:
        self.weights, self.alive, self.changing = weights, Alive(), changing
        self._running, self._traced = _Running(), _Traced()
        self._base: tuple[weakref.ref[nn.Module], Path] | None = None  # where to write after an optimiser's step
        self._below: dict[Path, list[tuple[Path, HeldWeight]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        kept = {"weights": self.weights, "alive": self.alive, "changing": self.changing}
        return {**kept, "next_id": RemovableHandle.next_id}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["weights"], state["changing"])  # type: ignore[misc]
        self.alive = state["alive"]
        # hooks from a file keep their numbers: no hook of this process may get one of them
        RemovableHandle.next_id = max(RemovableHandle.next_id, state["next_id"])

    def adopt(self, module: nn.Module, path: Path) -> None:
        """Write to this module after the steps of optimisers."""
        self._base = weakref.ref(module), path
        _KEEPERS.add(self)

    def end(self) -> None:
        """Nothing more to do for this model, unless it is called again."""
        self._base = None
        _KEEPERS.discard(self)
        for weight in self.weights:
            for ready in weight.ready.values():
                ready.drop()

    def below(self, path: Path) -> list[tuple[Path, HeldWeight]]:
        """(path from there, weight) of every weight held in the module at `path`."""
        if path not in self._below:
            n = len(path)
            self._below[path] = [(weight.path[n:], weight) for weight in self.weights if weight.path[:n] == path]
        return self._below[path]

    def install(self, model: nn.Module) -> None:
        """Put the hooks on a model's modules."""
        for weight in self.weights:
            self._install(model, (), weight.path, weight.name)

    def _install(self, module: nn.Module, path: Path, below: Path, name: str) -> None:
        """Hooks on the module at `path` and on those along the path below, where there are none yet."""
        for depth in range(len(below) + 1):
            at, part = path + below[:depth], owner_of(module, below[:depth], name)
            if any(isinstance(hook, _Enter) and hook.keeper is self for hook in part._forward_pre_hooks.values()):
                continue
            contains = any(rest for rest, _ in self.below(at))
            part.register_forward_pre_hook(_Enter(self, at, contains))
            if contains:
                part.register_forward_hook(_Leave(self, at), always_call=True)

    # -- at work

    @property
    def outer(self) -> Path | None:
        """The outermost module that is running in this thread: another thread's call writes nothing for this one."""
        return self._traced.outer if compiling() else self._running.outer

    @outer.setter
    def outer(self, path: Path | None) -> None:
        if compiling():
            self._traced.outer = path
        else:
            self._running.outer = path

    def enter(self, module: nn.Module, path: Path) -> None:
        """Before a forward pass that is not part of another."""
        if compiling():
            self._trace(module, path)
            return
        base = self._base
        known = None if base is None else base[0]()
        if base is None or known is None or len(path) < len(base[1]) or (path == base[1] and module is not known):
            self.adopt(module, path)  # a copy, or a model from a file
        tracing = torch._C._get_tracing_state()
        if tracing is None:
            self.write(module, path)
        else:  # torch.jit.trace would record the writing in its graph
            torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
            try:
                self.write(module, path)
            finally:
                torch._C._set_tracing_state(tracing)  # type: ignore[attr-defined]

    def after_step(self, optimizer: Optimizer) -> None:
        """After a step of any optimiser."""
        base = self._base
        module = None if base is None else base[0]()
        if base is None or module is None or not self.alive.yes:
            return
        held = {id(_raw(_holder(module, below, weight), weight.local)) for below, weight in self.below(base[1])}
        if any(id(p) in held for group in optimizer.param_groups for p in group["params"]):
            self.outer = None
            self.write(module, base[1])

    def write(self, module: nn.Module, path: Path) -> None:
        """Write the pruned values of all that is held in the module at `path`."""
        ready, seen = [], set()
        for below, weight in self.below(path):
            owner: nn.Module | None = module
            for part in below:
                owner = None if owner is None else owner._modules.get(part)
            parameter = None if owner is None else owner._parameters.get(weight.local)
            one = weight.last
            if one is None or not one.stands(parameter):
                one = self._look(module, path, below, weight)
                if one is None:
                    continue
            if weight.tied:
                if id(one.parameter) in seen:
                    continue
                seen.add(id(one.parameter))
            if not one.watched:
                one.watch(self.alive)
            ready.append(one)
        set_pruned(ready)

    def _look(self, module: nn.Module, path: Path, below: Path, weight: HeldWeight) -> PreparedWeight | None:
        """A weight that is not where it was last: new, moved, replaced or computed."""
        parameter = _present(_holder(module, below, weight), weight, self.alive)
        if parameter is None:
            return None
        known = weight.ready.get(type(parameter))
        if known is None or not known.stands(parameter):
            known = weight.prepare(parameter)
            self._install(module, path, below, weight.name)
        weight.last = known
        return known

    def _trace(self, module: nn.Module, path: Path) -> None:
        """As `write`, in operations for a compiler; an export takes the weights as they are."""
        if torch.compiler.is_exporting():
            return
        for below, weight in self.below(path):
            parameter = _raw(_holder(module, below, weight), weight.local)
            if isinstance(parameter, nn.Parameter):
                parameter.data.copy_(weight.pruned.masked(parameter.data))


class _Enter:
    """Before the forward pass of the module at `path`."""

    def __init__(self, keeper: Keeper, path: Path, contains: bool) -> None:
        self.keeper, self.path, self.contains = keeper, path, contains

    def __call__(self, module: nn.Module, args: Any) -> None:
        keeper = self.keeper
        if keeper.alive.yes and (keeper.outer is None or keeper.outer == self.path):
            keeper.enter(module, self.path)
            if self.contains:
                keeper.outer = self.path


class _Leave:
    """After the forward pass of a module that contains others, also after an error."""

    def __init__(self, keeper: Keeper, path: Path) -> None:
        self.keeper, self.path = keeper, path

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.keeper.outer == self.path:
            self.keeper.outer = None


_KEEPERS: weakref.WeakSet[Keeper] = weakref.WeakSet()


def _after_any_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for keeper in list(_KEEPERS):
        keeper.after_step(optimizer)


# Registered once: torch has one table of these hooks, which must not change while an optimiser steps, and a held
# model may be copied, called or collected just then.
register_optimizer_step_post_hook(_after_any_step)


def held_at(owner: nn.Module, local: str) -> list[Pruned]:
    """What the holds on this module, those not released, keep of its weight `local`."""
    return [
        weight.pruned
        for hook in owner._forward_pre_hooks.values()
        if isinstance(hook, _Enter) and hook.keeper.alive.yes
        for weight in hook.keeper.weights
        if (weight.path, weight.local) == (hook.path, local)
    ]


def keepers_on(model: nn.Module) -> list[tuple[Keeper, bool]]:
    """The keepers at work on a model or on parts of it, each once, and whether it holds the whole model."""
    found: dict[int, tuple[Keeper, bool]] = {}
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, _Enter) and hook.keeper.alive.yes:
                whole = module is model and not hook.path
                found.setdefault(id(hook.keeper), (hook.keeper, whole))
    return list(found.values())


def places_changing(model: nn.Module) -> set[tuple[int, str]]:
    """(id of the module, attribute) of every weight whose mask is made anew while the model is trained."""
    return {
        (id(owner_of(module, rest, weight.name)), weight.local)
        for module in model.modules()
        for hook in module._forward_pre_hooks.values()
        if isinstance(hook, _Enter) and hook.keeper.alive.yes and hook.keeper.changing
        for rest, weight in hook.keeper.below(hook.path)
    }


def take_off(model: nn.Module, keeper: Keeper | None) -> None:
    """Write the pruned values once more, and remove the hooks and parametrisations of one hold, or of all."""
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, _Enter) and keeper in (None, hook.keeper) and hook.keeper.alive.yes:
                with suppress(TombolaError):  # of a weight that is gone
                    hook.keeper.write(module, hook.path)
    for module in model.modules():
        if parametrize.is_parametrized(module):
            for chain in module.parametrizations.values():  # type: ignore[operator]
                _unmask(chain, None if keeper is None else keeper.alive)
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(hook, _Enter | _Leave) and keeper in (None, hook.keeper):
                    hook.keeper.end()
                    del hooks[key]
                    module._forward_hooks_always_called.pop(key, None)


# ---- looking weights up --------------------------------------------------------------------------------------


def owner_of(module: nn.Module, path: Path, name: str) -> nn.Module:
    """The module at the end of a path, or a TombolaError that the weight `name` is gone."""
    owner = module_at(module, path)
    if owner is None:
        raise TombolaError(_gone(name))
    return owner


def _holder(module: nn.Module, path: Path, weight: HeldWeight) -> nn.Module:
    """The module whose weight is held, also inside a wrapper."""
    owner = owner_of(module, path, weight.name)
    return owner if weight.local in owner._parameters else unwrap(owner)


def _raw(owner: nn.Module, local: str) -> Tensor | None:
    """The parameter of that name; that under torch.nn.utils.prune, which multiplies it by its own mask."""
    if local in owner._parameters or f"{local}_mask" not in owner._buffers:
        return owner._parameters.get(local)
    return owner._parameters.get(f"{local}_orig")


def not_held(name: str, owner: nn.Module, local: str) -> str:
    """Why a weight that is a plain tensor of its module cannot be held."""
    sources = [key for key in owner._parameters if key.startswith(f"{local}_")]
    if _FSDP in owner.__dict__:
        return (
            f"{name!r} is sharded already, so it cannot be held; hold the mask before FullyShardedDataParallel wraps it"
        )
    if not sources:
        return f"{name!r} is a plain tensor and not a parameter, so it cannot be held; make it an nn.Parameter"
    return (
        f"{name!r} is computed from {' and '.join(sources)} before each forward pass, so it cannot be held; remove "
        "that (torch.nn.utils.remove_weight_norm, remove_spectral_norm) or use torch.nn.utils.parametrizations"
    )


def _present(owner: nn.Module, weight: HeldWeight, alive: Alive) -> Tensor | None:
    """The parameter of that name now; None where there is none to write."""
    parameter = _raw(owner, weight.local)
    if parameter is None:
        _elsewhere(owner, weight, alive)
        return None
    if _FSDP in owner.__dict__ and parameter.shape != weight.pruned.keep.shape:
        return None  # a piece of it, between forward passes
    if isinstance(parameter, nn.Parameter):
        return parameter
    if _FSDP in owner.__dict__:
        weight.pruned.write(parameter)
    return None  # else put in by torch.func.functional_call: not the module's own


def _elsewhere(owner: nn.Module, weight: HeldWeight, alive: Alive) -> None:
    """Mask a weight that is no parameter of its module."""
    if parametrize.is_parametrized(owner, weight.local):
        _mask_last(owner, weight, alive)
        return
    plain = owner.__dict__.get(weight.local)
    if not isinstance(plain, Tensor):
        raise TombolaError(_gone(weight.name))
    if _FSDP not in owner.__dict__ and "_is_replica" not in owner.__dict__:
        raise TombolaError(not_held(weight.name, owner, weight.local))
    weight.pruned.write(plain)  # FSDP, DataParallel: lent for this forward pass


def _gone(name: str) -> str:
    return f"{name!r} is held, but the model has no such weight any more; release the hold before it is removed"


def _mask_last(owner: nn.Module, weight: HeldWeight, alive: Alive) -> None:
    """Make the mask the last parametrisation of a computed weight."""
    chain: Any = owner.parametrizations[weight.local]  # type: ignore[index]
    last = itertools.takewhile(lambda step: isinstance(step, Masking), reversed(chain))
    if all(step.alive is not alive for step in last):  # of several holds, one after the other
        _unmask(chain, alive)
        masking = Masking(weight.pruned, alive)
        parametrize.register_parametrization(owner, weight.local, masking, unsafe=True)


def _unmask(chain: Any, alive: Alive | None) -> None:
    for i in reversed(range(len(chain))):
        if isinstance(chain[i], Masking) and alive in (None, chain[i].alive):
            del chain[i]
