"""FLOPs of one call, counted without hooks on the modules of the whole process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


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
