"""Exports of a compacted network: written whole, checked by running them, refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from tombola.compact import compact
from tombola.errors import TombolaError
from tombola.models.registry import build_network
from tombola.nn.binary import BinaryActivation, use_binary_layers_
from tombola.runtime import export as exports
from tombola.runtime.export import check_formats, export, to_onnx


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )
    with torch.no_grad():
        model[0].weight[1] = 0
    return model.eval()


def test_every_format_gives_the_network_back(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, x = network(), torch.randn(2, 1, 8, 8)
    small = compact(model, x).module
    found = export(small, (x,), tmp_path / "out")
    assert {name: one["format"] for name, one in found.items()} == {
        "network.onnx": "onnx",
        "network.safetensors": "state_dict",
        "network.pt2": "torch",
    }
    assert {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()} == {
        name: one["bytes"] for name, one in found.items()
    }
    assert found["network.onnx"]["error"] <= 1e-5
    assert found["network.pt2"]["error"] <= 1e-5
    state = safetensors.torch.load_file(tmp_path / "out" / "network.safetensors")
    assert state["0.weight"].shape == (3, 1, 3, 3)
    again = torch.export.load(tmp_path / "out" / "network.pt2").module()
    y = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(again(y), model(y))


@pytest.mark.parametrize("name", ["resnet-20", "lenet-300-100"])
def test_networks_round_trip_through_onnx(name: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    x = torch.randn(1, 3, 8, 8)
    model = build_network(name, input_shape=(3, 8, 8), classes=4).eval()
    _, error = to_onnx(compact(model, x).module, (x,))
    assert error <= 1e-4


def test_binary_networks_round_trip_through_onnx() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = nn.Sequential(nn.Linear(6, 8), BinaryActivation(), nn.Linear(8, 3))
    with torch.no_grad():
        model[2].weight.copy_(0.5 * torch.sign(model[2].weight))
    use_binary_layers_(model, ["2.weight"])
    x = torch.randn(4, 6)
    assert to_onnx(compact(model.eval(), x).module, (x,))[1] <= 1e-5


def test_nothing_is_written_when_a_format_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(TombolaError, match="unknown format 'tflite'; allowed: onnx, state_dict, torch"):
        export(network(), (torch.zeros(1, 1, 8, 8),), tmp_path / "out", ["state_dict", "tflite"])

    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(TombolaError, match=r"cannot be written as torch\.export"):
        export(Branching(), (torch.ones(2, 2),), tmp_path / "out", ["state_dict", "torch"])
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "find_spec", lambda name: None)
    with pytest.raises(TombolaError, match=r"pip install 'tombola\[onnx\]'"):
        check_formats(["onnx"])
    check_formats(["torch", "state_dict"])
