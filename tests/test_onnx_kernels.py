"""Deployed networks in ONNX Runtime with their kernels: the same bits, several threads, mistakes as errors."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tombola as tb
from clocks import NATIVE
from deployed_networks import thinned
from tombola.deploy.c.link import linker
from tombola.deploy.c.onnx import export_operators
from tombola.deploy.deploy import Deployed
from tombola.errors import TombolaError

pytestmark = pytest.mark.skipif(linker() is None, reason="no linker here")


@pytest.fixture(autouse=True)
def _packages() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")


class Mixed(nn.Module):
    """Three regions, with what no kernel runs between them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.cumsum(F.relu(self.a(x)), 1)
        return self.c(torch.sin(self.b(z) + y)), z


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5)
    return thinned(nn.Sequential(*layers))


def session_of(folder: Path, content: bytes | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(folder / "libnetwork_kernels.so"))
    model = str(folder / "network-kernels.onnx") if content is None else content
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Deployed, Path]:
    """A network that is one region, by chunks of images on two threads."""
    pytest.importorskip("onnxscript")
    folder, x = tmp_path_factory.mktemp("operators"), torch.randn(16, 2, 8, 8)
    fast = tb.deploy(convolutions(), x, threads=2, clock=NATIVE)
    found = export_operators(fast, (x,), folder)
    assert {name: (one["format"], one["error"], one["batch"]) for name, one in found.items()} == dict.fromkeys(
        ["network-kernels.onnx", "libnetwork_kernels.so"], ("onnx_kernels", 0.0, None)
    )
    return fast, folder


def test_outputs_are_the_deployed_networks_to_the_bit(written: tuple[Deployed, Path]) -> None:
    fast, folder = written
    session = session_of(folder)
    for batch in (1, 5, 33, 0):
        x = torch.randn(batch, 2, 8, 8)
        (have,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert torch.equal(torch.from_numpy(have).view(torch.int32), fast(x).view(torch.int32))


def test_several_threads_run_one_session(written: tuple[Deployed, Path]) -> None:
    fast, folder = written
    session = session_of(folder)
    name = session.get_inputs()[0].name
    inputs = [torch.randn(7, 2, 8, 8) for _ in range(4)]

    def run(x: Tensor) -> list[Tensor]:
        return [torch.from_numpy(session.run(None, {name: x.numpy()})[0]) for _ in range(50)]

    with ThreadPoolExecutor(4) as pool:
        for x, found in zip(inputs, pool.map(run, inputs), strict=True):
            want = fast(x)
            assert all(torch.equal(want, have) for have in found)


def test_other_operators_stand_between_regions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(4, 6), torch.randn(4, 4)
    fast = tb.deploy(Mixed().eval(), x, y, threads=1, clock=NATIVE)
    assert len(fast.plan.parts) == 3
    found = export_operators(fast, (x, y), tmp_path)
    assert found["network-kernels.onnx"]["error"] <= 1e-5
    session = session_of(tmp_path)
    x, y = torch.randn(9, 6), torch.randn(9, 4)
    names = [one.name for one in session.get_inputs()]
    have = session.run(None, {names[0]: x.numpy(), names[1]: y.numpy()})
    for a, b in zip(fast(x, y), have, strict=True):
        torch.testing.assert_close(a, torch.from_numpy(b))


def node(threads: int, *axes: str | int) -> bytes:
    """An ONNX file of the operator alone, that leaves its inputs to it."""
    import onnx

    one = onnx.helper.make_node("network_0", ["x"], ["y"], domain="tombola.network", threads=threads)
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", axes), ("y", ("n", 5)))
    ]
    graph = onnx.helper.make_graph([one], "graph", ends[:1], ends[1:])
    domains = [onnx.helper.make_opsetid("tombola.network", 1)]
    content: bytes = onnx.helper.make_model(graph, opset_imports=domains, ir_version=9).SerializeToString()
    return content


def test_mistakes_are_errors_of_onnx_runtime(written: tuple[Deployed, Path]) -> None:
    fast, folder = written
    for threads in (0, 3):
        with pytest.raises(Exception, match="the number of threads is not 1 to 2"):
            session_of(folder, node(threads, "n", 2, 8, 8))
    session = session_of(folder, node(1, "n", "c", "h", "w"))
    x = torch.randn(3, 2, 8, 8)
    assert torch.equal(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), fast(x))
    with pytest.raises(Exception, match=r"an input is not of shape \(batch, 2, 8, 8\)"):
        session.run(None, {"x": torch.randn(3, 2, 8, 9).numpy()})
    session = session_of(folder, node(1, "n", "c"))
    with pytest.raises(Exception, match=r"an input is not of shape \(batch, 2, 8, 8\)"):
        session.run(None, {"x": torch.randn(3, 128).numpy()})


def test_what_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 6)
    plain = tb.deploy(nn.Sequential(nn.Softmax(1)).eval(), x, threads=1, clock=NATIVE)
    with pytest.raises(TombolaError, match="nothing of the network runs in native kernels; deploy with kernels_only"):
        export_operators(plain, (x,), tmp_path / "out")
    with pytest.raises(TombolaError, match="small letters, digits and underscores"):
        export_operators(plain, (x,), tmp_path / "out", "../out")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(TombolaError, match="no linker"):
        export_operators(plain, (x,), tmp_path / "out")
    assert not (tmp_path / "out").exists()
