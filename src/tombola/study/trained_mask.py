"""A network that a study trained under a mask, kept as a ticket beside its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from tombola.levels.search import level_result
from tombola.mask import Mask
from tombola.results.trial import LevelResult
from tombola.runs.stage import TICKET, Stage
from tombola.ticket.origin import Origin
from tombola.ticket.ticket import Ticket
from tombola.train.trial import Trial


def save_trained(
    stage: Stage,
    trial: Trial,
    mask: Mask,
    name: str,
    *,
    level: int = 0,
    origin: Origin,
    provenance: Mapping[str, Any],
    model: nn.Module | None,
    trusted: Sequence[str],
) -> LevelResult:
    """Save the ticket of a trial that was trained just now, and give its figures; the stage is not finished here.

    Args:
        name: the stage's folder, relative to the run's directory.
        model, trusted: as in `Ticket.build`.
    """
    assert trial.trained is not None
    ticket = Ticket.from_models(
        origin=origin,
        mask=mask,
        final_state=trial.trained.state,
        provenance=provenance,
        model=model,
        trusted=trusted,
    )
    ticket.save(stage.directory / TICKET)
    return level_result(level, mask, trial, name)
