"""Statistics of norm layers after pruning: estimated anew from the calibration data."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from tombola.errors import TombolaError
from tombola.nn.modes import in_mode, only_norms_train
from tombola.prune.calibration import Calibration, Inputs
from tombola.prune.copies import copied
from tombola.prune.measure import likeness


def settle_norms(before: nn.Module, after: nn.Module, calibration: Calibration, norms: bool | None) -> int:
    """How many norms of `after`, the pruned network, get new statistics, in place.

    Args:
        before: the network that was pruned.
        norms: whether; None: if the outputs on the calibration data come to be more like those of `before`. So it is
            where pruning moved what norms see, and not where these data are unlike those of the training.
    """
    if norms is False:
        return 0
    if norms or not _with_statistics(after):
        return renew_norms(after, calibration)
    own = copied(before)
    held = {name: value.clone() for name, value in after.named_buffers()}
    as_trained = likeness(own, after, calibration)
    count = renew_norms(after, calibration)
    if likeness(own, after, calibration) > as_trained:
        return count
    for name, value in after.named_buffers():
        value.copy_(held[name])
    return 0


@torch.no_grad()
def renew_norms(model: nn.Module, calibration: Calibration) -> int:
    """The plain mean over the batches, by the network as it stands, in place; how many norms have statistics.

    All other layers are in evaluation mode meanwhile, dropout among them. A batch of one example, as the last may be,
    is left out where a norm would get a single number of each channel from it.

    Raises:
        TombolaError: no batch is left.
    """
    norms = _with_statistics(model)
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


def _with_statistics(model: nn.Module) -> list[_NormBase]:
    return [module for module in model.modules() if isinstance(module, _NormBase) and module.track_running_stats]


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
