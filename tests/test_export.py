"""Exports of a compacted network: written whole, checked by running them, refused in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from tombola.compact import compact
from tombola.deploy import export as exports
from tombola.deploy.export import check_formats, export
from tombola.errors import TombolaError
from tombola.models.registry import build_network
from tombola.nn.binary import BinaryActivation, use_binary_layers_


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
def test_networks_round_trip_through_onnx(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    x = torch.randn(1, 3, 8, 8)
    model = build_network(name, input_shape=(3, 8, 8), classes=4).eval()
    (written,) = export(compact(model, x).module, (x,), tmp_path, ["onnx"]).values()
    assert written["error"] <= 1e-4


def test_binary_networks_round_trip_through_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = nn.Sequential(nn.Linear(6, 8), BinaryActivation(), nn.Linear(8, 3))
    with torch.no_grad():
        model[2].weight.copy_(0.5 * torch.sign(model[2].weight))
    use_binary_layers_(model, ["2.weight"])
    x = torch.randn(4, 6)
    (written,) = export(compact(model.eval(), x).module, (x,), tmp_path, ["onnx"]).values()
    assert written["error"] <= 1e-5


def test_nothing_is_written_when_a_format_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(TombolaError, match="unknown format 'tflite'; allowed: onnx, state_dict, torch"):
        export(network(), (torch.zeros(1, 1, 8, 8),), tmp_path / "out", ["state_dict", "tflite"])

    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(TombolaError, match=r"cannot be written as torch\.export"):
        export(Branching(), (torch.ones(2, 2),), tmp_path / "out", ["state_dict", "torch"])
    assert not (tmp_path / "out").exists()


class ByBatch(nn.Module):
    """Another function for a batch of 1."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + (0.5 if x.shape[0] == 1 else 0.0)


class Drawing(nn.Module):
    """Other outputs at every call."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


class BySum(nn.Module):
    """A branch that torch.export may follow one way alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.shape[0] > 3 else -x


WRONG = [(ByBatch(), "torch"), (BySum(), "torch"), (ByBatch(), "onnx"), (BySum(), "onnx"), (Drawing(), "onnx")]


@pytest.mark.parametrize(("model", "form"), WRONG, ids=lambda value: str(value).split("(")[0])
@pytest.mark.parametrize("batch", [1, 4])
def test_an_export_that_would_be_wrong_is_not_written(model: nn.Module, batch: int, form: str, tmp_path: Path) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    with pytest.raises(TombolaError, match="leave this format out") as caught:
        export(model, (torch.ones(batch, 3),), tmp_path / "out", ["state_dict", form])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_torch_program_draws_the_numbers_that_the_network_draws(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    assert export(Drawing(), (torch.ones(4, 3),), tmp_path, ["torch"])["network.pt2"]["error"] == 0
    assert torch.equal(before, torch.get_rng_state())
    found = []
    for network in (Drawing(), torch.export.load(tmp_path / "network.pt2").module()):
        torch.manual_seed(1)
        found.append(network(torch.ones(5, 3)))
    assert torch.equal(*found)


class Counting(nn.Module):
    """Another output at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x * self.count


def test_an_export_of_a_network_with_state_goes_on_as_the_network_does(tmp_path: Path) -> None:
    model = Counting()
    export(model, (torch.ones(4, 3),), tmp_path, ["torch"])
    assert model.count == 0
    again = torch.export.load(tmp_path / "network.pt2").module()
    assert [float(again(torch.ones(1, 3))[0, 0]) for _ in range(2)] == [1, 2]
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    with pytest.raises(TombolaError, match="leave this format out"):
        export(model, (torch.ones(4, 3),), tmp_path, ["onnx"])


class Any2(nn.Module):
    """Takes its inputs as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.layer(inputs[0] + inputs[1])


@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_inputs_that_forward_does_not_name_are_open_too(form: str, tmp_path: Path) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    (one,) = export(Any2(), (torch.randn(4, 3), torch.randn(4, 3)), tmp_path, [form]).values()
    assert one["batch"] is None


def test_what_an_exporter_says_is_plain_and_its_first_cause(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(TombolaError, match="written as ONNX: GuardOnDataDependentSymNode") as caught:
        export(Branching(), (torch.ones(2, 2),), tmp_path / "out", ["onnx"])
    assert str(caught.value).isprintable()


class OneSize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(3, 4).relu() + 1


def test_a_network_of_one_batch_size_is_written_for_it(tmp_path: Path) -> None:
    found = export(OneSize(), (torch.randn(3, 4),), tmp_path, ["torch"])
    assert found["network.pt2"]["batch"] == 3
    x = torch.randn(3, 4)
    assert torch.equal(torch.export.load(tmp_path / "network.pt2").module()(x), x.relu() + 1)
    assert export(network(), (torch.randn(1, 1, 8, 8),), tmp_path, ["torch"])["network.pt2"]["batch"] is None


def test_the_model_is_left_alone_and_its_effective_weights_are_written(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).train()
    prune.random_unstructured(model[0], "weight", 0.5)
    export(model, (torch.randn(2, 3),), tmp_path, ["state_dict", "torch"])
    assert model.training
    state = safetensors.torch.load_file(tmp_path / "network.safetensors")
    assert torch.equal(state["0.weight"], model[0].weight)
    assert set(state) == {"0.weight", "0.bias"}


@pytest.mark.parametrize("taken", ["network.safetensors", "network.pt2"])
def test_files_appear_together_or_not_at_all(tmp_path: Path, taken: str) -> None:
    """Where one cannot get its name, since a folder has it, the other keeps what it held."""
    for name in ("network.safetensors", "network.pt2"):
        (tmp_path / name).write_text("of before")
    (tmp_path / taken).unlink()
    (tmp_path / taken).mkdir()
    with pytest.raises(TombolaError, match=f"cannot write .*{taken}"):
        export(network(), (torch.zeros(1, 1, 8, 8),), tmp_path, ["state_dict", "torch"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.pt2", "network.safetensors"]
    assert [path.read_text() for path in tmp_path.iterdir() if path.is_file()] == ["of before"]


def test_what_an_onnx_file_cannot_hold_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    with monkeypatch.context() as patch:
        patch.setattr(exports, "_ONNX_BYTES", 16)
        with pytest.raises(TombolaError, match="at most 2 GB; leave format onnx out"):
            export(nn.Linear(4, 4).eval(), (torch.zeros(1, 4),), tmp_path, ["onnx"])
    with pytest.raises(TombolaError, match="leave this format out") as caught:
        export(nn.Linear(4, 4).bfloat16().eval(), (torch.zeros(1, 4).bfloat16(),), tmp_path, ["onnx"])
    assert "\n" not in str(caught.value)
    with pytest.raises(TombolaError, match="no tensors"):
        export(network(), (), tmp_path)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)  # as Python itself notes that a module is not to be had
    with pytest.raises(
        TombolaError, match=r"^onnx is not installed; run pip install 'tombola\[onnx\]', or leave format onnx out$"
    ):
        check_formats(["onnx"])
    check_formats(["torch", "state_dict"])
