"""The field's networks: published counts, any input shape, names; foreign networks and checkpoints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import fx, nn

from tombola.errors import TombolaError
from tombola.models.foreign import filled_args
from tombola.models.registry import build_network, default_init, is_known, load_checkpoint_, names
from tombola.models.spec import ModelSpec

OWN = [*(name for name in names() if "K" not in name), "wrn-16-4", "wrn-10-0.5"]
DIGITS, MNIST, CIFAR = (1, 8, 8), (1, 28, 28), (3, 32, 32)


def net(name: str, shape: tuple[int, ...] = CIFAR, classes: int = 10, **args: Any) -> nn.Module:
    return build_network(name, input_shape=shape, classes=classes, args=args)


def narrow(name: str, shape: tuple[int, ...] = DIGITS) -> nn.Module:
    """The network at a tenth of its width where it has one."""
    args = {} if name == "mlp" or name.startswith("wrn") else {"width": 0.1}
    return build_network(name, input_shape=shape, classes=10, args=args)


def weights(model: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, kinds))  # type: ignore[misc, operator]


@pytest.mark.parametrize(
    ("name", "shape", "conv", "linear"),
    [
        ("lenet-300-100", MNIST, 0, 266_200),
        ("conv-2", CIFAR, 38_592, 4_300_992 - 38_592),
        ("conv-4", CIFAR, 259_776, 2_425_024 - 259_776),
        ("conv-6", CIFAR, 1_144_512, 2_261_184 - 1_144_512),
        ("conv-8", CIFAR, 4_683_456, 5_275_840 - 4_683_456),
        ("resnet-20", CIFAR, 267_696 + 2_560, 640),
        ("vgg-19", CIFAR, 20_018_880, 5_120),
    ],
)
def test_published_weight_counts(name: str, shape: tuple[int, ...], conv: int, linear: int) -> None:
    model = net(name, shape)
    assert weights(model, nn.Conv2d) == conv
    assert weights(model, nn.Linear) == linear


def test_published_parts() -> None:
    resnet = net("resnet-20")
    pointwise = [m for m in resnet.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert sum(m.weight.numel() for m in pointwise) == 2_560
    assert weights(net("vgg-16"), nn.Conv2d) == 14_710_464
    lenet = net("lenet-300-100", MNIST)
    assert sum(p.numel() for name, p in lenet.named_parameters() if name.endswith("bias")) == 410
    bottleneck = build_network("resnet-50", input_shape=(3, 224, 224), classes=1000)
    assert sum(p.numel() for p in bottleneck.parameters()) == 25_557_032  # torchvision's, and the papers' 25.6M
    assert weights(bottleneck, nn.Conv2d, nn.Linear) == 25_502_912  # which may be pruned
    deeper = build_network("resnet-101", input_shape=(3, 224, 224), classes=1000)
    assert sum(p.numel() for p in deeper.parameters()) == 44_549_160
    wide = net("wrn-16-4")
    assert sum(p.numel() for p in wide.parameters()) == 2_748_890  # 2.7M in the paper's table
    assert sum(isinstance(m, nn.Conv2d) for m in net("resnet-56", width=0.1).modules()) == 55 + 2


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("shape", [DIGITS, MNIST, CIFAR], ids=str)
def test_forward_shape_for_any_image(name: str, shape: tuple[int, ...]) -> None:
    model = narrow(name, shape).eval()
    assert model(torch.randn(3, *shape)).shape == (3, 10)
    assert model(torch.randn(1, *shape)).shape == (1, 10)


@pytest.mark.parametrize("name", OWN)
def test_output_layer_is_the_last_linear(name: str) -> None:
    model = narrow(name)
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    assert list(model.state_dict())[-2:] == [f"{linear[-1]}.weight", f"{linear[-1]}.bias"]
    assert model.get_submodule(linear[-1]).out_features == 10


@pytest.mark.parametrize("name", OWN)
def test_traces_and_takes_channels_last(name: str) -> None:
    model, x = narrow(name).eval(), torch.randn(2, *DIGITS)
    expected = model(x)
    traced = fx.symbolic_trace(model)
    assert torch.equal(traced(x), expected)
    assert all(node.op in ("placeholder", "call_module", "output") or "add" in str(node) for node in traced.graph.nodes)
    calls = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert len(calls) == len(set(calls))
    last = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert torch.allclose(last, expected, atol=1e-5)


@pytest.mark.parametrize("name", OWN)
def test_trains_one_step(name: str) -> None:
    model, x = narrow(name), torch.randn(4, *DIGITS)
    before = x.clone()
    model(x).square().sum().backward()
    assert torch.equal(x, before)
    assert all(p.grad is not None for p in model.parameters())


def test_readable_names() -> None:
    conv = [n for n in net("conv-4", DIGITS, width=0.1).state_dict() if n.endswith("weight")]
    assert conv == [f"{n}.weight" for n in ("conv1", "conv2", "conv3", "conv4", "fc1", "fc2", "fc3")]
    assert "stage2.block1.downsample.conv.weight" in net("resnet-20", DIGITS).state_dict()


def test_widths_and_options() -> None:
    assert net("lenet-300-100", (20,), width=0.5).fc1.weight.shape == (150, 20)
    assert net("mlp", (4, 5), hidden=[7]).fc1.weight.shape == (7, 20)
    assert [*net("mlp", (20,), hidden=[], bias=False).state_dict()] == ["fc1.weight"]
    assert net("conv-2", DIGITS, width=2).conv1.out_channels == 128
    assert net("conv-2", DIGITS, width=2).fc2.weight.shape == (512, 512)
    assert not any("bias" in n for n in net("conv-2", DIGITS, bias=False).state_dict())
    assert net("wrn-10-1.5").stage3.block1.conv1.out_channels == 96
    stem = net("resnet-18", (3, 64, 64), stem="imagenet", width=0.1)
    assert stem.conv1.kernel_size == (7, 7)
    assert stem(torch.randn(2, 3, 64, 64)).shape == (2, 10)
    plain = net("resnet-20", DIGITS, affine=False)
    assert not any("bn" in n for n, _ in plain.named_parameters())
    assert any(isinstance(m, nn.Dropout) for m in net("wrn-10-1", dropout=0.3).modules())


def test_bottlenecks_are_torchvisions() -> None:
    from torchvision.models import resnet50

    ours, theirs = net("resnet-50", (3, 64, 64), classes=7).eval(), resnet50(num_classes=7).eval()
    values = list(theirs.state_dict().values())
    state = {}
    for name, (own, tensor) in zip(
        ours.state_dict(), zip(ours.state_dict().values(), values, strict=True), strict=True
    ):
        assert own.shape == tensor.shape
        state[name] = tensor
    ours.load_state_dict(state)
    x = torch.randn(2, 3, 64, 64)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def test_pools_stop_at_one_pixel() -> None:
    assert sum(isinstance(m, nn.MaxPool2d) for m in net("conv-8", DIGITS, width=0.1).modules()) == 3
    assert net("conv-4", (1, 2, 9), width=0.1)(torch.randn(2, 1, 2, 9)).shape == (2, 10)


def test_flat_inputs() -> None:
    assert net("lenet-300-100", (64,))(torch.randn(2, 64)).shape == (2, 10)
    assert net("mlp", (64,), classes=1)(torch.randn(2, 64)).shape == (2, 1)


def test_names_and_defaults() -> None:
    assert "wrn-28-K" in names()
    assert all(is_known(name) for name in OWN)
    assert not any(is_known(name) for name in ("wrn-28-K", "wrn-28-", "resnet-19", "torchvision.models.resnet18"))
    assert default_init("conv-6") == default_init("lenet-300-100") == default_init("mlp") == "xavier_normal"
    assert default_init("resnet-20") == default_init("vgg-19") == default_init("wrn-28-10") == "kaiming_normal"
    assert default_init("torchvision.models.resnet18") is None


@pytest.mark.parametrize(
    ("name", "args", "line"),
    [
        (
            "resnet-21",
            {},
            r"unknown model 'resnet-21' \(did you mean resnet-.*; allowed: mlp, .*wrn-28-K, .*or an import",
        ),
        ("conv 4", {}, r"unknown model 'conv 4' \(did you mean conv-"),
        (
            "conv-4",
            {"widht": 2},
            r"conv-4: unknown argument 'widht' \(did you mean width\?\); allowed: width, bias, activation, affine",
        ),
        ("wrn-16-4", {"width": 2}, r"wrn-16-4: unknown argument 'width'; allowed: affine, dropout, activation"),
        ("conv-4", {"width": 0}, "conv-4: width is 0; a number above 0 is needed"),
        ("conv-4", {"width": "wide"}, "conv-4: width is 'wide'"),
        ("conv-4", {"bias": "no"}, "conv-4: bias is 'no'; allowed: true, false"),
        ("mlp", {"hidden": [3, 0]}, r"mlp: hidden is \[3, 0\]; a list of positive integers"),
        ("mlp", {"hidden": 30}, "mlp: hidden is 30; a list of positive integers"),
        ("resnet-18", {"stem": "big"}, "resnet-18: unknown stem 'big'; allowed: cifar, imagenet"),
        ("wrn-20-4", {}, r"wrn-20-4: depth is 20; a depth of 6n\+4 up to 1000 is needed"),
        ("wrn-16-0", {}, "wrn-16-0: width is 0.0; a number above 0"),
        ("wrn-16-1", {"dropout": 1}, r"wrn-16-1: dropout is 1; a number in \[0, 1\)"),
    ],
)
def test_error_lines(name: str, args: dict[str, Any], line: str) -> None:
    with pytest.raises(TombolaError, match=line) as caught:
        net(name, **args)
    assert "\n" not in str(caught.value)


def test_errors_about_the_data() -> None:
    with pytest.raises(
        TombolaError, match=r"vgg-16 needs images .*; the data's shape is \(64,\); for flat data use mlp"
    ):
        net("vgg-16", (64,))
    with pytest.raises(TombolaError, match="conv-2: classes is 0; a positive integer"):
        net("conv-2", classes=0)


FOREIGN = """
import torch
from torch import nn

