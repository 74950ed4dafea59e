"""`Gradual` in Lightning's trainer."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from torch import nn

from tombola.errors import TombolaError
from tombola.names import first_installed

if TYPE_CHECKING:
    from tombola.gradual.pruner import Gradual

KEY = "tombola.Gradual"
"""Under which states of this callback stand in checkpoints."""


def lightning_callback(pruner: Gradual) -> Any:
    """The callback that steps `pruner`: see `Gradual.lightning`."""
    return _class()(pruner)


def check_same(pruner: Gradual, model: nn.Module, whose: str) -> None:
    """TombolaError unless what is pruned is the model in training, or part of it."""
    if not any(part is pruner.model for part in model.modules()):
        raise TombolaError(
            f"the {whose} in training is not, and does not hold, the model that this Gradual was made on; make it on "
            "that very module"
        )


@lru_cache(maxsize=1)
def _class() -> type:
    # Either package will do for both; the one that is in use already is not loaded a second time.
    names = sorted(("lightning.pytorch", "pytorch_lightning"), key=lambda name: name not in sys.modules)
    base: Any = first_installed(names, "lightning").Callback

    class GradualCallback(base):  # type: ignore[misc]
        """Steps a `Gradual` after every step of the optimiser; its state is in the trainer's checkpoints."""

        def __init__(self, pruner: Gradual) -> None:
            self.pruner = pruner
            self.seen = 0

        def __reduce__(self) -> Any:  # for processes that Lightning spawns: a class made late has no name
            return lightning_callback, (self.pruner,)

        @property
        def state_key(self) -> str:
            return KEY

        def state_dict(self) -> dict[str, Any]:
            return self.pruner.state_dict()

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.pruner.load_state_dict(state)

        def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
            check_same(self.pruner, pl_module, "module")
            self.pruner.agree()
            self.seen = trainer.global_step

        def on_train_batch_end(self, trainer: Any, pl_module: nn.Module, *batch: Any) -> None:
            for _ in range(trainer.global_step - self.seen):  # several under manual optimisation
                self.pruner.step(*trainer.optimizers)
            self.seen = trainer.global_step

    return GradualCallback
