"""Keep pruned weights exactly at their pruned value while any optimiser steps."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from tombola.errors import TombolaError
from tombola.mask import Mask, parameters_by_name


class Hold:
    """A mask that is being held on a live model. A context manager; `release` ends it and leaves the zeros."""

    def __init__(self, model: nn.Module, mask: Mask, values: Mapping[str, Tensor] | None = None) -> None:
        parameters = parameters_by_name(model)
        unknown = [name for name in mask if name not in parameters]
        if unknown:
            raise TombolaError(
                f"the mask names {unknown[0]!r}, which the model lacks; its parameters: {_few(parameters)}"
            )
        for name, kept in mask.items():
            if kept.shape != parameters[name].shape:
                raise TombolaError(
                    f"the mask of {name!r} has shape {tuple(kept.shape)}, the parameter {tuple(parameters[name].shape)}"
                )
        self._parameters: list[Tensor] = [parameters[name] for name in mask]
        # 1 for kept and 0 for pruned in the parameter's dtype: multiplying is the cheapest exact way
        self._keep = [mask[name].to(p.device, p.dtype) for name, p in zip(mask, self._parameters, strict=True)]
        self._values: list[Tensor] | None = None
        if values is not None:
            self._values = [
                torch.where(mask[name].to(p.device), 0, values[name].to(p.device, p.dtype))
                if name in values
                else torch.zeros_like(p)
                for name, p in zip(mask, self._parameters, strict=True)
            ]
        self._ids = {id(p) for p in self._parameters}
        self._handles: list[Any] = [
            p.register_post_accumulate_grad_hook(_masking(keep))  # type: ignore[no-untyped-call]
            for p, keep in zip(self._parameters, self._keep, strict=True)
            if p.requires_grad
        ]
        self._handles.append(register_optimizer_step_post_hook(self._after_step))
        # whatever changed the weights without an optimiser is undone before it is used
        self._handles.append(model.register_forward_pre_hook(lambda module, args: self._before_forward()))
        self._versions: list[int] = []
        self.enforce()

    def enforce(self) -> None:
        """Set every pruned weight to its pruned value now."""
        with torch.no_grad():
            torch._foreach_mul_(self._parameters, self._keep)
            if self._values is not None:
                torch._foreach_add_(self._parameters, self._values)
        self._versions = [p._version for p in self._parameters]

    def release(self) -> None:
        """Stop holding; the weights stay as they are."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if any(id(p) in self._ids for group in optimizer.param_groups for p in group["params"]):
            self.enforce()

    def _before_forward(self) -> None:
        if [p._version for p in self._parameters] != self._versions:
            self.enforce()


def hold(model: nn.Module, mask: Mask, values: Mapping[str, Tensor] | None = None) -> Hold:
    """Hold `mask` on `model`: pruned weights are exactly 0 (or their entry in `values`) from now on.

    They stay so after every step of any torch optimiser, with momentum, weight decay or gradient clipping, since
    their gradients are masked too. Parameter names and the state_dict do not change. Ends with `.release()`, or
    as a context manager: `with tb.hold(model, mask): ...`.

    Args:
        values: name -> tensor of the weight's shape, read at pruned positions.

    Raises:
        TombolaError: the mask names a parameter that the model lacks, or has another shape.
    """
    return Hold(model, mask, values)


def _masking(keep: Tensor) -> Any:
    def mask_gradient(parameter: Tensor) -> None:
        if parameter.grad is not None:
            parameter.grad.mul_(keep)

    return mask_gradient


def _few(names: Mapping[str, Any]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")
