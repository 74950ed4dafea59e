"""Lottery tickets taken apart (Zhou et al. 2019): which weights are kept, what they return to, what the others are.

`run_deconstruction` crosses criteria with kept and pruned actions; `run_untrained` tests masks on weights that nothing
trains. Both prune the same dense networks, which are trained once per replicate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from tombola.fields import checked
from tombola.methods.imp import IterativePruning
from tombola.models.spec import ModelSpec
from tombola.results.comparison import ComparisonResult
from tombola.search.driver import run
from tombola.search.request import Request, make_request
from tombola.study.grid import Grid, GridSearch, MaskGrid, mask_searches_of, searches_of
from tombola.study.grid_study import DENSE, GridStudy
from tombola.study.setting import Arm, check_arms, dense_of
from tombola.train.options import Options
from tombola.train.recipe import Recipe

__all__ = ["run_deconstruction", "run_untrained"]

NOTE = "All arms train by one recipe; its learning rate has not been tuned for each."
DECONSTRUCTED = "What makes a lottery ticket: which weights are kept, what they return to, or what the others are?"
UNTRAINED = "How good is a mask alone, on weights that nothing trains?"
UNTRAINED_NOTE = (
    "Masks are drawn from the trained dense networks, and tested on untrained weights: no weight is trained after the "
    "mask is drawn. Random masks have the same layer densities."
)


@checked
def run_deconstruction(
    grid: Grid,
    model: nn.Module | ModelSpec | str,
    data: Any,
    out: str | Path,
    *,
    pruning: IterativePruning | Mapping[str, Any] | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    seed: int = 0,
    replicates: int = 3,
    options: Options | None = None,
    jobs: int = 1,
) -> ComparisonResult:
    """Search with every combination of the grid `replicates` times, in a run directory under `out`.

    Args:
        grid: the criteria, kept and pruned actions that are crossed.
        pruning: how far and by which rates is pruned; a criterion or action in it gives way to the grid's. None or a
            mapping of fields starts from the preset of imp.
        recipe: how all networks are trained; None or a mapping of fields starts from that preset.
        jobs: processes that share the searches out (model and data given by name).

    Returns:
        An arm "dense", then one for every combination and level, named "large_final / rewind / zero at 32.87 %", of the
        combination's family. Those of the reference are compared with dense, the others with the reference at the same
        level. Stages lie in `<run>/dense/replicate-<r>/` and `<run>/<combination>/replicate-<r>/`.

    Raises:
        TombolaError: a combination cannot work on this network and data; raised before anything is trained.
    """
    request = _request(model, data, pruning, recipe, seed, replicates, options)
    searches = searches_of(grid, _pruning(request), request.recipe)
    return run(
        GridStudy(_dense(request, searches), "deconstruct", tuple(searches), DECONSTRUCTED, NOTE), Path(out), jobs
    )


@checked
def run_untrained(
    grid: MaskGrid,
    model: nn.Module | ModelSpec | str,
    data: Any,
    out: str | Path,
    *,
    pruning: IterativePruning | Mapping[str, Any] | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    seed: int = 0,
    replicates: int = 3,
    options: Options | None = None,
    jobs: int = 1,
) -> ComparisonResult:
    """Draw masks from trained dense networks, and test each on untrained weights, in a run directory under `out`.

    Args:
        grid: criteria and weights that are crossed.
        pruning, recipe, jobs: as of `run_deconstruction`; the recipe trains the dense networks.

    Returns:
        An arm "dense", then one for every criterion, kind of weights and density, named
        "large_final_same_sign / init at 32.87 %"; each is compared with the random mask of the same layer densities on
        the same weights. `chosen` names the arm of every curve that is best on the validation split.

    Raises:
        TombolaError: a search cannot work on this network and data; raised before anything is trained.
    """
    request = _request(model, data, pruning, recipe, seed, replicates, options)
    searches = mask_searches_of(grid, _pruning(request), request.recipe)
    dense = _dense(request, searches)
    study = GridStudy(dense, "untrained", tuple(searches), UNTRAINED, UNTRAINED_NOTE, chooses=True)
    return run(study, Path(out), jobs)


def _request(
    model: nn.Module | ModelSpec | str,
    data: Any,
    pruning: IterativePruning | Mapping[str, Any] | None,
    recipe: Recipe | Mapping[str, Any] | None,
    seed: int,
    replicates: int,
    options: Options | None,
) -> Request:
    method = "imp" if pruning is None else pruning
    return make_request(model, data, method, recipe=recipe, seed=seed, replicates=replicates, options=options)


def _pruning(request: Request) -> IterativePruning:
    assert isinstance(request.method, IterativePruning)
    return request.method


def _dense(request: Request, searches: Sequence[GridSearch]) -> Request:
    """The request of the dense networks; TombolaError if two searches would share a folder, or one lie in theirs."""
    method = dense_of(_pruning(request))
    assert method is not None
    dense = Arm(DENSE, method, request.recipe)
    check_arms([dense, *(search.arm for search in searches)])
    return replace(request, method=dense.method)
