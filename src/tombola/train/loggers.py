"""Where training curves go besides their CSV files: anything with init, log and finish (torch-free).

One training is one run of a logger, named by its place in Tombola's run, which is its group: curves of levels and of
replicates lie over one another, and a resumed training goes on with its own, after the last row that was sent.
"""

from __future__ import annotations

import hashlib
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import msgspec

from tombola.errors import TombolaError, in_short, not_installed
from tombola.fields import described
from tombola.names import imported, is_import_path, unknown
from tombola.train.history import Row

PROJECT = "tombola"
_CALLS = ("init", "log", "finish")
_OBJECT = ", or in Python any object with init, log and finish, and its import path"


class Logger(Protocol):
    """What takes one training curve after another; wandb and trackio are such modules."""

    def init(self, *, project: str, name: str, group: str, config: dict[str, Any]) -> Any:
        """A training begins. `name` is its own, `group` that of the run it belongs to."""

    def log(self, figures: dict[str, float], /, *, step: int) -> Any:
        """One evaluation, by the names of metrics.csv; what was not measured (NaN) is left out."""

    def finish(self) -> Any:
        """The training has ended, well or not."""


@dataclass(frozen=True)
class Curve:
    """One training as loggers see it.

    Args:
        run: name of the run it belongs to.
        training: its own name within that run, e.g. "replicate-0/level-1".
        config: what was asked for.
        folder: the run's directory; None in memory.
        resumed: it goes on from a checkpoint.
        sent: the file in which it stands how far each logger has got; None in memory.
    """

    run: str
    training: str
    config: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    resumed: bool = False
    sent: Path | None = None

    @property
    def name(self) -> str:
        """One name for the training among all runs."""
        return f"{self.run}/{self.training}"


Send = Callable[[Row], None]


@contextmanager
def sent(loggers: Sequence[Any], curve: Curve) -> Iterator[Send]:
    """What sends rows to loggers, which begin at the first row and are finished at the end, also of an error.

    A logger that fails in the middle is left out from there, with a warning: training goes on.

    Raises:
        TombolaError: a logger is none, is not installed, or does not begin.
    """
    found = [_found(logger) for logger in loggers]
    names = [f"{number} {_name(start)}" for number, start in enumerate(found)]
    open_now: dict[str, Logger] = {}
    reached = _Reached(curve)

    def send(row: Row) -> None:
        while found:
            name = names[-len(found)]
            open_now[name] = _begun(found.pop(0), curve)
        figures = {name: value for name, value in asdict(row).items() if name != "step" and math.isfinite(value)}
        for name, logger in tuple(open_now.items()):
            if reached.has(name, row.step) and not isinstance(logger, _TensorBoard):
                continue
            if _done(logger, lambda logger=logger: logger.log(figures, step=row.step)):  # type: ignore[misc]
                reached.add(name, row.step)
            else:
                _done(open_now.pop(name), logger.finish)

    try:
        yield send
    finally:
        for logger in open_now.values():
            _done(logger, logger.finish)


class _Reached:
    """The last step that each logger has taken before the training was resumed, kept for when it is again.

    TensorBoard's is of no use: a killed process loses rows that it has taken, and a row that comes again is read once.
    """

    def __init__(self, curve: Curve) -> None:
        self._file = curve.sent
        self._before: dict[str, int] = {}
        if self._file is not None and curve.resumed:
            with suppress(OSError, msgspec.DecodeError):  # cut off by a kill: then rows rather come twice
                self._before = msgspec.json.decode(self._file.read_bytes(), type=dict[str, int])
        self._now = dict(self._before)

    def has(self, name: str, step: int) -> bool:
        """Whether the logger had this row."""
        return step <= self._before.get(name, -1)

    def add(self, name: str, step: int) -> None:
        """The logger has it now."""
        self._now[name] = step
        if self._file is not None:
            with suppress(OSError):
                self._file.write_bytes(msgspec.json.encode(self._now))


def check_loggers(loggers: Sequence[Any]) -> None:
    """TombolaError if one is no logger, or is not installed; nothing is begun."""
    for logger in loggers:
        _found(logger)


