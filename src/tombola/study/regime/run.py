"""Which regime does a ticket live in: kept weights, errors and distance of every ticket, and the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from tombola.data.config import DataSpec
from tombola.data.splits import Split, Splits
from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.formats import plural
from tombola.results.codec import recovered
from tombola.results.record import Parameters
from tombola.results.regime import PlacedTicket, RegimeResult
from tombola.search.describe import describe_data, describe_module
from tombola.search.driver import Experiment, Workspace, run, run_in_memory
from tombola.search.request import as_data
from tombola.study.recorded import data_of, recorded_name, recorded_part
from tombola.study.regime.files import Named, each_once, read_tickets, search_of
from tombola.study.regime.measure import measured, wrong_labels
from tombola.study.regime.place import TOLERANCE, placed
from tombola.study.regime.sentence import sentence
from tombola.ticket.ticket import Ticket
from tombola.train.evaluate import Score
from tombola.train.fabric import make_fabric
from tombola.train.options import Options
from tombola.train.recipe import Recipe
from tombola.train.trial import TrainingSetup

__all__ = ["regime"]

Shared = TypeVar("Shared")


@checked
def regime(
    tickets: Sequence[Any] | str | Path | Ticket,
    data: Any = None,
    out: str | Path | None = None,
    *,
    tolerance: float = TOLERANCE,
    model: nn.Module | None = None,
    trusted: Sequence[str] = (),
    options: Options | None = None,
    data_root: str = "data",
    max_weights: int | None = None,
    jobs: int = 1,
) -> RegimeResult:
    """Where each ticket lies: kept weights over n K, training and test error, distance from initialisation, side.

    Nothing is trained. The threshold of a series (the levels of a search, an arm of a comparison, single tickets of one
    network and method) is the fewest kept weights, from dense to sparse, up to which the mean training error is at most
    `tolerance`. A ticket lies above it where its own training error (the mean, where several keep as many) is at most
    that, otherwise below.

    Args:
        tickets: tickets, their files, run directories (all tickets in them), or a folder of runs.
        data: as in `find`; None takes the data set that the first ticket was found on, from `data_root`.
        out: parent of the run directory; None writes nothing.
        tolerance: the training error that counts as nearly 0.
        model: the architecture, for tickets of a user's own model.
        trusted: import prefixes under which tickets may name their network (as in `Ticket.build`).
        max_weights: as in `Ticket.load`.

    Raises:
        TombolaError: no ticket, labels that are no classes, or tickets that were found on other data.

    >>> data = (torch.randn(64, 4), torch.arange(64) % 2)
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> ticket = tb.find(net, (data, data, data), tb.IterativePruning(density=0.25, rounds=1),
    ...                  recipe={"length": "2ep", "batch_size": 32})
    >>> tb.regime(ticket, (data, data, data), model=net).tickets[0].ratio  # 12 kept of 64 examples and 2 outputs
    0.09375
    """
    given: list[Any] = [tickets] if isinstance(tickets, str | Path | Ticket) else list(tickets)
    live = [one for one in given if isinstance(one, Ticket)]
    if live and len(live) < len(given):
        raise TombolaError("tickets and files are mixed; load the files, or save the tickets")
    named = _live(live) if live else read_tickets(given, max_weights=max_weights)
    if not named:
        raise TombolaError("no ticket was given; name tickets, their files, or run directories")
    source = as_data(data, model) if data is not None else data_of(named[0].ticket, data_root)
    asked = Asked(named, source, tolerance, model, tuple(trusted), options or Options(), data is not None)
    return run_regime(asked, None if out is None else Path(out), jobs)


def _live(tickets: Sequence[Ticket]) -> tuple[Named, ...]:
    return each_once([Named(ticket, f"ticket {index}", search_of(ticket)) for index, ticket in enumerate(tickets)])


@dataclass(frozen=True)
class Asked:
    """Tickets to be placed; `data_given`: the data is the caller's, not what the first ticket says."""

    tickets: tuple[Named, ...]
    data: Splits | DataSpec
    tolerance: float = TOLERANCE
    model: nn.Module | None = None
    trusted: tuple[str, ...] = ()
    options: Options = field(default_factory=Options)
    data_given: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise TombolaError(f"tolerance is {self.tolerance}; it must be at least 0 and below 1")

    @property
    def parts(self) -> tuple[Splits | DataSpec | nn.Module, ...]:
        """What other processes need by name."""
        return (self.data,) if self.model is None else (self.data, self.model)


def run_regime(asked: Asked, out: Path | None = None, jobs: int = 1) -> RegimeResult:
    """Place the tickets, in a run directory under `out` if that is given."""
    experiment = _Regime(asked)
    return run_in_memory(experiment, experiment.compute, jobs) if out is None else run(experiment, out, jobs)


