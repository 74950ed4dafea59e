"""FLOPs of one call, counted without hooks on the modules of the whole process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


class NotCounted(Exception):
    """An operation that multiplies matrices has no formula in torch's counter."""


def flops(model: nn.Module, inputs: Sequence[Tensor]) -> dict[str, int]:
    """Name of a module ("" for all) -> FLOPs within its calls, 2 for a multiplication with its addition.

    torch's own counter follows the calls of every module of the process, in all threads; here hooks are set on the
    model's modules alone, while this call runs.
    """
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _Calls(model)  # type: ignore[assignment]
    with counter, torch.no_grad():
        model(*inputs)
    return {name: sum(ops.values()) for name, ops in counter.flop_counts.items()}


def flops_of_call(call: Callable[[], object]) -> int:
    """FLOPs of all operations of a call, gradients on or off as they are there, without a hook on any module.

    Raises:
        NotCounted: it uses one of torch's fused recurrent layers, which the counter would take for nothing.
    """
    counter = FlopCounterMode(display=False, custom_mapping=dict.fromkeys(_FUSED, _refuse))
    counter.mod_tracker = _Calls(nn.Module())  # type: ignore[assignment]
    with counter:
        call()
    return sum(counter.flop_counts[""].values())


_FUSED = tuple(
    getattr(torch.ops.aten, name)
    for name in ("mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn")
    if hasattr(torch.ops.aten, name)
)


def _refuse(*args: object, **more: object) -> NoReturn:
    raise NotCounted


class _Calls:
    """Tracks which modules of a model are being called; replaces torch's ModuleTracker."""

    def __init__(self, model: nn.Module) -> None:
        self.parents = [""]
        self._model = model
        self._hooks: list[Any] = []

    def __enter__(self) -> None:
        for name, module in self._model.named_modules():
            if name:
                self._hooks.append(module.register_forward_pre_hook(lambda *_, name=name: self.parents.append(name)))
                self._hooks.append(
                    module.register_forward_hook(lambda *_, name=name: self.parents.remove(name), always_call=True)
                )

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
