"""What a budget asks of a pruned network: accuracy that stays, times as fast, bytes of its file."""

from __future__ import annotations

import re
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from tombola.bench.bench import prepare
from tombola.bench.engines import ENGINES, Run, Workload
from tombola.bench.timing import Clock
from tombola.deploy.deploy import deploy
from tombola.errors import TombolaError
from tombola.formats import count, multiple, number
from tombola.machine.cores import held_to_cores
from tombola.names import check_known
from tombola.prune.pruned import Pruned
from tombola.prune.validation import Validation
from tombola.runs.jobs import limit_threads
from tombola.ticket.origin import NetworkSpec
from tombola.ticket.rounding import Values
from tombola.ticket.tensors import tensors_of, ties

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_ROUNDS = 5


class Goal(Protocol):
    """One budget. `sparser_helps`: whether it is met at low densities, and not at high ones."""

    sparser_helps: bool

    def value(self, pruned: Pruned) -> float:
        """What a pruned network has of what the budget speaks of."""
        ...

    def short(self, value: float) -> float:
        """How far a value is from meeting the budget; at most 0 where it does."""
        ...

    def words(self, value: float) -> str:
        """A value in words."""
        ...


@dataclass(frozen=True, eq=False)
class KeepAccuracy:
    """At most so many points of accuracy are lost on the validation data."""

    points: float
    validation: Validation
    before: float
    sparser_helps = False

    def value(self, pruned: Pruned) -> float:
        """Points lost."""
        return 100 * (self.before - self.validation.of(pruned.model))

    def short(self, value: float) -> float:
        return value - self.points - 1e-9  # of float64's rounding

    def words(self, value: float) -> str:
        return f"{number(abs(value), 2)} points of accuracy {'gained' if value < 0 else 'lost'}"


@dataclass(frozen=True, eq=False)
class Faster:
    """At least so many times as fast as an engine runs the dense network, on this machine and this example."""

    times: float
    dense: Run
    example: Sequence[Tensor]
    threads: int
    engine: str
    clock: Clock
    sparser_helps = True

    def value(self, pruned: Pruned) -> float:
        """The median over rounds of the engine's time over the deployed network's."""
        fast = deploy(
            pruned.model, *self.example, threads=self.threads, keep_compacted=False, engines=(), clock=self.clock
        )
        with limit_threads(self.threads, exclusive=True), torch.inference_mode():
            both: dict[str, Run] = {self.engine: self.dense, "deployed": partial(fast, *self.example)}
            seconds = self.clock.measure(both, rounds=_ROUNDS, threads=self.threads)
        ratios = [a / b for a, b in zip(seconds[self.engine], seconds["deployed"], strict=True)]
        return statistics.median(ratios)

    def short(self, value: float) -> float:
        return self.times - value

    def words(self, value: float) -> str:
        return f"{multiple(value)} as fast as {self.engine}"


@dataclass(frozen=True, eq=False)
class FileSize:
    """A ticket's file of at most so many bytes; `values`: of kept weights, as `Ticket.save` takes it.

    `network`: what the ticket says it is built by.
    """

    bytes: int
    values: Values | None = None
    network: NetworkSpec | None = None
    sparser_helps = True

    def value(self, pruned: Pruned) -> float:
        """Bytes of the file that `pruned.ticket()` saves."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "pruned.ticket")
            pruned.ticket(network=self.network).save(file, self.values)
            return file.stat().st_size

    def short(self, value: float) -> float:
        return value - self.bytes

    def words(self, value: float) -> str:
        return f"{count(value)} bytes"


def bytes_of(size: int | str, whole: int) -> int:
    """A size as a number of bytes, or as text such as 5MB (10^6), 5MiB (2^20) or 5% of `whole` bytes.

    >>> bytes_of("5MB", 0), bytes_of("1.5 KiB", 0), bytes_of(900, 0), bytes_of("12.5%", 1000)
    (5000000, 1536, 900, 125)

    Raises:
        TombolaError: it is neither, or below 1.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*|%)\s*", str(size))
    unit = None if match is None else whole / 100 if match[2] == "%" else _UNITS.get(match[2].lower() or "b")
    if match is None or unit is None or float(match[1]) * unit < 1:
        raise TombolaError(
            f"file is {size!r}; give a size such as 5MB, 300kB or 1.5GiB, bytes, or 25% of those of the network"
        )
    return int(float(match[1]) * unit)


def dense_bytes(model: nn.Module) -> int:
    """Bytes of all tensors of a network, as a checkpoint holds them: those that are tied once."""
    state = tensors_of(model)
    aliases = ties(state)
    return sum(value.nbytes for name, value in state.items() if name not in aliases)


def faster(
    times: float, model: nn.Module, example: Sequence[Tensor], threads: int | None, engine: str, clock: Clock
) -> Faster:
    """The budget of a network in eval mode, its threads held to the cores there are.

    Raises:
        TombolaError: an unknown engine, or one that cannot run here.
    """
    check_known("engine", engine, ENGINES)
    count = held_to_cores("threads", torch.get_num_threads() if threads is None else threads)
    with limit_threads(count, exclusive=True), torch.inference_mode():
        runs, missing = prepare(Workload(model, tuple(example), count), [engine])
    if missing:
        raise TombolaError(f"engine {engine} cannot run here: {missing[engine]}; compare with eager")
    return Faster(times, runs[engine], example, count, engine, clock)
