"""What a deployed network may be called with: the inputs it was deployed for, at any batch size it takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tombola.compact.inputs import Batch
from tombola.deploy.inference import short
from tombola.errors import TombolaError
from tombola.formats import plural
from tombola.graph.call import Call
from tombola.machine.memory import described, has_shape


@dataclass(frozen=True)
class Takes:
    """Of each input its shape, dtype, device, layout and name in the network's forward; what of it is the batch.

    `empty`: whether an empty batch gives the network's own outputs. `call`: what else a call holds; None: nothing.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    devices: tuple[str, ...]
    layouts: tuple[torch.layout, ...]
    names: tuple[str, ...]
    batch: Batch
    empty: bool = True
    call: Call | None = None

    def bound(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """The inputs in order.

        Raises:
            TombolaError: others than the network was deployed for.
        """
        if self.call is not None:
            inputs, named = self._tensors(inputs, named), {}
        if not named and self._as_deployed(inputs):
            return tuple(inputs)
        given = [*inputs, *(named[name] for name in self.names[len(inputs) :] if name in named)]
        odd = sorted(set(named) - set(self.names[len(inputs) :]))
        if odd:
            raise TombolaError(
                f"an input named {odd[0]!r} is given; this network was deployed for {len(self.shapes)} inputs: "
                f"{', '.join(self.names)}; deploy it with an example of all inputs"
            )
        for x in given:
            if not has_shape(x):
                raise TombolaError(f"an input is {described(x)}; this network was deployed for {self._wanted()}")
        if len(given) != len(self.shapes):
            names = f"{plural(len(self.shapes), 'input')} ({', '.join(self.names)})"
            raise TombolaError(
                f"{plural(len(given), 'input')} given; this network was deployed for {names} of shape {self._wanted()}"
            )
        if not self._fits(given):
            raise TombolaError(
                f"inputs of shape {shown(given)}; this network was deployed for {self._wanted()}: "
                "deploy it for this shape"
            )
        for x, layout in zip(given, self.layouts, strict=True):
            if x.layout is not layout:
                raise TombolaError(f"an input is {described(x)}; this network was deployed for {layout}: convert it")
        for x, dtype, device in zip(given, self.dtypes, self.devices, strict=True):
            if x.dtype != dtype or x.device.type != device:
                raise TombolaError(
                    f"an input is {short(x.dtype)} on {x.device.type}; this network was deployed for {short(dtype)} "
                    f"on {device}: deploy it for this, or convert the input"
                )
        if given and not len(given[0]) and not self.empty:
            raise TombolaError("the batch is empty, which this network was not deployed for; give 1 row or more")
        return tuple(given)

    def _tensors(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> tuple[Tensor, ...]:
        assert self.call is not None
        found = self.call.tensors(inputs, named)
        if found is None:
            args, kwargs = self.call.arguments(self.shapes)
            wanted = ", ".join([*map(str, args), *(f"{name}={value}" for name, value in kwargs.items())])
            raise TombolaError(
                f"the call is another than it was deployed for: ({wanted}), tensors as shapes; deploy it with "
                "an example of this call"
            )
        return found

    def _as_deployed(self, inputs: Sequence[Any]) -> bool:
        """Whether these are plain tensors that `bound` accepts: the common case, in a third of its time."""
        if len(inputs) != len(self.shapes):
            return False
        rows = 0
        for i, x in enumerate(inputs):
            plain = type(x) is Tensor and not x.is_nested
            if not plain or x.dtype is not self.dtypes[i] or x.layout is not self.layouts[i]:
                return False
            shape, wanted = x.shape, self.shapes[i]
            if self.batch.only is not None or not self.batch.carries[i]:
                if shape != wanted:
                    return False
            elif len(shape) != len(wanted) or shape[1:] != wanted[1:] or not shape[0] or rows not in (0, shape[0]):
                return False
            else:
                rows = shape[0]
            if x.device.type != self.devices[i]:
                return False
        return bool(inputs) and (rows > 0 or self.empty)

    def _fits(self, given: Sequence[Tensor]) -> bool:
        sizes = set()
        for x, wanted, own in zip(given, self.shapes, self.batch.carries, strict=True):
            free = own and self.batch.only is None
            if x.dim() != len(wanted) or tuple(x.shape)[free:] != wanted[free:]:
                return False
            if free:
                sizes.add(len(x))
        return len(sizes) < 2

    def _wanted(self) -> str:
        if self.batch.only is not None:
            return f"{shown(self.shapes)}, a batch of {self.batch.size} alone ({self.batch.only})"
        fixed = [wanted for wanted, own in zip(self.shapes, self.batch.carries, strict=True) if not own]
        rest = f" ({shown(fixed)} as it is)" if fixed else ""
        return f"{shown(self.shapes)}, any batch{rest}"


def takes(
    network: nn.Module, example: Sequence[Tensor], batch: Batch, call: Call | None = None, *, empty: bool
) -> Takes:
    """What a network takes, from an example; `network`: whose forward has the inputs' names."""
    return Takes(
        tuple(tuple(x.shape) for x in example),
        tuple(x.dtype for x in example),
        tuple(x.device.type for x in example),
        tuple(x.layout for x in example),
        _names(network, len(example)),
        batch,
        empty,
        call,
    )


def _names(network: nn.Module, count: int) -> tuple[str, ...]:
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    try:
        known = [p.name for p in inspect.signature(network.forward).parameters.values() if p.kind in plain]
    except (TypeError, ValueError):  # a callable without a signature
        known = []
    return tuple(known[i] if i < len(known) else f"input {i + 1}" for i in range(count))


def shown(values: Sequence[Any]) -> str:
    """Their shapes, of tensors or as they are."""
    return ", ".join(str(tuple(value.shape) if isinstance(value, Tensor) else value) for value in values)
