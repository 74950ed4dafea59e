"""One mask tried on given weights: as they are, and trained under it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import asdict
from torch import nn

from tombola.mask import Mask
from tombola.results.overlap import MaskTrial
from tombola.runs.stage import Stage
from tombola.search.origin import Start
from tombola.study.trained_mask import save_trained
from tombola.train.trial import TrainingSetup, run_trial


def mask_trial(
    setup: TrainingSetup,
    start: Start,
    mask: Mask,
    stage: Stage,
    name: str,
    *,
    held: bool,
    seed: int,
    label: str,
    provenance: Mapping[str, Any],
) -> MaskTrial:
    """A mask on the weights of `start`: `untrained`, and trained under it; the stage is finished with the result.

    Args:
        name: the stage's folder, relative to the run's directory.
        held: whether the mask is held in training, which that of a dense network need not be.
    """
    untrained = _untrained(setup, start.network(), mask)
    trial = run_trial(setup, start.network(), seed=seed, label=label, mask=mask if held else None, stage=stage)
    trained = save_trained(
        stage,
        trial,
        mask,
        name,
        origin=start.origin,
        provenance=provenance,
        model=start.architecture,
        trusted=start.trusted,
    )
    result = MaskTrial(**asdict(trained), untrained=untrained)
    stage.finish(result.as_dict())
    return result


def _untrained(setup: TrainingSetup, model: nn.Module, mask: Mask) -> float:
    """The masked network's metric on the test split, no weight having been trained."""
    assert setup.splits.test is not None
    mask.apply_(model)
    model.to(setup.fabric.device)
    return setup.scorer(model, setup.splits.test)().metric
