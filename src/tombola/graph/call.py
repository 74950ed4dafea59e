"""How a module is called: which of its arguments are tensors, and what stays the same from call to call."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tombola.errors import TombolaError


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a module.

    `inputs`: the tensors among its arguments, in order. `rest`: all arguments, with the class Tensor in the place of
    each tensor, as they stand in `tree`. `carries`: of each tensor, whether its first axis is the batch.
    """

    inputs: tuple[Tensor, ...]
    rest: tuple[Any, ...]
    tree: pytree.TreeSpec
    carries: tuple[bool, ...]

    @classmethod
    def of(cls, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Call:
        """The call with these arguments. Its tensors are copies."""
        leaves, tree = pytree.tree_flatten((tuple(args), dict(kwargs)))
        tensors = tuple(x.detach().clone() for x in leaves if isinstance(x, Tensor))
        rest = tuple(Tensor if isinstance(x, Tensor) else x for x in leaves)
        return cls(tensors, rest, tree, (False,) * len(tensors))

    @property
    def objects(self) -> tuple[Any, ...]:
        """What it holds beside tensors and constants."""
        return tuple(x for x in self.rest if x is not Tensor and not isinstance(x, CONSTANTS))

    @property
    def is_plain(self) -> bool:
        """Whether all that it holds is tensors and constants that can be compared."""
        return not self.objects

    def __deepcopy__(self, memo: dict[int, Any]) -> Call:
        """Itself: nothing in it changes, and some tensors cannot be copied."""
        return self

    def arguments(self, inputs: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, positional and by name, with these in the place of the tensors."""
        left = iter(inputs)
        args, kwargs = pytree.tree_unflatten([next(left) if x is Tensor else x for x in self.rest], self.tree)
        return tuple(args), dict(kwargs)

    def tensors(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, ...] | None:
        """The tensors of a call that differs from this in its tensors alone; None of any other."""
        leaves, tree = pytree.tree_flatten((tuple(args), dict(kwargs)))
        if tree != self.tree:
            return None
        pairs = zip(leaves, self.rest, strict=True)
        same = all(isinstance(x, Tensor) if was is Tensor else _equal(x, was) for x, was in pairs)
        return tuple(x for x in leaves if isinstance(x, Tensor)) if same else None

    def fits(self, given: Sequence[Tensor]) -> bool:
        """Whether tensors differ from this call's in their values and batch alone."""
        rows: tuple[int, int] | None = None
        for x, was, own in zip(given, self.inputs, self.carries, strict=True):
            if (x.dtype, x.device, x.layout, x.dim()) != (was.dtype, was.device, was.layout, was.dim()):
                return False
            if x.shape[own:] != was.shape[own:]:
                return False
            if own:
                now, then = rows = rows or (len(x), len(was))
                if not now or len(x) * then != len(was) * now:
                    return False
        return True


CONSTANTS = (int, float, str, type(None), torch.dtype, torch.device, torch.layout)
"""The types of arguments that are compared, and not followed."""


def _equal(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def checked_call(example: Sequence[Any], named: Mapping[str, Any]) -> Call | None:
    """The call that an example stands for; None where it is tensors in order and nothing else.

    Raises:
        TombolaError: it holds something else than tensors and constants.
    """
    if not named and all(isinstance(x, Tensor) for x in example):
        return None
    call = Call.of(example, named)
    if call.objects:
        kind = type(call.objects[0]).__name__
        raise TombolaError(
            f"the example holds a {kind}; give tensors, numbers, strings or None, also in tuples, lists and dicts"
        )
    return call


# ---- a network that takes the tensors of its call --------------------------------------------------------------------


def taking_tensors(model: nn.Module, call: Call) -> nn.Module:
    """The model itself, which from now on is called with the tensors of a call alone: see `as_called`."""
    kind = type(model)

    def __call__(self: nn.Module, *inputs: Tensor) -> Any:
        args, kwargs = call.arguments(inputs)
        return kind.__call__(self, *args, **kwargs)

    own = {"__call__": __call__, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    model.__class__ = types.new_class(kind.__name__, (_TakesTensors, kind), exec_body=lambda body: body.update(own))
    return model


def as_called(network: nn.Module, call: Call) -> nn.Module:
    """A network that takes a call's tensors with the call itself: the model as it was, or the network in a module."""
    if isinstance(network, _TakesTensors):
        network.__class__ = type(network).__bases__[1]
        return network
    return Called(network, call)


class _TakesTensors(nn.Module):
    """Marks such models, and keeps what a user's class does to its subclasses from being done to them."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        return


class Called(nn.Module):
    """A network of tensors, called with what else a call holds."""

    def __init__(self, network: nn.Module, call: Call) -> None:
        super().__init__()
        self.network, self.call = network, call

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the network, for such calls.

        Raises:
            ValueError: another call.
        """
        inputs = self.call.tensors(args, kwargs)
        if inputs is None:
            raise ValueError("the arguments are others than in the example, but for the values of tensors")
        return self.network(*inputs)
