"""deploy: whole networks in ONNX Runtime and OpenVINO, where they are faster and give the same outputs."""

from __future__ import annotations

import copy
import math
import signal
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from apart import run_apart
from clocks import NATIVE, InOrder, Never
from tombola.bench import runtimes
from tombola.deploy.c.passes import passes_of
from tombola.deploy.plan import Plan
from tombola.deploy.whole import EngineModule, WholeReport
from tombola.errors import TombolaError

X = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))


class Fastest(InOrder):
    """One engine is the fastest for the whole network."""

    def __init__(self, name: str) -> None:
        self.name = name

    def measure(
        self, runs: Mapping[Any, Any], *, rounds: int, threads: int, seconds: float | None = None
    ) -> dict[Any, list[float]]:
        if "regions" in runs:
            return {name: [0.001 if name == self.name else 0.002] for name in runs}
        return super().measure(runs, rounds=rounds, threads=threads, seconds=seconds)


def conv(activation: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), activation or nn.Sigmoid(), nn.Flatten(), nn.Linear(64, 5)]
    model = nn.Sequential(*layers).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(torch.rand_like(weight) < 0.4)
    return model


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Tensor], Tensor]], None]:
    """OpenVINO is a function of the first input."""

    def put(run: Callable[[Tensor], Tensor]) -> None:
        def session(content: bytes, threads: int) -> runtimes.Session:
            return lambda inputs: [run(torch.from_numpy(inputs[0])).numpy()]

        whole = import_module("tombola.deploy.whole")  # tombola.deploy is a function too
        monkeypatch.setattr(whole, "RUNTIMES", {**runtimes.RUNTIMES, "openvino": session})
        monkeypatch.setattr("tombola.bench.engines._onnx", lambda work: b"")

    return put


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_faster_engine_runs_the_network(engine: str, tmp_path: Path) -> None:
    pytest.importorskip(engine)
    model = conv()
    fast = tb.deploy(model, X, threads=1, clock=Fastest(engine), engines=[engine])
    whole = fast.report.whole
    assert set(whole.seconds) == {"regions", engine}
    if engine in whole.refused:  # numbers that are not finite get lost in it
        assert whole.engine is None
        assert f"no gain: stay with {runtimes.TITLES[engine]} (1 ms against 2 ms)" in str(fast.report)
        return
    assert (fast.plan.engine, whole.engine) == (engine, engine)
    assert f"the whole network runs in {runtimes.TITLES[engine]}: regions 2 ms, " in str(fast.report)
    with torch.no_grad():
        for x in (X, X[:1], torch.randn(7, 1, 6, 6), X.to(memory_format=torch.channels_last)):
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
        odd = X.clone()
        odd[1] = math.nan
        assert torch.equal(fast(odd).isnan(), model(odd).isnan())
    twin = copy.deepcopy(fast)
    assert torch.equal(twin(X), fast(X))
    fast.plan.save(tmp_path / "plan.json")
    again = tb.deploy(model, X, plan=tmp_path / "plan.json", clock=Never())
    assert again.plan == fast.plan
    assert torch.equal(again(X), fast(X))
    assert "as planned" in str(again.report)


def test_kernels_that_are_faster_stay(stand_in: Any) -> None:
    model = conv()
    stand_in(model)
    fast = tb.deploy(model, X, threads=1, clock=NATIVE, engines="openvino")
    assert fast.plan.engine is None
    assert not isinstance(fast.network, EngineModule)
    assert "the whole network: regions 1e+03 ms, OpenVINO 2e+03 ms" in str(fast.report)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (lambda model: lambda x: model(x.nan_to_num()), "a NaN among its inputs would not come out as in torch"),
        (lambda model: lambda x: model(x) + 0.1, "its outputs differ by"),
    ],
    ids=["nan", "other"],
)
def test_an_engine_that_cannot_stand_for_the_network_is_told_and_not_used(
    wrong: Callable[[nn.Module], Callable[[Tensor], Tensor]], why: str, stand_in: Any
) -> None:
    model = conv()
    stand_in(wrong(model))
    fast = tb.deploy(model, X, threads=1, clock=Fastest("openvino"), engines=["openvino"])
    assert fast.plan.engine is None
    assert "no gain: stay with OpenVINO (1 ms against 2 ms), which is not used here: " + why in str(fast.report)
    with torch.no_grad():
        torch.testing.assert_close(fast(X), model(X), rtol=1e-4, atol=1e-5)


