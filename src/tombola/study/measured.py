"""What the studies of one network have alike: what names their runs, what they train with, how results begin."""

from __future__ import annotations

from typing import Any

from tombola.data.splits import Splits
from tombola.plain import as_plain
from tombola.search.describe import describe
from tombola.search.driver import Workspace
from tombola.search.find import replicate_seed, result_fields
from tombola.search.request import Request
from tombola.train.fabric import make_fabric
from tombola.train.options import Options
from tombola.train.recipe import Recipe
from tombola.train.trial import TrainingSetup


def study_config(study: str, request: Request, splits: Splits, plan: Any) -> dict[str, Any]:
    """What the run of a study is named by: its search, and its own options, the fields of `plan`."""
    return {
        **describe(request, splits),
        "study": study,
        "plan": as_plain(plan),
        "seed": request.seed,
        "replicates": request.replicates,
    }


def training_setup(work: Workspace, recipe: Recipe, options: Options) -> TrainingSetup:
    """What a study trains networks with, besides its searches."""
    fabric = make_fabric(options.device, recipe.precision)
    return TrainingSetup(work.splits, recipe, fabric, options, work.progress, directory=work.directory)


def study_fields(request: Request, splits: Splits) -> dict[str, Any]:
    """What the result of a study with replicates says of network, data and seeds, as fields of its record."""
    count = request.replicates
    return {
        **result_fields(request, splits),
        "replicates": count,
        "seeds": tuple(replicate_seed(request.seed, index) for index in range(count)),
    }
