"""A network read in parts: as one graph, or as its children that torch.export can follow where it cannot follow all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from tombola.graph.call import Call
from tombola.graph.copies import copied, differ
from tombola.graph.node import batch_axes
from tombola.graph.record import GraphRecord, rebuilt
from tombola.graph.trace import Untraceable, is_data, same_in_training, traced
from tombola.parameters import holders
from tombola.rng.guard import seeded


@dataclass(frozen=True, eq=False)
class Part:
    """What of a network is read as one graph.

    `path`: of the module in the network; "": all of it. `network`: its graph, as `traced` gives it, over the network's
    tensors by their names. `call`: how that module was called; None for all of the network, called with its inputs.
    """

    path: str
    network: fx.GraphModule
    inputs: tuple[Tensor, ...]
    call: Call | None = None

    def check_training(self, model: nn.Module) -> None:
        """As `same_in_training`."""
        if self.call is None:
            same_in_training(model, self.network, self.inputs)
        else:
            same_in_training(model, self.network, self.inputs, path=self.path, call=partial(_forward, self.call))


def _forward(call: Call, module: nn.Module, inputs: Sequence[Tensor]) -> Any:
    """Call a module's forward, whose hooks stay with the network."""
    args, kwargs = call.arguments(inputs)
    return module.forward(*args, **kwargs)


@dataclass(frozen=True)
class Reading:
    """`parts`: in the order in which the network has them. `left`: module and line -> why that is in none of them."""

    parts: tuple[Part, ...]
    left: Mapping[str, str]


def whole(model: nn.Module, inputs: Sequence[Tensor], carries: Sequence[bool] | None) -> Reading:
    """The network as one part; arguments and errors as of `traced`.

    `carries`: None where the network takes no other batch.
    """
    network = traced(model, inputs, carries)
    if any(own and not free for own, free in zip(carries or (), _free(network), strict=False)):
        raise Untraceable("its code ties the graph to the batch of the example")
    return Reading((Part("", network, tuple(inputs)),), {})


def again(model: nn.Module, inputs: Sequence[Tensor], record: GraphRecord) -> Reading:
    """The network as one part, by a record of it. Raises TombolaError as `rebuilt`."""
    return Reading((Part("", rebuilt(record, model), tuple(inputs)),), {})


def _free(network: fx.GraphModule) -> tuple[bool, ...]:
    """Of each input, whether the graph leaves its first axis free."""
    return tuple(0 in batch_axes(node) for node in network.graph.nodes if node.op == "placeholder")


def split(model: nn.Module, inputs: Sequence[Tensor], others: Sequence[Tensor] | None, error: Untraceable) -> Reading:
    """The network's children that can be traced, each alone, from what it is called with; of others their children.

    A child without weights, one that is not called, that changes itself or its inputs, or that takes or gives anything
    but tensors and constants, is no part.

    Args:
        model: parameters are plain, in eval mode. Only copies are called.
        inputs: as the network takes them.
        others: of another batch size, if the network takes one.
        error: why it is not read as a whole.

    Raises:
        Untraceable: that error, where no child can be traced.
    """
    left = {error.place: str(error)}
    found: dict[str, Part] = {}
    level = _children(model, "")
    while level:
        calls = _calls(model, level, inputs, others)
        below: list[str] = []
        for path in level:
            module = model.get_submodule(path)
            try:
                found[path] = _part(model, path, calls[path])
            except Untraceable as reason:
                inner = _children(module, path)
                below += inner
                if not inner or calls[path].call:
                    left[reason.place] = str(reason)
        level = below
    if not found:
        raise error
    return Reading(tuple(found[path] for path, _ in model.named_modules() if path in found), left)


def _children(module: nn.Module, path: str) -> list[str]:
    """The paths of a module's children that have weights."""
    children = module.named_children()
    return [f"{path}.{name}".lstrip(".") for name, child in children if any(p.dim() > 1 for p in child.parameters())]


def _part(model: nn.Module, path: str, seen: _Seen) -> Part:
    """The child as a part. Raises Untraceable."""
    if seen.call is None or seen.why:
        raise Untraceable(seen.why or "it is not called for the example", path)
    call = seen.call
    network = traced(model, call.inputs, call.carries, path=path, call=partial(_forward, call))
    return Part(path, network, call.inputs, replace(call, carries=_free(network)))


def is_alone(model: nn.Module, part: Part) -> bool:
    """Whether nothing else of the network uses the part's tensors."""
    inside = set(model.get_submodule(part.path).modules())
    elsewhere = {
        module
        for path, module in model.named_modules(remove_duplicate=False)
        if part.path and path != part.path and not path.startswith(f"{part.path}.")
    }
    shares = any(module in inside for module in elsewhere if any(True for _ in module.parameters(recurse=False)))
    owners = holders(model)
    names = [name for name, _ in part.network.named_parameters()]
    return not shares and all(module in inside for name in names for module, _ in owners.get(name, ()))


# ---- parts in the network --------------------------------------------------------------------------------------------


