"""What a search would do, worked out by a dry run: nothing is trained or written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tombola.coverage import Coverage, coverage
from tombola.data.feed import steps_per_epoch
from tombola.data.splits import Splits
from tombola.plain import as_plain
from tombola.runs.carry import check_out
from tombola.runs.progress import show_progress
from tombola.search.driver import Place
from tombola.search.find import place_of_run, validate
from tombola.search.origin import Starts
from tombola.search.request import Request, loaded
from tombola.train.length import steps


@dataclass(frozen=True)
class PlannedSearch:
    """A search that would run: its run, its data, what its network has, iterations per epoch and of one training."""

    request: Request
    place: Place
    splits: Splits
    coverage: Coverage
    epoch: int
    iterations: int

    @property
    def state(self) -> str:
        """finished, can be resumed, or new."""
        return "finished" if self.place.finished else "can be resumed" if self.place.directory.exists() else "new"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        parts = {"train": self.splits.train, "val": self.splits.val, "test": self.splits.test}
        return {
            "run": str(self.place.directory),
            "state": self.state,
            "method": {"name": self.request.method.name, **as_plain(self.request.method)},
            "recipe": as_plain(self.request.recipe),
            "data": {
                "name": self.splits.name,
                **{f"{where}_examples": None if part is None else len(part) for where, part in parts.items()},
                "shape": list(self.splits.input_shape),
                "classes": self.splits.classes,
                "fingerprint": self.splits.fingerprint,
            },
            "parameters": {"total": self.coverage.total, "prunable": self.coverage.prunable},
            "iterations_per_epoch": self.epoch,
            "iterations": self.iterations,
        }


def plan_search(request: Request, out: Path) -> PlannedSearch:
    """What `run_find` would do under `out`, after one step of everything on copies.

    Raises:
        TombolaError: for every mistake that can be met before a search.
    """
    check_out(out)
    with show_progress(request.options.progress) as progress:
        splits = loaded(request.data, progress)
        splits.identify(progress.track)
        starts = Starts()
        validate(request, splits, progress, starts)
        network = starts.of(request, splits, request.seed).network()
    epoch = steps_per_epoch(len(splits.train), request.recipe.batch_size)
    return PlannedSearch(
        request,
        place_of_run(request, splits, out),
        splits,
        coverage(network, request.method.include, request.method.exclude),
        epoch,
        steps(request.recipe.length, epoch),
    )
