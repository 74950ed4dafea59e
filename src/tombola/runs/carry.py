"""A finished run is reused, any other is carried out: nothing is checked, built or locked for a finished one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola.machine.ranks import ALONE, Ranks
from tombola.runs.atomic import check_folder
from tombola.runs.directory import Run, canonical, content_name, open_run
from tombola.runs.integrity import RUN, Damaged, misfits, read_record
from tombola.runs.stage import RESULT, Stage

if TYPE_CHECKING:
    from tombola.runs.progress import Progress


_MAX_LABEL = 150  # characters of a label; the hash after it distinguishes two with one beginning


@dataclass(frozen=True)
class Order:
    """Which run, under which folder; the fields are those of `open_run`."""

    parent: Path
    label: str
    kind: str
    machine: Mapping[str, Any]
    force: bool = False
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        # it contains names of networks, data and methods, which may hold any character
        object.__setattr__(self, "label", re.sub(r"[^\w.-]+", "_", self.label)[:_MAX_LABEL])

    def directory(self, config: Mapping[str, Any]) -> Path:
        """The directory of the run of a configuration."""
        return self.parent / content_name(self.label, config)

    def open(self, config: Mapping[str, Any]) -> Run:
        """The run of a configuration, made if it is new; see `open_run`."""
        return open_run(**vars(self), config=config)


@dataclass(frozen=True)
class Done:
    """A finished run. `reused`: it was finished before, so that nothing was trained."""

    directory: Path
    result: dict[str, Any]
    reused: bool

    @property
    def about(self) -> dict[str, Any]:
        """The run's directory, and whether it was reused."""
        return {"run": str(self.directory), "reused": self.reused}


def check_out(parent: Path, ranks: Ranks = ALONE) -> None:
    """`check_folder` before the data are read, unless there may be a finished run: `carry_out` looks for it first."""
    ranks.first(lambda: _check_out(parent))


def _check_out(parent: Path) -> None:
    if "\0" in str(parent) or not any(parent.glob(f"*/{RESULT}")):
        check_folder(parent)


def carry_out(
    order: Order,
    describe: Callable[[], Mapping[str, Any]],
    check: Callable[[], None],
    work: Callable[[Path], Mapping[str, Any]],
    progress: Progress,
) -> Done:
    """The finished run of a configuration: reused, or carried out now; of several ranks, by all of them.

    Args:
        describe: gives the configuration, as for `open_run`; the data may have to be read for it.
        check: raises for every mistake that shows before anything is written; not called for a finished run.
        work: computes the result, in the run's directory.
        progress: shows the check.

    Raises:
        RunError: as `open_run`.
    """
    ranks = order.ranks
    may_exist = ranks.first(lambda: _may_exist(order))
    if not may_exist:
        ranks.first(lambda: check_folder(order.parent))
        _checked(check, progress)  # before the data is read to its end
    config = describe()
    check_alike(canonical(config), ranks)
    if may_exist:
        if (result := ranks.first(lambda: finished(order.directory(config), config))) is not None:
            return Done(order.directory(config), result, reused=True)
        ranks.first(lambda: check_folder(order.parent))
        _checked(check, progress)
    with order.open(config) as run:
        reused, result = True, run.recovered()
        if result is None:
            run.finish(work(run.directory))
            reused, result = False, run.result()
    assert result is not None
    return Done(run.directory, result, reused=reused)


def check_alike(asked: str, ranks: Ranks) -> None:
    """TombolaError unless all ranks were asked for the same."""
    ranks.agree(
        asked, "the processes were asked for different runs; start all of them by one command, on the same data"
    )


def _may_exist(order: Order) -> bool:
    """Whether there may be a finished run of this label."""
    return any((reused / RESULT).is_file() for reused in order.parent.glob(f"{order.label}-*"))


def _checked(check: Callable[[], None], progress: Progress) -> None:
    with progress.track("checking that everything fits", None):
        check()


def finished(directory: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of a finished run of exactly this configuration, if all that it kept is as it was written."""
    try:
        described = read_record(directory / RUN)
    except Damaged:
        return None
    if described is None or any(misfits(directory / RUN, described)):
        return None
    if canonical(described.get("config", {})) != canonical(config):
        return None
    return Stage(directory).result()