def assembled(model: nn.Module, networks: Sequence[tuple[Part, nn.Module]]) -> nn.Module:
    """The network with others in place of its parts. The model is changed.

    A call of a part that is none as it was read for goes to the model's own module, and so does code of the network's
    that asks for the part's layers, weights or sizes.
    """
    inner = model.model if isinstance(model, Assembled) else model
    for part, network in networks:
        if part.call is None:
            return network
        module = inner.get_submodule(part.path)
        vars(module)["forward"] = _Forward(part.call, network, module.forward, _Settings(module))
    return Assembled(inner, [network for _, network in networks])


class Assembled(nn.Module):
    """A network whose parts are others, which it holds beside it."""

    def __init__(self, model: nn.Module, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.model, self.networks = model, nn.ModuleList(networks)

    def forward(self, *inputs: Tensor) -> Any:
        """As the model."""
        return self.model(*inputs)


@dataclass(frozen=True, eq=False)
class _Forward:
    """A forward by another network for calls like one."""

    call: Call
    network: nn.Module
    own: Callable[..., Any]
    settings: _Settings

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inputs = self.call.tensors(args, kwargs)
        if inputs is None or not self.call.fits(inputs) or not self.settings.are_as_read():
            return self.own(*args, **kwargs)
        run = self.network.forward if isinstance(self.network, fx.GraphModule) else self.network  # no prints
        return run(*inputs)


class _Settings:
    """What a module's forward reads beside its arguments: attributes, tensors and children of it and of all in it.

    The network's own code may change them before a call.
    """

    def __init__(self, module: nn.Module) -> None:
        inside = list(module.modules())
        self._read = [(one, {name: _apart(value) for name, value in _settings(one).items()}) for one in inside]
        self._versions = _Versions([*module.parameters(), *module.buffers()])

    def are_as_read(self) -> bool:
        """Whether none of them was changed since."""
        try:
            return self._versions.same() and all(_settings(module) == was for module, was in self._read)
        except (RuntimeError, ValueError):  # another tensor or array, which has no one answer to ==
            return False


def _settings(module: nn.Module) -> dict[str, Any]:
    return {**vars(module), "forward": None}


def _apart(value: Any) -> Any:
    """A container of its own with the same contents."""
    return copy.copy(value) if isinstance(value, dict | list | set) else value


class _Versions:
    """How often each of some tensors had been written to; a copy's begin anew."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors, self._counts = tensors, [x._version for x in tensors]

    def same(self) -> bool:
        return self._counts == [x._version for x in self._tensors]

    def __deepcopy__(self, memo: dict[int, Any]) -> _Versions:
        made = _Versions(copy.deepcopy(self._tensors, memo))
        if not self.same():
            made._counts = [-1] * len(made._counts)
        return made


# ---- what children are called with -----------------------------------------------------------------------------------


@dataclass(eq=False)
class _Seen:
    """The first call of a child. `why`: it is no part."""

    call: Call | None = None
    why: str = ""


def _calls(
    model: nn.Module, paths: Sequence[str], inputs: Sequence[Tensor], others: Sequence[Tensor] | None
) -> dict[str, _Seen]:
    """The first call of each of these modules when the network is called, and what of it is the batch."""
    seen, runner = _listened(model, paths, inputs)
    again = {} if others is None else _listened(model, paths, others)[0]
    for path, one in seen.items():
        if differ(model.get_submodule(path), runner.get_submodule(path)):
            one.why = "its forward changes its own buffers, parameters or attributes"
        other = again[path].call if path in again else None
        if one.call is not None and other is not None and len(other.inputs) == len(one.call.inputs):
            one.call = replace(one.call, carries=tuple(map(_carries, one.call.inputs, other.inputs)))
    return seen


def _carries(one: Tensor, other: Tensor) -> bool:
    """Whether the first axis alone differs."""
    return one.dim() == other.dim() > 0 and one.shape[1:] == other.shape[1:] and len(one) != len(other)


def _listened(model: nn.Module, paths: Sequence[str], inputs: Sequence[Tensor]) -> tuple[dict[str, _Seen], nn.Module]:
    """The first call of each of these modules of a copy, and that copy after it was called."""
    runner = copied(model)
    seen = {path: _Seen() for path in paths}
    inner = {path: runner.get_submodule(path) for path in paths}
    own = {path: vars(module).get("forward") for path, module in inner.items()}
    for path, module in inner.items():
        vars(module)["forward"] = partial(_listening, module.forward, seen[path])
    with seeded(0, cuda=True), torch.no_grad():
        runner(*(x.clone() for x in inputs))
    for path, module in inner.items():
        del vars(module)["forward"]
        if own[path] is not None:
            vars(module)["forward"] = own[path]
    return seen, runner


def _listening(forward: Callable[..., Any], seen: _Seen, *args: Any, **kwargs: Any) -> Any:
    """The forward of a module, whose first call is kept."""
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    if seen.call is None:
        seen.call = Call.of(args, kwargs)
    versions = [x._version for x in tensors]
    output = forward(*args, **kwargs)
    if versions != [x._version for x in tensors]:
        seen.why = "its forward writes into its inputs"
    elif not seen.call.is_plain:
        seen.why = "its forward takes other things than tensors and constants"
    elif not is_data(output):
        seen.why = f"its forward returns a {type(output).__name__}"
    return output
