"""The dense engines beside a deployed network: same outputs, honest counts, honest words."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tombola.bench import engines
from tombola.bench.bench import DEPLOYED, Speedup, bench, flop_counts, quartiles
from tombola.bench.engines import DENSE, ENGINES, INT8, REDUCED, Missing, Workload
from tombola.bench.int8 import quantised
from tombola.bench.timing import WallClock
from tombola.errors import TombolaError
from tombola.nn.flops import flops


class Fixed(nn.Module):
    """Stands for a deployed network."""

    nbytes = 12

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


def small() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()
    with torch.no_grad():
        model[3].weight[:, ::2] = 0
    return model


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "compiled"])
def test_every_engine_computes_the_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.startswith(("onnxruntime", "openvino")):
        pytest.importorskip(name.partition("-")[0])
    model, x = small(), torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        want = model(x)
        found = ENGINES[name](Workload(model, (x,), 1))()
    first = found if isinstance(found, Tensor) else torch.as_tensor(found[0])  # type: ignore[index]
    close = {"rtol": 3e-2, "atol": 3e-2} if name in (*REDUCED, INT8) else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(first.float(), want, **close)


def test_half_precision_is_no_baseline() -> None:
    assert set(REDUCED) < set(ENGINES)
    assert not set(REDUCED) & set(DENSE)
    model, x = small(), torch.randn(1, 3, 8, 8)
    ways = ("channels-last-bf16", "eager")
    found = bench(model, {1: Fixed(model)}, {1: (x,)}, threads=1, engines=ways, rounds=1)
    assert found.timings[0].median is not None
    assert [gain.baseline for gain in found.gains] == ["eager"]


def test_int8_rounds_weights_and_activations() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    layer, root = nn.Linear(64, 32, bias=False).eval(), logging.getLogger()
    work, before = Workload(layer, (torch.linspace(-1, 1, 64)[None],), 1), (root.level, root.handlers[:])
    content = quantised(work.onnx, [x.numpy() for x in work.inputs])
    assert (root.level, root.handlers) == before
    assert len(content) < len(work.onnx) - 2 * layer.weight.numel()
    found = torch.as_tensor(ENGINES[INT8](work)()[0])  # type: ignore[index]
    # to the nearest of 256 levels over the range of inputs and outputs, of 127 over that of a row's weights
    with torch.inference_mode():
        want = layer(work.inputs[0])
        inputs = (1 / 255) * layer.weight.abs().sum(1)
        weights = (0.5 / 63) * layer.weight.abs().amax(1) * work.inputs[0].abs().sum()
        outputs = (want.amax() - want.amin()) / 255
    assert bool(((found - want).abs() <= 1.01 * (inputs + weights + outputs)).all())
    assert not torch.equal(found, want)


def test_what_cannot_be_quantised_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")

    def fails(*given: object) -> None:
        raise ValueError("no such operation")

    monkeypatch.setattr(engines, "quantised", fails)
    with pytest.raises(Missing, match="no int8 of it: ValueError"):
        ENGINES[INT8](Workload(nn.Linear(2, 2).eval(), (torch.zeros(1, 2),), 1))


def test_autocast_computes_in_bfloat16() -> None:
    layer = nn.Linear(2, 1, bias=False).eval()
    with torch.inference_mode():
        layer.weight.copy_(torch.tensor([[1.0, 1 + 2**-12]]))  # the second rounds to 1
        found = ENGINES["channels-last-bf16"](Workload(layer, (torch.tensor([[-1.0, 1.0]]),), 1))()
    assert isinstance(found, Tensor)
    assert found.item() == 0


def test_csr_keeps_bias_strides_and_further_dimensions() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False)).eval()
    x = torch.randn(2, 5, 3)
    with torch.inference_mode():
        torch.testing.assert_close(ENGINES["torch-csr"](Workload(model, (x,), 1))(), model(x))


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(engines.importlib, "import_module", absent)
    with pytest.raises(Missing, match="not installed"):
        ENGINES["openvino"](Workload(small(), (torch.zeros(1, 3, 8, 8),), 1))
    x = torch.randn(1, 3, 8, 8)
    found = bench(small(), {1: Fixed(small())}, {1: (x,)}, threads=1, engines=("openvino", "eager"), rounds=1)
    assert [time.missing for time in found.timings] == ["not installed", None, None]
    assert found.gains[0].baseline == "eager"
    assert found.as_dict()["timings"][0]["median"] is None


def test_without_images_there_are_no_channels() -> None:
    with pytest.raises(Missing, match="no images"):
        ENGINES["channels-last"](Workload(nn.Linear(2, 2), (torch.zeros(1, 2),), 1))


def test_flops_by_hand() -> None:
    # conv: 4 outputs x 16 positions x 27 weights; linear: 5 x 64, half of it zeros; 2 for each
    dense, kept = flop_counts(small(), [torch.zeros(7, 3, 8, 8)])
    assert dense == 2 * (4 * 16 * 27 + 5 * 64)
    assert kept == 2 * (4 * 16 * 27 + 5 * 32)


def test_counting_sets_no_hooks_on_other_modules() -> None:
    seen: list[bool] = []
    model = small().append(Looks(seen))
    counts = flops(model, [torch.zeros(1, 3, 8, 8)])
    assert seen == [False]
    assert counts[""] == sum(counts[name] for name, one in model.named_modules() if name and hasattr(one, "weight"))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Looks(nn.Module):
    """Notes whether hooks are set for all modules."""

    def __init__(self, seen: list[bool]) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, x: Tensor) -> Tensor:
        known = nn.modules.module
        self.seen.append(bool(known._global_forward_pre_hooks or known._global_forward_hooks))
        return x


def test_bench_counts_bytes_and_restores_the_threads() -> None:
    model, before = small(), torch.get_num_threads()
    x = torch.randn(1, 3, 8, 8)
    found = bench(model, {1: Fixed(model)}, {1: (x,)}, threads=1, engines=("eager",), rounds=2, ticket_bytes=9)
    assert found.bytes == {
        "dense": 4 * sum(p.numel() for p in model.parameters()),
        "deployed for batch 1": 12,
        "ticket": 9,
    }
    assert [time.engine for time in found.timings] == ["eager", DEPLOYED]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [({"engines": ("abacus",)}, "unknown engine .abacus.; allowed: eager"), ({"rounds": 0}, "rounds is 0; give 1 to")],
)
def test_mistakes_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(TombolaError, match=words):
        bench(small(), {}, {}, threads=1, **options)  # type: ignore[arg-type]


def test_measure_alternates() -> None:
    order: list[str] = []

    def run(name: str) -> Callable[[], None]:
        def body() -> None:
            if order[-1:] != [name]:
                order.append(name)
            torch.randn(300, 300) @ torch.randn(300, 300)

        return body

    times = WallClock(1e-4, 0.0).measure({"a": run("a"), "b": run("b")}, rounds=2, threads=1)
    assert order[-4:] == ["a", "b", "a", "b"]
    assert {name: len(rounds) for name, rounds in times.items()} == {"a": 2, "b": 2}


def test_no_gain_is_said() -> None:
    assert str(Speedup(1, "eager", 1.01, 0.9, 1.1)) == "batch 1: no gain, 1.01 times as fast as eager"
    assert str(Speedup(64, "openvino", 2.5, 2.25, 2.75)) == "batch 64: 2.50 times as fast as openvino (2.25 to 2.75)"


def test_quartiles() -> None:
    assert quartiles([3.0]) == (3, 3, 3)
    assert quartiles([1.0, 2, 3, 4, 5]) == (2, 3, 4)


def test_timing_says_nothing_where_there_is_a_cuda_toolkit_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    names = ("torch.utils.cpp_extension", "torch.utils.benchmark", "tombola.bench.timing")
    for name in [name for name in sys.modules if name.startswith(names)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("torch.utils.cpp_extension", raising=False)
    monkeypatch.setattr(logging.getLogger("torch"), "propagate", True)
    importlib.import_module("tombola.bench.timing")
    assert "torch.utils.cpp_extension" in sys.modules  # it was imported anew
    assert not caplog.records
