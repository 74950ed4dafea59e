"""A deployed network against the dense engines of the same machine, in one run."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tombola.bench.engines import DENSE, ENGINES, Missing, Run, Workload
from tombola.bench.timing import WALL, Clock
from tombola.errors import TombolaError
from tombola.machine.cores import held_to_cores
from tombola.names import check_known
from tombola.nn.flops import flops
from tombola.runs.jobs import limit_threads

DEPLOYED = "deployed"
MAX_ROUNDS = 10_000


class Fast(Protocol):
    """A network made fast, such as `tombola.deploy` gives: what is compared with the dense engines."""

    @property
    def nbytes(self) -> int:
        """Bytes of all that inference reads."""
        ...

    def __call__(self, *inputs: Tensor) -> object: ...


@dataclass(frozen=True)
class Timing:
    """One engine at one batch size: milliseconds per call over the rounds, or why there are none."""

    engine: str
    batch: int
    median: float | None = None
    low: float | None = None
    """The first quartile."""
    high: float | None = None
    """The third quartile."""
    missing: str | None = None

    def __str__(self) -> str:
        return f"- ({self.missing})" if self.median is None else f"{self.median:.3g} ms"


@dataclass(frozen=True)
class Speedup:
    """A dense engine's time over the deployed network's, at one batch size."""

    batch: int
    baseline: str
    """The dense engine: in a `Benchmark` the one with the smallest median."""
    ratio: float
    """The median over rounds of baseline / deployed."""
    low: float
    high: float
    """The quartiles of the same."""

    def __str__(self) -> str:
        if self.low <= 1:
            return f"batch {self.batch}: no gain, {self.ratio:.2f} times as fast as {self.baseline}"
        return (
            f"batch {self.batch}: {self.ratio:.2f} times as fast as {self.baseline} ({self.low:.2f} to {self.high:.2f})"
        )


@dataclass(frozen=True)
class Benchmark:
    """Times, speedups, FLOPs and bytes.

    `flops`: of the dense network for one example; `kept_flops`: the same, each layer's times the density of its
    weight. `bytes`: of "dense" and "deployed for batch N" weights in memory, and of the "ticket" on disk where there is
    one.
    """

    threads: int
    rounds: int
    timings: tuple[Timing, ...]
    gains: tuple[Speedup, ...]
    flops: int
    kept_flops: int
    bytes: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def check_bench(engines: Sequence[str], rounds: int) -> None:
    """TombolaError: an unknown engine, or no rounds, or more than MAX_ROUNDS."""
    for name in engines:
        check_known("engine", name, ENGINES)
    if not 1 <= rounds <= MAX_ROUNDS:
        raise TombolaError(f"rounds is {rounds}; give 1 to {MAX_ROUNDS:,}")


def bench(
    model: nn.Module,
    deployed: Mapping[int, Fast],
    inputs: Mapping[int, Sequence[Tensor]],
    *,
    threads: int,
    engines: Sequence[str] = tuple(ENGINES),
    rounds: int = 9,
    ticket_bytes: int | None = None,
    clock: Clock = WALL,
) -> Benchmark:
    """Time `model` in every engine, and `deployed`; the engines alternate, and a figure is a median over rounds.

    `model`: the masked network, dense, in eval mode. `deployed`: batch -> the same network deployed for that batch;
    `inputs`: batch -> its inputs, float32 on the CPU. An engine that cannot run is listed with the reason.

    Raises:
        TombolaError: an unknown engine, or no rounds.
    """
    check_bench(engines, rounds)
    threads = held_to_cores("threads", threads)
    timings: list[Timing] = []
    gains: list[Speedup] = []
    with limit_threads(threads, exclusive=True), torch.inference_mode():
        for batch, given in inputs.items():
            work = Workload(model, tuple(given), threads)
            runs, missing = prepare(work, engines)
            runs[DEPLOYED] = partial(deployed[batch], *work.inputs)
            seconds = clock.measure(runs, rounds=rounds, threads=threads)
            timings += [timing(name, batch, seconds, missing) for name in (*engines, DEPLOYED)]
            gains += _gains(batch, seconds)
    first = next(iter(inputs.values()))
    flops, kept = flop_counts(model, first)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    sizes = {"dense": weights, **{f"deployed for batch {batch}": one.nbytes for batch, one in deployed.items()}}
    if ticket_bytes is not None:
        sizes["ticket"] = ticket_bytes
    return Benchmark(threads, rounds, tuple(timings), tuple(gains), flops, kept, sizes)


def prepare(work: Workload, engines: Sequence[str]) -> tuple[dict[str, Run], dict[str, str]]:
    """(engine -> run, engine -> why it cannot), each run tried once."""
    runs: dict[str, Run] = {}
    missing: dict[str, str] = {}
    for name in engines:
        try:
            run = ENGINES[name](work)
            run()
        except Missing as error:
            missing[name] = str(error)
        else:
            runs[name] = run
    return runs, missing


def flop_counts(model: nn.Module, inputs: Sequence[Tensor]) -> tuple[int, int]:
    """(FLOPs of one example, the same with each module's share times the density of its weight); 2 a multiply-add."""
    one = [x[:1] for x in inputs]
    counts = flops(model, one)
    total = counts.get("", 0)
    saved = 0.0
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.numel():
            saved += counts.get(name, 0) * (1 - weight.count_nonzero().item() / weight.numel())
    return total, round(total - saved)


def timing(name: str, batch: int, times: Mapping[str, list[float]], missing: Mapping[str, str]) -> Timing:
    """The quartiles of an engine's seconds per call, or why there are none."""
    if name not in times:
        return Timing(name, batch, missing=missing[name])
    low, median, high = quartiles([1e3 * seconds for seconds in times[name]])
    return Timing(name, batch, median, low, high)


def _gains(batch: int, seconds: Mapping[str, list[float]]) -> Iterator[Speedup]:
    dense = {name: statistics.median(seconds[name]) for name in DENSE if name in seconds}
    if dense:
        baseline = min(dense, key=lambda name: dense[name])
        yield speedup(batch, baseline, seconds[baseline], seconds[DEPLOYED])


def speedup(batch: int, baseline: str, theirs: Sequence[float], ours: Sequence[float]) -> Speedup:
    """Of seconds per call, round by round."""
    low, ratio, high = quartiles([a / b for a, b in zip(theirs, ours, strict=True)])
    return Speedup(batch, baseline, ratio, low, high)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """(first quartile, median, third quartile); of one value three times that."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high