def check_picklable(loggers: Sequence[Any], processes: int) -> None:
    """TombolaError if several processes are to send to a live object."""
    live = [logger for logger in loggers if not isinstance(logger, str)]
    if live and processes > 1:
        raise TombolaError(
            f"jobs is {processes}, but several processes need loggers by name, and one is {described(live[0])}; set "
            "jobs to 1"
        )


def _done(logger: Logger, call: Callable[[], Any]) -> bool:
    try:
        with redirect_stdout(sys.stderr):  # stdout is the results' own
            call()
    except Exception as error:  # whatever it does
        warnings.warn(f"logger {_name(logger)} takes no more rows of this training: {in_short(error)}", stacklevel=2)
        return False
    return True


def _begun(start: Callable[[Curve], Logger], curve: Curve) -> Logger:
    try:
        with redirect_stdout(sys.stderr):
            return start(curve)
    except Exception as error:
        raise TombolaError(
            f"logger {_name(start)} does not begin: {in_short(error)}; leave it out of loggers"
        ) from error


def _name(logger: Any) -> str:
    if isinstance(logger, ModuleType):
        return logger.__name__
    known = next((name for name, start in LOGGERS.items() if start is logger), None)
    return known or getattr(logger, "name", None) or type(logger).__name__


def _found(logger: Any) -> Callable[[Curve], Logger]:
    """What begins a training with it."""
    if isinstance(logger, str):
        if logger in LOGGERS:
            _installed(logger)
            return LOGGERS[logger]
        if not is_import_path(logger):
            raise TombolaError(unknown("logger", logger, LOGGERS, _OBJECT))
        logger = imported("logger", logger)
    if isinstance(logger, type):
        raise TombolaError(f"a logger is {described(logger)}; give an object of it")
    lacking = [name for name in _CALLS if not callable(getattr(logger, name, None))]
    if lacking:
        raise TombolaError(f"a logger is {described(logger)}, which has no {lacking[0]}; it needs init, log and finish")
    return _Own(logger)


@dataclass(frozen=True)
class _Own:
    """Begins a training with an object of the user's."""

    logger: Any

    @property
    def name(self) -> str:
        return _name(self.logger)

    def __call__(self, curve: Curve) -> Logger:
        self.logger.init(project=PROJECT, name=curve.name, group=curve.run, config=dict(curve.config))
        logger: Logger = self.logger
        return logger


def _installed(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(_MODULES.get(name, name))
    except ImportError:
        raise not_installed(f"logger {name}", f"tombola[{name}]", "leave it out of loggers") from None


# ---- the loggers known by name: how each begins a training -----------------------------------------------------


def _wandb(curve: Curve) -> Logger:
    # the same name is the same run: one that begins anew is written over, as its CSV file is
    key = hashlib.sha256(str((curve.folder, curve.name)).encode()).hexdigest()[:16] if curve.folder else None
    wandb = _installed("wandb")
    wandb.init(
        project=PROJECT,
        name=curve.name,
        group=curve.run,
        config=dict(curve.config),
        id=key,
        resume="allow" if curve.resumed else None,
        dir=None if curve.folder is None else str(curve.folder),
    )
    logger: Logger = wandb
    return logger


def _trackio(curve: Curve) -> Logger:
    trackio = _installed("trackio")
    trackio.init(
        project=PROJECT,
        name=curve.name,
        group=curve.run,
        config=dict(curve.config),
        resume="allow" if curve.resumed else "never",
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    logger: Logger = trackio
    return logger


class _TensorBoard:
    """TensorBoard's event files as a logger: in the run's directory, or in ./tensorboard."""

    name = "tensorboard"

    def __init__(self, curve: Curve) -> None:
        root = Path() if curve.folder is None else curve.folder
        self._folder = root / "tensorboard" / (curve.training if curve.folder else curve.name)
        self._writer: Any = None

    def init(self, **_: Any) -> None:
        """Nothing: the file is begun with the first row, whose step cuts away what a killed process left behind."""

    def log(self, figures: dict[str, float], *, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = self._writer or SummaryWriter(str(self._folder), purge_step=step)
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.close()


LOGGERS: Mapping[str, Callable[[Curve], Logger]] = {"tensorboard": _TensorBoard, "wandb": _wandb, "trackio": _trackio}
_MODULES = {"tensorboard": "torch.utils.tensorboard"}
