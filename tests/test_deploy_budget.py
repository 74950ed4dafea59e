"""deploy within a time limit: how it is shared, what is left out, and that the network stays the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

import tombola as tb
from clocks import NATIVE, InOrder
from tombola.bench import timing
from tombola.deploy.budget import NO_LIMIT, Budget
from tombola.deploy.kernels.sparse.candidates import guess
from tombola.deploy.kernels.sparse.tune import measure
from tombola.deploy.ops import Conv, Region
from tombola.errors import TombolaError


class Slow(InOrder):
    """Every measurement takes a second, and the last of several runs is the fastest; alone they are alike."""

    def __init__(self) -> None:
        self.time = 0.0
        self.sizes: list[int] = []

    def fastest(self, runs: Sequence[Any], *, seconds: float, rounds: int) -> list[float]:
        self.time += 1
        self.sizes.append(len(runs))
        return [1.0 - 0.01 * i for i in range(len(runs))]

    def now(self) -> float:
        return self.time


def zeroed(*layers: nn.Module) -> nn.Module:
    model = nn.Sequential(*layers).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.3)
    return model


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return zeroed(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))


X = torch.randn(8, 2, 12, 12, generator=torch.Generator().manual_seed(0))


def test_a_part_is_the_share_of_what_is_left() -> None:
    clock = Slow()
    budget = Budget(clock, 10.0)
    assert budget.part(1, 4).until == 2.5
    clock.time = 8.0
    assert budget.part(1, 2).until == 9.0
    assert budget.part(3, 1).until == 10.0
    assert not budget.spent
    clock.time = 12.0
    assert budget.spent
    assert budget.part(1, 2).until == 12.0
    assert NO_LIMIT.part(1, 2) is NO_LIMIT
    assert Budget(clock, stop=lambda: True).spent


def test_the_limit_leaves_candidates_untried_and_the_report_says_so(model: nn.Module) -> None:
    short = tb.deploy(model, X, threads=1, clock=Slow(), time_limit=4)
    line = "of 3 of 3 layers not all kernels were tried: give more time (time_limit)"
    assert line in str(short.report).splitlines()
    assert short.report.parts[0].cut == ("0", "2", "4")
    with torch.no_grad():
        torch.testing.assert_close(short(X), model(X))
    again = tb.deploy(model, X, plan=short.plan)
    assert torch.equal(again(X), short(X))
    whole = tb.deploy(model, X, threads=1, clock=Slow(), time_limit=None)
    assert "not all kernels" not in str(whole.report)
    assert whole.plan != short.plan


def test_what_is_stopped_uses_what_was_found(model: nn.Module) -> None:
    clock = Slow()
    stopped = tb.deploy(model, X, threads=1, clock=clock, stop=lambda: True)
    assert clock.time < 8  # one measurement of each layer, and few of the whole
    with torch.no_grad():
        torch.testing.assert_close(stopped(X), model(X))


def region(count: int) -> Region:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 8, 3, 3, generator=draw)
    ops = [Conv(f"l{i}", f"v{i}", f"v{i + 1}", weight * (i + 1), padding=(1, 1)) for i in range(count)]
    return Region({"v0": (8, 9, 9)}, tuple(ops), (f"v{count}",))


def test_layers_that_are_alike_are_tuned_once() -> None:
    few, many = Slow(), Slow()
    measure(region(1), 1, 1, Budget(few))
    found = measure(region(4), 1, 1, Budget(many))
    assert few.time == many.time
    assert len({str(choice) for choice in found.choices.layers.values()}) == 1


def test_a_candidate_that_is_clearly_slower_is_not_timed_again() -> None:
    class Later(Slow):
        """The first candidate takes 1 s, all others 2."""

        def fastest(self, runs: Sequence[Any], *, seconds: float, rounds: int) -> list[float]:
            super().fastest(runs, seconds=seconds, rounds=rounds)
            return [1.0 if self.time == 1 else 2.0] * len(runs)

    clock = Later()
    found = measure(region(1), 1, 1, Budget(clock))
    assert set(clock.sizes) == {1}
    assert found.choices == guess(region(1), 1, 1)
    assert not found.cut


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float, dict[str, int]], Callable[[], None]]:
    """Makes runs that take so many seconds of a time that nothing else passes."""
    time = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: time[0])

    def made(name: str, seconds: float, calls: dict[str, int]) -> Callable[[], None]:
        def run() -> None:
            time[0] += seconds
            calls[name] = calls.get(name, 0) + 1

        return run

    return made


def test_slow_runs_are_called_a_few_times(passing: Any) -> None:
    calls: dict[str, int] = {}
    runs = [passing("fast", 1e-4, calls), passing("near", 1.2e-4, calls), passing("slow", 0.1, calls)]
    assert timing.WallClock().fastest(runs, seconds=1e-3, rounds=12) == pytest.approx([1e-4, 1.2e-4, 0.1])
    assert calls["slow"] == 3
    assert calls["fast"] > 100
    assert calls["near"] > 80


def test_long_runs_have_few_rounds(passing: Any) -> None:
    calls: dict[str, int] = {}
    timing.WallClock().fastest([passing("a", 1.0, calls), passing("b", 1.1, calls)], seconds=1e-3, rounds=12)
    assert calls == {"a": 3, "b": 3}


def test_progress_tells_which_layer_is_looked_at(model: nn.Module) -> None:
    told: list[str] = []

    class Bars:
        @contextmanager
        def track(self, description: str, total: int | None) -> Iterator[Any]:
            told.append(f"{description} {total}")
            yield lambda done, figures=None: told.append(f"{done} {figures()}")

    tb.deploy(model, X, threads=1, clock=NATIVE, progress=Bars())
    assert told[0] == "choosing kernels, s 60"
    assert set(told[1:]) == {"0 0", "0 2", "0 4"}


@pytest.mark.parametrize("limit", [0, -1.0, float("nan")])
def test_a_limit_is_above_0(limit: float) -> None:
    with pytest.raises(TombolaError, match=r"time_limit is .*; give seconds above 0, or None"):
        tb.deploy(nn.Linear(4, 2), torch.randn(2, 4), time_limit=limit)
