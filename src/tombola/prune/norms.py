"""Statistics of norm layers after pruning: estimated anew from the calibration data."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from tombola.errors import TombolaError
from tombola.nn.modes import in_mode, only_norms_train
from tombola.prune.calibration import Calibration, Inputs


@torch.no_grad()
def renew_norms(model: nn.Module, calibration: Calibration) -> int:
    """The plain mean over the batches, by the network as it stands, in place; how many norms have statistics.

    All other layers are in evaluation mode meanwhile, dropout among them. A batch of one example, as the last may be,
    is left out where a norm would get a single number of each channel from it.

    Raises:
        TombolaError: no batch is left.
    """
    norms = [module for module in model.modules() if isinstance(module, _NormBase) and module.track_running_stats]
    if not norms:
        return 0
    batches = [batch for batch in calibration.batches if batch.size > 1 or not _single(model, norms, batch)]
    if not batches:
        raise TombolaError(
            "a calibration batch of one example gives norms one number of each channel, and no variance; give batches "
            "of 2 examples or more, or norms=False"
        )
    momenta = [norm.momentum for norm in norms]
    with in_mode(model, train=False):
        only_norms_train(model)
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean
        for batch in batches:
            batch.call(model)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return len(norms)


def _single(model: nn.Module, norms: Iterable[nn.Module], batch: Inputs) -> bool:
    """Whether some norm gets one number of each channel."""
    alone = False

    def see(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        nonlocal alone
        alone |= bool(args) and args[0].dim() > 1 and args[0].numel() <= args[0].shape[1]

    handles = [norm.register_forward_pre_hook(see) for norm in norms]
    try:
        with in_mode(model, train=False):
            batch.call(model)
    finally:
        for handle in handles:
            handle.remove()
    return alone
