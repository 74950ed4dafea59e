"""A run found finished, or else carried out: nothing is checked, built or locked for what is there already."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola.runs.atomic import check_folder
from tombola.runs.directory import Run, canonical, content_name, open_run
from tombola.runs.integrity import RUN, Damaged, misfits, read_record
from tombola.runs.stage import RESULT, Stage

if TYPE_CHECKING:
    from tombola.runs.progress import Progress


_LONGEST = 150  # characters of a label; the hash behind it tells two of one beginning apart


@dataclass(frozen=True)
class Order:
    """Which run, under which folder; the fields are those of `open_run`."""

    parent: Path
    label: str
    kind: str
    machine: Mapping[str, Any]
    force: bool = False

    def __post_init__(self) -> None:
        # names of networks, data and methods go in, which may hold anything
        object.__setattr__(self, "label", re.sub(r"[^\w.-]+", "_", self.label)[:_LONGEST])

    def directory(self, config: Mapping[str, Any]) -> Path:
        """The directory of the run of a configuration."""
        return self.parent / content_name(self.label, config)

    def open(self, config: Mapping[str, Any]) -> Run:
        """The run of a configuration, made if it is new; see `open_run`."""
        return open_run(**vars(self), config=config)


@dataclass(frozen=True)
class Done:
    """A finished run. `reused`: it was found finished, so that nothing was trained."""

    directory: Path
    result: dict[str, Any]
    reused: bool

    @property
    def about(self) -> dict[str, Any]:
        """What a caller wants to know of the run besides its result."""
        return {"run": str(self.directory), "reused": self.reused}


def check_out(parent: Path) -> None:
    """`check_folder` before the data are read; a finished run among others is looked for first, by `carry_out`."""
    if "\0" in str(parent) or not any(parent.glob(f"*/{RESULT}")):
        check_folder(parent)


def carry_out(
    order: Order,
    describe: Callable[[], Mapping[str, Any]],
    check: Callable[[], None],
    work: Callable[[Path], Mapping[str, Any]],
    progress: Progress,
) -> Done:
    """The finished run of a configuration: found, or carried out now.

    Args:
        describe: gives the configuration, as for `open_run`; the data may have to be read for it.
        check: meets every mistake that can be met before anything is written; a finished run needs none.
        work: computes the result, in the run's directory.
        progress: shows that something is checked.

    Raises:
        RunError: as `open_run`.
    """
    candidates = order.parent.glob(f"{order.label}-*")
    might_be_there = any((found / RESULT).is_file() for found in candidates)
    if not might_be_there:
        check_folder(order.parent)
        _checked(check, progress)  # before the data is read to its end
    config = describe()
    if might_be_there:
        if (result := _finished(order.directory(config), config)) is not None:
            return Done(order.directory(config), result, reused=True)
        check_folder(order.parent)
        _checked(check, progress)
    with order.open(config) as run:
        found, result = True, run.found()
        if result is None:
            run.finish(work(run.directory))
            found, result = False, run.result()
    assert result is not None
    return Done(run.directory, result, reused=found)


def _checked(check: Callable[[], None], progress: Progress) -> None:
    with progress.track("checking that everything fits", None):
        check()


def _finished(directory: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
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
