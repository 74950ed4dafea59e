"""Low-rank adapters (LoRA, Hu et al. 2021) added to the weights of a network that has a mask."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.hold import held
from tombola.machine.autocast import forget_casts
from tombola.parameters import named_parameter, transposed

__all__ = ["merge_adapters"]


@checked
@torch.no_grad()
def merge_adapters(
    model: nn.Module, adapters: Mapping[str, tuple[Tensor, Tensor]], scale: float = 1.0
) -> dict[str, float]:
    """Add scale·B·A to weights, in place, under the masks that are held on the model: its zeros stay.

    Where the adapters were trained without the mask, what they would have added to pruned weights is lost; the result
    says how much. Adapters that are a `torch.nn.utils.parametrize` parametrisation of a held weight are trained under
    the mask, and lose nothing.

    Args:
        adapters: the weight's name -> (A, B), of shapes (rank, inputs) and (outputs, rank).
        scale: alpha / rank.

    Returns:
        Name -> the share of |B·A|² that fell on pruned weights, 0..1; 0 without a mask.

    Raises:
        TombolaError: no such weight, or shapes that do not fit; nothing is changed then.

    >>> layer = nn.Linear(2, 2)
    >>> with tb.hold(layer, {"weight": torch.tensor([[True, False], [True, False]])}):
    ...     merge_adapters(layer, {"weight": (torch.ones(1, 2), torch.ones(2, 1))})
    {'weight': 0.5}
    """
    kept, turned = held(model), transposed(model)
    weights = {name: named_parameter(model, name) for name in adapters}
    updates = {name: _update(name, weights[name], *pair, name in turned) for name, pair in adapters.items()}
    lost = dict.fromkeys(adapters, 0.0)
    for name, update in updates.items():
        weight = weights[name]
        new = (weight.float() + scale * update).to(weight.dtype)
        if name in kept:
            keep, value = (None if part is None else part.to(weight.device) for part in kept[name])
            assert keep is not None
            lost[name] = float(update[~keep].square().sum() / update.square().sum().clamp(min=torch.finfo().tiny))
            new = torch.where(keep, new, 0.0 if value is None else value.to(weight.dtype))
        weight.copy_(new)
    forget_casts()
    return lost


def _update(name: str, weight: Tensor, a: Tensor, b: Tensor, turned: bool) -> Tensor:
    """B·A as the weight lies, in float32 on its device."""
    outputs, inputs = reversed(weight.shape) if turned else weight.shape
    if weight.dim() != 2 or a.dim() != 2 or b.shape != (outputs, a.shape[0]) or a.shape[1] != inputs:
        raise TombolaError(
            f"the adapters of {name!r} have shapes {tuple(a.shape)} and {tuple(b.shape)}; for its {inputs} inputs and "
            f"{outputs} outputs give A of (rank, {inputs}) and B of ({outputs}, rank)"
        )
    update = b.to(weight.device, torch.float32) @ a.to(weight.device, torch.float32)
    return update.t() if turned else update