def test_exports_are_of_the_regions(stand_in: Any) -> None:
    model = conv(nn.ReLU())
    stand_in(model)
    fast = tb.deploy(model, X, threads=1, clock=Fastest("openvino"), engines=["openvino"])
    assert isinstance(fast.network, EngineModule)
    assert fast.regions is fast.network.rest
    assert fast.report.exports.startswith("exports: c and onnx_kernels keep")
    assert len(passes_of(fast).passes) == 1


def test_an_engine_that_fails_is_named(stand_in: Any) -> None:
    def fails(x: Tensor) -> Tensor:
        raise RuntimeError("no such operation")

    stand_in(fails)
    fast = tb.deploy(conv(), X, threads=1, clock=NATIVE, engines=["openvino"])
    assert fast.report.whole.seconds == {}
    assert "OpenVINO was not tried: it fails on" in str(fast.report)


def test_what_no_engine_is_tried_for() -> None:
    model = nn.Sequential(nn.Embedding(9, 8), nn.Flatten(), nn.Linear(16, 3)).eval()
    with torch.no_grad():
        model[2].weight[0] = 0
    fast = tb.deploy(model, torch.randint(0, 9, (2, 2)), threads=1, clock=NATIVE, engines=["openvino"])
    assert fast.report.whole == WholeReport(missing={"openvino": "its inputs are not float32 alone"})


def test_unknown_and_missing_engines_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Linear(4, 2), torch.randn(2, 4)
    with pytest.raises(TombolaError, match="unknown engine 'abacus'"):
        tb.deploy(model, x, engines=["abacus"])
    plan = Plan(1, ((2, 4),), (), engine="openvino")
    monkeypatch.setattr("tombola.bench.runtimes.find_spec", lambda name: None)
    with pytest.raises(TombolaError, match=r"OpenVINO is not installed; run pip install 'tombola\[onnx,openvino\]'"):
        tb.deploy(model, x, engines=["openvino"])
    with pytest.raises(TombolaError, match="OpenVINO, in which the plan runs the network, is not installed"):
        tb.deploy(model, x, plan=plan)


def test_the_time_limit_is_kept(stand_in: Any) -> None:
    class Late(InOrder):
        """An hour passes between two looks at the clock."""

        def __init__(self) -> None:
            self.times: Sequence[float] = [0.0]

        def now(self) -> float:
            self.times = [self.times[0] + 3600]
            return self.times[0]

    stand_in(conv())
    fast = tb.deploy(conv(), X, threads=1, clock=Late(), engines=["openvino"])
    assert fast.report.whole.missing == {"openvino": "the time limit was reached before"}


SIGNALLED = """
import gc, os, signal, sys, threading
import torch
import tombola as tb
from tombola.bench.engines import ENGINES, Workload

model, x = torch.nn.Sequential(torch.nn.Linear(4, 4)).eval(), torch.ones(1, 4)
if sys.argv[1] == "deploy":
    held = [tb.deploy(model, x, threads=1, engines=["openvino"])]
else:
    held = [ENGINES[sys.argv[1]](Workload(model, (x,), 1))]
    held[0]()
away = threading.Thread(target=lambda: (held.clear(), gc.collect()))
away.start()
away.join()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs signals")
@pytest.mark.parametrize("way", ["deploy", "onnxruntime", "openvino", "openvino-default"])
def test_signals_are_handled_after_an_engine_ended_on_another_thread(way: str) -> None:
    """OpenVINO leaves the thread that it began on an alternate signal stack that is no longer there."""
    assert "handled" in run_apart(SIGNALLED, way)