def sized(num_classes, input_shape, hidden=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0], hidden), nn.Linear(hidden, num_classes))

class Net(nn.Linear):
    pass

class Outer:
    @staticmethod
    def make():
        return nn.Linear(2, 2)

def text():
    return "no module"

def broken():
    raise RuntimeError("first line\\nsecond line")

ready = nn.Linear(1, 1)
number = 3
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "tombola_foreign_nets.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "tombola_foreign_nets"


def test_foreign_networks(foreign: str) -> None:
    model = net(f"{foreign}.sized", (6,), classes=4)
    assert model(torch.randn(2, 6)).shape == (2, 4)
    assert net(f"{foreign}.sized", (6,), num_classes=9, hidden=2)[2].weight.shape == (9, 2)
    assert net(f"{foreign}.Net", in_features=3, out_features=2).weight.shape == (2, 3)
    assert isinstance(net(f"{foreign}.Outer.make"), nn.Linear)
    filled = filled_args(f"{foreign}.sized", input_shape=(6,), classes=4, args={"hidden": 2})
    assert filled == {"num_classes": 4, "input_shape": (6,), "hidden": 2}


def test_torchvision_networks_get_the_number_of_classes() -> None:
    assert net("torchvision.models.squeezenet1_1", classes=7).classifier[1].out_channels == 7


