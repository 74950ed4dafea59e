"""FLOPs of one call, counted without hooks on the modules of the whole process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
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
    counter = FlopCounterMode(display=False, custom_mapping=_ATTENTION)
    counter.mod_tracker = _Calls(model)  # type: ignore[assignment]
    with counter, torch.no_grad():
        model(*inputs)
    return {name: sum(ops.values()) for name, ops in counter.flop_counts.items()}


def flops_of_call(call: Callable[[], object]) -> int:
    """FLOPs of all operations of a call, gradients on or off as they are there, without a hook on any module.

    Raises:
        NotCounted: it uses one of torch's fused recurrent layers, which the counter would take for nothing.
    """
    counter = FlopCounterMode(display=False, custom_mapping={**_ATTENTION, **dict.fromkeys(_FUSED, _refuse)})
    counter.mod_tracker = _Calls(nn.Module())  # type: ignore[assignment]
    with counter:
        call()
    return sum(counter.flop_counts[""].values())


def _attention_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *more: object, **named: object
) -> int:
    """Of the products with keys and with values, whose shapes are (batch, heads, positions, width)."""
    *heads, positions, width = query
    return 2 * prod(heads) * positions * key[-2] * (width + value[-1])


def _projected_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], width: int, *more: object, **named: object
) -> int:
    """Of torch's fused attention with its projections, (batch, positions, width)."""
    batch, positions = query[:2]
    projections = 4 * batch * width * width * (positions + key[1])  # of queries and outputs; of keys and values
    return projections + _attention_flops((batch, positions, width), key, value)


def _encoder_flops(source: Sequence[int], width: int, *more: Any, **named: object) -> int:
    """Of torch's fused layer of an encoder, (batch, positions, width)."""
    hidden = more[12][0]
    return _projected_flops(source, source, source, width) + 4 * prod(source) * int(hidden)


_ATTENTION: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._native_multi_head_attention: _projected_flops,
    torch.ops.aten._transformer_encoder_layer_fwd: _encoder_flops,
}
"""What torch's counter takes for nothing: attention on a processor, and what its modules fuse for inference."""

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
