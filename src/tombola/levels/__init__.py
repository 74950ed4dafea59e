"""What methods are made of: a search and its levels, the pruning loop, learned masks, rewinding.

Each name is loaded when it is first used, so that methods are read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from tombola.levels.context import context_of
    from tombola.levels.controller import PressDensity
    from tombola.levels.detector import Detector, Watching
    from tombola.levels.gradient_free import (
        MaskSearch,
        Strategy,
        Terms,
        check_mask_search,
        dry_run_masks,
        search_masks,
    )
    from tombola.levels.hooks import Anneal, FreezeOut, MaskDecay, MaskSum, Phases, Redraw
    from tombola.levels.interpolation import NormInterpolation, check_interpolation
    from tombola.levels.learn import (
        Learning,
        check_learning,
        check_norms,
        fine_tune,
        learn_mask,
        second_recipe,
        tune_norms,
    )
    from tombola.levels.search import Level, Search
    from tombola.levels.stability import WatchMasks
    from tombola.levels.stage import train_dense, train_under
    from tombola.levels.validate import check_evaluations

__all__ = [
    "Anneal",
    "Detector",
    "FreezeOut",
    "Learning",
    "Level",
    "MaskDecay",
    "MaskSearch",
    "MaskSum",
    "NormInterpolation",
    "Phases",
    "PressDensity",
    "Redraw",
    "Search",
    "Strategy",
    "Terms",
    "WatchMasks",
    "Watching",
    "check_evaluations",
    "check_interpolation",
    "check_learning",
    "check_mask_search",
    "check_norms",
    "context_of",
    "dry_run_masks",
    "fine_tune",
    "learn_mask",
    "search_masks",
    "second_recipe",
    "train_dense",
    "train_under",
    "tune_norms",
]

_HOME = {
    "context": ["context_of"],
    "controller": ["PressDensity"],
    "detector": ["Detector", "Watching"],
    "gradient_free": ["MaskSearch", "Strategy", "Terms", "check_mask_search", "dry_run_masks", "search_masks"],
    "hooks": ["Anneal", "FreezeOut", "MaskDecay", "MaskSum", "Phases", "Redraw"],
    "interpolation": ["NormInterpolation", "check_interpolation"],
    "learn": ["Learning", "check_learning", "check_norms", "fine_tune", "learn_mask", "second_recipe", "tune_norms"],
    "search": ["Level", "Search"],
    "stability": ["WatchMasks"],
    "stage": ["train_dense", "train_under"],
    "validate": ["check_evaluations"],
}
if not TYPE_CHECKING:
    __getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs=_HOME)
