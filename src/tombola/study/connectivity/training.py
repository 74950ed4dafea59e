"""One training of a study of connectivity: from a network at a step, under a mask, kept as a ticket."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from tombola.mask import Mask
from tombola.plain import as_plain
from tombola.results.codec import recovered
from tombola.results.trial import LevelResult
from tombola.runs.stage import Stage
from tombola.runs.versions import versions
from tombola.search.driver import Workspace
from tombola.search.origin import Start
from tombola.study.trained_mask import save_trained
from tombola.ticket.origin import Origin
from tombola.train.hooks import Hook
from tombola.train.trial import TrainingSetup, run_trial


@dataclass(frozen=True)
class Begin:
    """What a training begins with: a network at a step, the mask, and whether it is held (not of a dense network)."""

    network: nn.Module
    mask: Mask
    start: Start
    step: int = 0
    level: int = 0
    held: bool = False


def trained(
    work: Workspace, setup: TrainingSetup, begin: Begin, name: str, *, seed: int, hooks: Sequence[Hook] = ()
) -> LevelResult:
    """One training as a stage, which keeps its network as a ticket; the network given is not changed."""
    stage = Stage(work.folder / name)
    done = recovered(LevelResult, stage)
    if done is not None:
        return done
    model, start = copy.deepcopy(begin.network), begin.start
    trial = run_trial(
        setup,
        model,
        seed=seed,
        label=name,
        mask=begin.mask if begin.held else None,
        start=begin.step,
        hooks=hooks,
        stage=stage,
    )
    result = save_trained(
        stage,
        trial,
        begin.mask,
        name,
        level=begin.level,
        origin=Origin.stored(begin.network, network=start.origin.network, init=start.origin.init),
        provenance={
            "study": "connectivity",
            "recipe": as_plain(setup.recipe),
            "rewound_steps": begin.step,
            "versions": versions(),
        },
        model=start.architecture,
        trusted=start.trusted,
    )
    stage.finish(result.as_dict())
    return result