@dataclass(frozen=True)
class _Regime(Experiment[Asked, RegimeResult]):
    result = RegimeResult

    def label(self, splits: Splits) -> str:
        return f"regime-{splits.name}"

    def config(self, splits: Splits) -> dict[str, Any]:
        asked = self.request
        described = {} if asked.model is None else {"network": describe_module(asked.model)}
        return {
            "study": "regime",
            "tickets": [
                {"ticket": one.ticket.digest, "series": one.series, "replicate": one.replicate, "level": one.level}
                for one in asked.tickets
            ],
            "data": describe_data(asked.data, splits),
            "task": splits.task.identity,
            "tolerance": asked.tolerance,
            **described,
        }

    def admit(self, work: Workspace) -> None:
        """Refuse labels that are no classes, and tickets of other data."""
        splits = work.splits
        if not splits.task.takes_class_numbers or splits.outputs is None:
            raise TombolaError(
                f"the task of {splits.name} is one of its own, with the metric {splits.task.metric_name}, and the "
                "regime of a ticket is read off its errors; give data of classes without a task"
            )
        if self.request.data_given:
            return
        splits.identify(work.progress.track)
        for one in self.request.tickets:
            found = recorded_part(one.ticket, "data").get("fingerprint")
            if found != splits.fingerprint:
                raise TombolaError(
                    f"{one.shown} was found on other data than {self.request.tickets[0].shown}; place them one after "
                    "the other, or name the data for all of them"
                )

    def check(self, work: Workspace) -> None:
        for one in self.request.tickets:
            self._built(one)

    def _built(self, one: Named) -> nn.Module:
        try:
            return one.ticket.build("final", self.request.model, self.request.trusted)
        except TombolaError as error:
            raise TombolaError(f"{one.shown}: {error}") from None

    def compute(self, work: Workspace) -> RegimeResult:
        splits, asked = work.splits, self.request
        full = len(splits.train) * (splits.outputs or 1)
        measure = partial(self.measure, wrong_labels(asked.data, splits))
        measured = [one for _, one in work.map(measure, range(len(asked.tickets)), "tickets")]
        tickets, thresholds = placed(measured, asked.tolerance, full)
        return RegimeResult(
            data=splits.name,
            model=_shared([recorded_name(one.ticket, "model") for one in asked.tickets]),
            metric=splits.task.metric_name,
            recipe=_shared([one.ticket.recipe for one in asked.tickets]),
            parameters=_shared([_parameters(one.ticket) for one in asked.tickets]),
            replicates=len({one.replicate for one in asked.tickets}),
            examples=len(splits.train),
            outputs=splits.outputs or 1,
            tolerance=asked.tolerance,
            tickets=tickets,
            thresholds=thresholds,
            sentence=sentence(tickets, thresholds, asked.tolerance),
            note=(
                f"n K: {plural(len(splits.train), 'training example')} times {plural(splits.outputs or 1, 'output')}. "
                "Kept weights are those under the mask. The threshold is found from training error alone: from dense "
                "to sparse, the fewest kept weights up to which it is nearly 0. Above it lie the tickets whose own is."
            ),
        )

    def measure(self, wrong: Tensor | None, work: Workspace, index: int) -> PlacedTicket:
        """One ticket's numbers, without its side; a finished stage is found again. `wrong`: see `measured`."""
        one = self.request.tickets[index]
        stage = work.stage(f"ticket-{index:03d}")
        done = recovered(PlacedTicket, stage)
        if done is not None:
            return done
        splits, asked = work.splits, self.request
        network, first = self._built(one), None
        if not one.ticket.origin.omitted:
            first = one.ticket.build("origin", asked.model, asked.trusted)
        setup = TrainingSetup(splits, Recipe(), make_fabric(asked.options.device, "32"), asked.options, work.progress)

        def score(model: nn.Module, split: Split) -> Score:
            return setup.scorer(model.to(setup.fabric.device), split)()

        figures = measured(network, first, splits, wrong, score)
        found = PlacedTicket(
            file=one.shown,
            digest=one.ticket.digest,
            series=one.series,
            replicate=one.replicate,
            level=one.level,
            kept=one.ticket.mask.kept,
            total=one.ticket.mask.total,
            ratio=one.ticket.mask.kept / (len(splits.train) * (splits.outputs or 1)),
            **asdict(figures),
        )
        if stage is not None:
            stage.finish(found.as_dict())
        return found


def _shared(values: Sequence[Shared | None]) -> Shared | None:
    """The value that all have; None where they differ."""
    return values[0] if all(value == values[0] for value in values) else None


def _parameters(ticket: Ticket) -> Parameters | None:
    size = ticket.parameters
    total, prunable = size["total"], size["prunable"]
    return None if total is None or prunable is None else Parameters(total=total, prunable=prunable, left_out=())
