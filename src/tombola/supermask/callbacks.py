"""Masks that follow their scores in other people's trainers: `refresh` once after every step of the optimiser.

Attach first, then give the trainer the callback. Logging and checkpoints see the refreshed masks. So do validation and
test, but for drawn masks, which are evaluated as their p > 0.5 masks: what `make_permanent` and tickets hold.

    scores, weights = attach(model)
    lightning.pytorch.Trainer(callbacks=[lightning_callback()])       # `pytorch_lightning` just as well
    transformers.Trainer(model, callbacks=[transformers_callback()])
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch import nn

from tombola.errors import TombolaError
from tombola.names import first_installed
from tombola.supermask.layers import layers
from tombola.supermask.masks import finalize_masks, refresh

__all__ = ["lightning_callback", "transformers_callback"]


def lightning_callback() -> Any:
    """A Lightning `Callback` that refreshes the masks of the module in training.

    At the end of a batch after which `trainer.global_step` has moved on, so once per step of the optimiser when
    gradients are accumulated; under manual optimisation once per batch, however many steps it took.

    Raises:
        TombolaError: neither `lightning` nor `pytorch_lightning` is installed; when training starts, if no
            supermask is attached.
    """
    return _lightning_class()()


def transformers_callback() -> Any:
    """A `TrainerCallback` for the Hugging Face `Trainer` that refreshes the masks of its model.

    `Trainer` calls it once per step of the optimiser, not per batch, when gradients are accumulated.

    Raises:
        TombolaError: `transformers` is not installed; when training starts, if no supermask is attached.
    """
    return _transformers_class()()


@lru_cache(maxsize=1)
def _lightning_class() -> type:
    # Either package will do for both; the one that is in use already is not loaded a second time.
    names = sorted(("lightning.pytorch", "pytorch_lightning"), key=lambda name: name not in sys.modules)
    base: Any = first_installed(names, "lightning").Callback

    class RefreshMasks(base):  # type: ignore[misc]
        """Refreshes supermasks after every step of the optimiser, and evaluates them as their p > 0.5 masks."""

        def __init__(self) -> None:
            self.seen = 0
            self.restore: Callable[[], None] = _nothing

        def __reduce__(self) -> Any:  # for processes that Lightning spawns: a class made late has no name
            return lightning_callback, ()

        def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
            _check_attached(pl_module)
            self.seen = trainer.global_step

        def on_train_batch_end(self, trainer: Any, pl_module: nn.Module, *batch: Any) -> None:
            if trainer.global_step != self.seen:
                self.seen = trainer.global_step
                refresh(pl_module)

        def on_validation_start(self, trainer: Any, pl_module: nn.Module) -> None:
            self.restore = finalize_masks(pl_module)

        def on_validation_end(self, trainer: Any, pl_module: nn.Module) -> None:
            self.restore()

        on_test_start = on_predict_start = on_validation_start
        on_test_end = on_predict_end = on_validation_end

    return RefreshMasks


def _nothing() -> None:
    """There is nothing to put back."""


@lru_cache(maxsize=1)
def _transformers_class() -> type:
    base: Any = first_installed(["transformers"], "transformers").TrainerCallback

    class RefreshMasks(base):  # type: ignore[misc]
        """Refreshes supermasks after every step of the optimiser, and evaluates them as their p > 0.5 masks."""

        def __init__(self) -> None:
            self.restore: Callable[[], None] = _nothing

        def __reduce__(self) -> Any:
            return transformers_callback, ()

        def on_train_begin(self, args: Any, state: Any, control: Any, *, model: nn.Module, **others: Any) -> None:
            _check_attached(model)

        def on_step_end(self, args: Any, state: Any, control: Any, *, model: nn.Module, **others: Any) -> None:
            refresh(model)
            self.on_epoch_end(args, state, control, model=model)

        def on_epoch_end(self, args: Any, state: Any, control: Any, *, model: nn.Module, **others: Any) -> None:
            if control.should_evaluate:  # comes next
                self.restore = finalize_masks(model)

        def on_evaluate(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            self.restore()
            self.restore = _nothing

        def on_train_end(self, args: Any, state: Any, control: Any, *, model: nn.Module, **others: Any) -> None:
            finalize_masks(model)

    return RefreshMasks


def _check_attached(model: nn.Module) -> None:
    if not list(layers(model)):
        raise TombolaError("the model in training has no supermask; call tombola.supermask.attach on it first")
