"""What a method may do while a network trains: a hook is called at fixed points and checkpointed with the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from tombola.train.state import Loop


class Hook:
    """Override what you need. `loop` gives the model, the optimiser, the step, the history, and `stop(reason)`.

    State that must survive a kill goes into `state_dict` (tensors, numbers, strings, lists, dicts: it is read
    back with `weights_only`).
    """

    forward_passes: ClassVar[int] = 0
    """Of a network of the same size (a teacher), by every step: they are counted as part of its cost."""

    stacks: ClassVar[bool] = False
    """Whether what it does at every step may be done within a stack (see `tombola.train.stacked`): it reads and writes
    values in place, draws from generators of its own alone, and changes neither modes nor what requires a gradient."""

    def on_start(self, loop: Loop) -> None:
        """Once, before the first step, and again after a resume or a rewind (state is loaded by then)."""

    def before_step(self, loop: Loop) -> None:
        """Before the forward pass of every step."""

    def training_loss(self, loop: Loop, x: Tensor, output: Any, y: Tensor, loss: Tensor) -> Tensor:
        """What is differentiated instead of `loss`, the mean over a batch (or a part of it): `loss` and more terms.

        The log's training loss is that without them.
        """
        return loss

    def after_backward(self, loop: Loop) -> None:
        """When the gradients of a step are complete, before clipping."""

    def after_step(self, loop: Loop) -> None:
        """After the optimiser's step; `loop.step` already counts it."""

    def before_eval(self, loop: Loop) -> Callable[[], None] | None:
        """Make the model what is reported, where that is not what is trained; give what undoes it.

        Every validation, the best state, the final state and the test see the model as this leaves it. After a
        validation training goes on from what undoing gives, which must be what was there, to the bit.
        """

    def after_eval(self, loop: Loop) -> None:
        """After each evaluation, the model still as reported; its row is `loop.history[-1]`."""

    def state_dict(self) -> Mapping[str, Any]:
        """What to checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