@pytest.mark.parametrize(
    ("path", "args", "line"),
    [
        ("no_such_pkg.Net", {}, "model 'no_such_pkg.Net' cannot be imported .*no_such_pkg.*PYTHONPATH"),
        ("{}.Nett", {}, "cannot be imported .*Nett"),
        ("{}.number", {}, "is 3; a class or function that makes an nn.Module is needed"),
        ("{}.ready", {}, "is a Linear; a class or function"),
        ("{}.text", {}, "gave a str; it must give a torch nn.Module"),
        ("{}.broken", {}, "called with no arguments: RuntimeError: first line$"),
        (
            "{}.sized",
            {"depth": 3},
            r"called with num_classes, input_shape, depth: TypeError.*; it takes: num_classes, ",
        ),
    ],
)
def test_foreign_errors(foreign: str, path: str, args: dict[str, Any], line: str) -> None:
    with pytest.raises(TombolaError, match=line) as caught:
        net(path.format(foreign), **args)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_checkpoints(tmp_path: Path, suffix: str, prefix: str) -> None:
    source, target = narrow("resnet-20"), narrow("resnet-20")
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    path = tmp_path / f"start{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"epoch": 3, "state_dict": state} if suffix == ".pt" else state, path)
    load_checkpoint_(target, path)
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    )


def test_checkpoint_of_tied_weights_needs_one_name(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    model[1].weight = model[0].weight
    save_file({"0.weight": torch.ones(6, 4)}, tmp_path / "tied.safetensors")
    load_checkpoint_(model, tmp_path / "tied.safetensors")
    assert torch.equal(model[1].weight, torch.ones(6, 4))


def test_checkpoint_errors(tmp_path: Path) -> None:
    model, path = nn.Linear(2, 3), tmp_path / "start.pt"

    def line(content: object) -> str:
        torch.save(content, path)
        with pytest.raises(TombolaError) as caught:
            load_checkpoint_(model, path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    weight, before = torch.zeros(3, 2), model.weight.clone()
    assert "missing: bias; unknown: scale" in line({"weight": weight, "scale": weight})
    assert "in the file and in the model bias is (2,) and (3,)" in line({"weight": weight, "bias": torch.zeros(2)})
    assert "missing: bias" in line({"weight": weight, "epoch": 3})
    assert "holds a list" in line([1])
    assert "is a pickle of pathlib" in line(Path)
    assert torch.equal(model.weight, before)
    for name, text in [("none.pt", "is not a file"), ("start.npz", "allowed: .safetensors, .pt, .pth")]:
        (tmp_path / "start.npz").touch()
        with pytest.raises(TombolaError, match=text):
            load_checkpoint_(model, tmp_path / name)
    (tmp_path / "cut.safetensors").write_bytes(b"123")
    with pytest.raises(TombolaError, match="is cut or damaged"):
        load_checkpoint_(model, tmp_path / "cut.safetensors")


def test_light_imports() -> None:
    code = (
        "import sys, tombola.models.spec, tombola.models.registry, tombola.nn, tombola.rng;"
        "tombola.models.registry.names(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, env={"PYTHONPATH": "src"}).returncode == 0


def test_spec() -> None:
    assert ModelSpec() == ModelSpec("lenet-300-100", {}, None, None)
