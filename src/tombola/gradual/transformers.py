"""`Gradual` in the Hugging Face Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from torch import nn

from tombola.errors import TombolaError
from tombola.gradual.lightning import KEY, check_same
from tombola.gradual.packed import as_texts, from_texts
from tombola.names import first_installed

if TYPE_CHECKING:
    from tombola.gradual.pruner import Gradual


def transformers_callback(pruner: Gradual) -> Any:
    """The callback that steps `pruner`: see `Gradual.transformers`."""
    return _class()(pruner)


@lru_cache(maxsize=1)
def _class() -> type:
    base: Any = first_installed(["transformers"], "transformers").TrainerCallback

    class GradualCallback(base):  # type: ignore[misc]
        """Steps a `Gradual` after every step of the optimiser.

        Its state goes to `TrainerState.stateful_callbacks`, which the Trainer writes to trainer_state.json and reads
        from wherever it resumes. Not as an `ExportableState`: from that the Trainer may make a new callback, which
        would lack the model. Between two prunings only the step changes, which the Trainer counts, so that the state
        is noted once a pruning.
        """

        def __init__(self, pruner: Gradual) -> None:
            self.pruner = pruner

        def __reduce__(self) -> Any:
            return transformers_callback, (self.pruner,)

        def on_train_begin(self, args: Any, state: Any, control: Any, *, model: nn.Module, **others: Any) -> None:
            check_same(self.pruner, model, "model")
            if KEY in state.stateful_callbacks:
                _load(self.pruner, state.stateful_callbacks[KEY]["attributes"], state.global_step)
            elif state.global_step and self.pruner.schedule is not None:
                raise TombolaError(
                    f"the checkpoint of step {state.global_step} was written without this Gradual, whose schedule "
                    "starts at 0; train from the beginning, or load the checkpoint's weights into the model alone"
                )
            self.pruner.agree()
            self._note(state)

        def on_step_end(
            self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any = None, **others: Any
        ) -> None:
            optimizers = [] if optimizer is None else [optimizer]
            if self.pruner.step(*optimizers):
                self._note(state)

        def _note(self, state: Any) -> None:
            attributes = {"at": state.global_step, **_as_json(self.pruner.state_dict())}
            state.stateful_callbacks[KEY] = {"args": {}, "attributes": attributes}

    return GradualCallback


def _as_json(state: Mapping[str, Any]) -> dict[str, Any]:
    return {**state, "masks": as_texts(state["masks"])}


def _load(pruner: Gradual, saved: Mapping[str, Any], now: int) -> None:
    """Put the state back that was noted at an earlier step of the Trainer, as it was at this one."""
    steps = saved["steps"] + now - saved["at"]
    pruner.load_state_dict({**saved, "masks": from_texts(saved["masks"]), "steps": steps})
