"""Statistics of norm layers after pruning: estimated anew from the calibration data."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from tombola.nn.modes import in_mode, only_norms_train
from tombola.prune.calibration import Calibration


@torch.no_grad()
def renew_norms(model: nn.Module, calibration: Calibration) -> int:
    """The plain mean over the batches, by the network as it stands, in place; how many norms have statistics.

    All other layers are in evaluation mode meanwhile, dropout among them.
    """
    norms = [module for module in model.modules() if isinstance(module, _NormBase) and module.track_running_stats]
    if not norms:
        return 0
    momenta = [norm.momentum for norm in norms]
    with in_mode(model, train=False):
        only_norms_train(model)
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean
        for batch in calibration.batches:
            batch.call(model)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return len(norms)
