"""A pruned network in which nothing leads from the input to the output is an error."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.prune.calibration import Calibration, Inputs
from tombola.prune.pruned import Pruned
from tombola.prune.watch import watching
from tombola.select.select import warn_of_empty
from tombola.train.connectivity import is_cut, tells_apart


def check_path(
    before: nn.Module, pruned: Pruned, data: Calibration | None, fix: str = "ask for a higher density"
) -> None:
    """TombolaError if no kept path leads from the input to the output; a warning that names layers of which nothing is.

    It is looked for with the first calibration batch of several examples; without such, only a mask that keeps nothing
    at all is known to leave none. Where examples get different outputs, which is the rule, that ends it.

    Args:
        before: the network that was pruned.
        data: what it was calibrated on.
        fix: what the message ends with.
    """
    batches = () if data is None else data.batches
    batch = next((one for one in batches if one.size > 1), None)
    mask, empty = pruned.mask, pruned.mask.empty_layers()
    if mask.kept and (batch is None or not _cut(before, pruned, batch)):
        if empty:
            warn_of_empty(empty)
        return
    raise TombolaError(
        f"no path leads from the input to the output: {mask.kept:,} of {mask.total:,} weights are kept"
        + (f", and none of {', '.join(empty[:4])}{', ...' * (len(empty) > 4)}" if empty else "")
        + f"; {fix}"
    )


def _cut(before: nn.Module, pruned: Pruned, batch: Inputs) -> bool:
    if _tells_apart(pruned.model, batch) is not False:
        return False
    if not batch.named and len(batch.args) == 1 and isinstance(x := batch.args[0], Tensor):
        return is_cut(before, pruned.mask, x)
    return bool(_tells_apart(before, batch))


def _tells_apart(model: nn.Module, batch: Inputs) -> bool | None:
    with watching(model), torch.no_grad():
        return tells_apart(batch.call(model), batch.size)
