"""ReLUs that a forward calls as functions, taken for binary activations while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from tombola.nn.binary import binary_sign

RELU_LIKE = (nn.ReLU, nn.ReLU6, nn.Hardtanh)


def _functions() -> Iterator[Callable[..., Any]]:
    for home in (F, torch, Tensor, torch._C._nn, torch.ops.aten):
        for name in ("relu", "relu_", "relu6", "relu6_", "hardtanh", "hardtanh_"):
            if function := getattr(home, name, None):
                yield function
                if overload := getattr(function, "default", None):  # of torch.ops
                    yield overload


RELU_FUNCTIONS = frozenset(_functions())


class BinaryReLUs(TorchFunctionMode):
    """Within it, every function and tensor method of `RELU_FUNCTIONS` gives `binary_sign`, never in place."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every function of torch and method of a tensor."""
        if func in RELU_FUNCTIONS:
            return binary_sign(*args[:1] or [kwargs.get("input", kwargs.get("self"))])
        return func(*args, **(kwargs or {}))


def with_binary_relus(forward: Callable[..., Any], args: Any, kwargs: Any, mode: BinaryReLUs | None = None) -> Any:
    """What `forward` gives within `mode`; by default within a plain one, which is not entered a second time."""
    entered: list[Any] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    if mode is None and any(isinstance(one, BinaryReLUs) for one in entered):
        return forward(*args, **kwargs)
    with mode or BinaryReLUs():
        return forward(*args, **kwargs)


def is_own(module: nn.Module) -> bool:
    """Whether a module's forward is a user's, neither torch's nor of Tombola's layers and masks."""
    plain = ("torch.", "tombola.nn.", "tombola.supermask.", "tombola.hold.")
    kinds = (kind for kind in type(module).__mro__ if issubclass(kind, nn.Module))
    return "forward" in vars(module) or any(not kind.__module__.startswith(plain) for kind in kinds)
