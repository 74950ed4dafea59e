"""Torch's defaults while Tombola builds something: float32 on a named device, whatever the user's own defaults are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class plainly(TorchFunctionMode):
    """Within it new tensors without a given dtype or device are float32 (if they are floats) on `device`.

    For this thread alone: torch's default dtype is the whole process's, and is not changed.
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self._device = device

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func not in _MAKERS:
            return func(*args, **given)
        free = given.get("dtype") is None and given.get("out") is None
        if given.get("device") is None and given.get("out") is None and func is not torch.as_tensor:
            given["device"] = self._device
        if free and func in _OF_FLOATS:
            given["dtype"] = torch.float32
        result = func(*args, **given)
        if free and func in _OF_NUMBERS and not _has_dtype(args, given) and result.is_floating_point():
            return result.to(torch.float32)
        return result


def _has_dtype(args: tuple[Any, ...], given: Mapping[str, Any]) -> bool:
    """Whether the values are an array's or a tensor's, which have a dtype of their own."""
    return any(hasattr(value, "dtype") for value in (*args, *given.values()) if not isinstance(value, torch.device))


_OF_FLOATS: frozenset[Any] = frozenset(
    getattr(torch, name)
    for name in ["empty", "empty_strided", "ones", "zeros", "rand", "randn", "eye", "linspace", "logspace"]
)
_OF_NUMBERS: frozenset[Any] = frozenset((torch.tensor, torch.as_tensor, torch.full, torch.arange))
_MAKERS = _OF_FLOATS | _OF_NUMBERS | {torch.randint, torch.randperm}
