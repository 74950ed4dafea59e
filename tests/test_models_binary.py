"""The binary form of the networks: published order, exact counts, -1 and +1 before every layer; VGG-Small."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from tombola.errors import TombolaError
from tombola.models.registry import MODELS, build_network, default_init, names
from tombola.nn.binary import BinaryActivation
from tombola.nn.init import initialise_
from tombola.parameters import prunable

MORE_OF_THE_SAME = ("resnet-32", "resnet-44", "resnet-56", "vgg-19", "wrn-28-K")
OWN = [*(name for name in names() if name not in MORE_OF_THE_SAME), "wrn-16-1", "wrn-10-0.5"]
AVERAGED = tuple(name for name in OWN if name.startswith(("resnet", "wrn", "vgg-1")))
"""Networks whose last layer sees means of -1 and +1 over the map."""
DIGITS, MNIST, CIFAR, ODD = (1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 9, 13)
KINDS = {
    "conv": nn.Conv2d,
    "fc": nn.Linear,
    "pool": nn.MaxPool2d,
    "norm": (nn.BatchNorm1d, nn.BatchNorm2d),
    "act": BinaryActivation,
    "relu": nn.ReLU,
}


def net(name: str, shape: tuple[int, ...] = CIFAR, classes: int = 10, **args: Any) -> nn.Module:
    return build_network(name, input_shape=shape, classes=classes, args={"activation": "binary", **args})


def narrow(name: str, shape: tuple[int, ...] = DIGITS, **args: Any) -> nn.Module:
    """The network, seeded, at an eighth of its width where it has one."""
    width = {"width": 0.125} if "width" in getattr(MODELS.get(name), "options", ()) else {}
    model = net(name, shape, **width, **args)
    assert initialise_(model, "kaiming_normal", 5) == ()
    return model


def calls(model: nn.Module, x: Tensor) -> list[tuple[str, nn.Module, Tensor, Tensor]]:
    """(name, module, input, output) of each module without children, in the order of the calls."""
    seen: list[tuple[str, nn.Module, Tensor, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda m, i, o, name=name: seen.append((name, m, i[0], o)))  # type: ignore[misc]
        for name, module in model.named_modules()
        if not [*module.children()]
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return seen


def kinds(model: nn.Module, shape: tuple[int, ...]) -> str:
    """The calls' kinds as words, e.g. "conv norm act fc"."""
    found = [
        next((kind for kind, types in KINDS.items() if isinstance(module, types)), None)
        for _, module, _, _ in calls(model, torch.randn(2, *shape))
    ]
    return " ".join(kind for kind in found if kind)


def weights(model: nn.Module) -> dict[str, torch.Size]:
    """Shape of the weight of each convolution and linear layer, by name."""
    return {n: m.weight.shape for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}


PLAIN, POOLED = "conv norm act", "conv pool norm act"


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("mlp", "fc norm act fc norm act fc"),
        ("lenet-300-100", "fc norm act fc norm act fc"),
        ("conv-2", f"{PLAIN} {POOLED} fc norm act fc norm act fc"),
        ("conv-6", f"{' '.join([PLAIN, POOLED] * 3)} fc norm act fc norm act fc"),
        ("vgg-small", f"{' '.join([PLAIN, POOLED] * 3)} fc"),
        ("vgg-16", " ".join([*[PLAIN, POOLED] * 2, *[PLAIN, PLAIN, POOLED] * 2, *[PLAIN] * 3, "fc"])),
    ],
)
def test_order_of_plain_networks(name: str, order: str) -> None:
    assert kinds(narrow(name, CIFAR), CIFAR) == order


def test_vgg_small_has_one_order_and_the_others_keep_theirs() -> None:
    pair = "conv norm relu conv pool norm relu"
    assert kinds(narrow("vgg-small", CIFAR, activation="relu"), CIFAR) == f"{pair} {pair} {pair} fc"
    relu = " ".join(name for name, _ in narrow("conv-4", CIFAR, activation="relu").named_children())
    assert relu == "conv1 relu1 conv2 relu2 pool1 conv3 relu3 conv4 relu4 pool2 flatten fc1 relu5 fc2 relu6 fc3"
    vgg = " ".join(name for name, _ in narrow("vgg-16", CIFAR, activation="relu").named_children())
    assert vgg.startswith("conv1 bn1 relu1 conv2 bn2 relu2 pool1 conv3 bn3 relu3 conv4 bn4 relu4 pool2 conv5 ")
    assert vgg.endswith(" conv13 bn13 relu13 average flatten fc")
    binary = " ".join(name for name, _ in narrow("conv-2", CIFAR).named_children())
    assert binary == "conv1 bn1 relu1 conv2 pool1 bn2 relu2 flatten fc1 bn3 relu3 fc2 bn4 relu4 fc3"


def test_relu_is_the_default() -> None:
    for name in OWN:
        default = build_network(name, input_shape=DIGITS, classes=3)
        assert str(default) == str(net(name, DIGITS, 3, activation="relu"))
        assert not any(isinstance(module, BinaryActivation) for module in default.modules())


def test_residual_blocks_act_after_the_sum() -> None:
    model = narrow("resnet-18", DIGITS, stem="imagenet").eval()
    seen = {name: (x, y) for name, _, x, y in calls(model, torch.randn(2, *DIGITS))}
    assert [*seen][:4] == ["conv1", "pool1", "bn1", "relu1"]
    block = [name.removeprefix("stage2.block1.") for name in seen if name.startswith("stage2.block1.")]
    assert block == ["conv1", "bn1", "relu1", "conv2", "bn2", "downsample.conv", "downsample.bn", "relu2"]
    for prefix, shortcut in (("stage2.block1", "downsample.bn"), ("stage2.block2", "downsample")):
        total = seen[f"{prefix}.bn2"][1] + seen[f"{prefix}.{shortcut}"][1]
        assert torch.equal(seen[f"{prefix}.relu2"][0], total)
        assert torch.equal(seen[f"{prefix}.relu2"][1], torch.where(total >= 0, 1.0, -1.0))


def test_wide_blocks_sum_before_the_next_norm() -> None:
    model = narrow("wrn-16-1").eval()
    seen = {name: (x, y) for name, _, x, y in calls(model, torch.randn(2, *DIGITS))}
    block = [name.removeprefix("stage2.block1.") for name in seen if name.startswith("stage2.block1.")]
    assert block == ["bn1", "relu1", "conv1", "bn2", "relu2", "dropout", "conv2", "downsample"]
    total = seen["stage2.block1.conv2"][1] + seen["stage2.block1.downsample"][1]
    assert torch.equal(seen["stage2.block2.bn1"][0], total)
    assert torch.equal(seen["stage3.block1.bn1"][0], seen["stage2.block2.conv2"][1] + total)
    assert [*seen][-5:] == ["bn", "relu", "average", "flatten", "fc"]


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("shape", [CIFAR, ODD], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_layers_see_minus_one_and_plus_one(name: str, shape: tuple[int, ...], training: bool) -> None:
    x = torch.randn(3, *shape)
    seen = calls(narrow(name, shape).train(training), x)
    layers = [(n, i, o) for n, module, i, o in seen if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert torch.equal(layers[0][1].flatten(), x.flatten())
    for layer, values, _ in layers[1:-1] if name in AVERAGED else layers[1:]:
        assert torch.equal(values.abs(), torch.ones_like(values)), layer
    if name in AVERAGED:
        before = next(i for n, _, i, _ in seen if n == "average")
        assert torch.equal(before.abs(), torch.ones_like(before))
        sums = layers[-1][1] * math.prod(before.shape[2:])
        assert torch.allclose(sums, sums.round(), atol=1e-4)
    assert seen[-1][0] == layers[-1][0]  # nothing follows the last layer
    assert seen[-1][3].shape == (3, 10)


@pytest.mark.parametrize(
    ("name", "shape", "weight_count", "norm_count"),
    [
        ("lenet-300-100", MNIST, 266_200, 400),
        ("conv-2", CIFAR, 4_300_992, 64 + 64 + 512),
        ("conv-4", CIFAR, 2_425_024, 128 + 256 + 512),
        ("conv-6", CIFAR, 2_261_184, 128 + 256 + 512 + 512),
        ("conv-8", CIFAR, 5_275_840, 128 + 256 + 512 + 1024 + 512),
        ("vgg-small", CIFAR, 4_656_512, 2 * (128 + 256 + 512)),
        ("resnet-20", CIFAR, 270_896, 688 + 96),
        ("resnet-18", CIFAR, 11_159_232 + 5_120, 4_800),
        ("wrn-16-4", CIFAR, 2_742_704 + 2_560, 16 + 4 * (64 + 128 + 256)),
    ],
)
def test_exact_counts(name: str, shape: tuple[int, ...], weight_count: int, norm_count: int) -> None:
    model = net(name, shape, affine=False)
    assert sum(shape.numel() for shape in weights(model).values()) == weight_count
    assert sum(p.numel() for p in model.parameters()) == weight_count + 10  # the last layer's biases
    assert sum(p.numel() for p in net(name, shape, affine=True).parameters()) == weight_count + 10 + 2 * norm_count


def test_vgg_small() -> None:
    model = net("vgg-small", activation="relu")
    counts = [shape.numel() for shape in weights(model).values()]
    assert counts == [3_456, 147_456, 294_912, 589_824, 1_179_648, 2_359_296, 81_920]
    assert sum(tensor.numel() for tensor in prunable(model).values()) == 4_656_512
    assert round(0.05 * 4_656_512) == 232_826  # the paper's 0.23 M
    assert [n for n, _ in model.named_parameters() if not n.endswith("weight")] == ["fc.bias"]
    wide = weights(net("vgg-small", width=1.25))
    assert [wide[f"conv{i}"][0] for i in range(1, 7)] == [160, 160, 320, 320, 640, 640]
    assert sum(shape.numel() for shape in wide.values()) == 7_249_120
    assert net("vgg-small", (1, 28, 28), width=0.125).fc.in_features == 64 * 3 * 3
    assert net("vgg-small", (3, 64, 32), width=0.125).fc.in_features == 64 * 8 * 4
    assert default_init("vgg-small") == default_init("vgg-16") == "kaiming_normal"


@pytest.mark.parametrize("name", OWN)
def test_weights_have_the_names_of_the_relu_form(name: str) -> None:
    binary, relu = narrow(name), narrow(name, activation="relu")
    assert weights(binary) == weights(relu)
    layers = [module for module in binary.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert [module.bias is None for module in layers] == [True] * (len(layers) - 1) + [False]


def test_norms_are_affine_on_request() -> None:
    def affine(model: nn.Module) -> set[bool]:
        return {module.affine for module in model.modules() if isinstance(module, KINDS["norm"])}

    for name in ("mlp", "lenet-300-100", "conv-2", "vgg-small"):
        assert affine(net(name, DIGITS)) == {False}
        assert affine(net(name, DIGITS, affine=True)) == {True}
    for name in ("vgg-16", "resnet-18", "resnet-20", "wrn-10-1"):
        assert affine(net(name, DIGITS)) == {True}
        assert affine(net(name, DIGITS, affine=False)) == {False}


def test_options_combine() -> None:
    stem = net("resnet-34", (3, 64, 64), stem="imagenet", width=0.1, affine=False)
    assert stem(torch.randn(2, 3, 64, 64)).shape == (2, 10)
    assert [n for n, _ in stem.named_parameters() if not n.endswith("weight")] == ["fc.bias"]
    assert not any("bias" in n for n in net("conv-2", DIGITS, bias=False, width=0.1).state_dict())
    assert [*net("mlp", (20,), hidden=[]).state_dict()] == ["fc1.weight", "fc1.bias"]
    for depth in (2, 4, 6, 8):
        wide = net(f"conv-{depth}", DIGITS, width=1.5, affine=True)
        assert (wide.conv1.out_channels, wide.bn1.num_features, wide.fc2.out_features) == (96, 96, 384)
    assert net("wrn-10-1.5", DIGITS, affine=False).stage3.block1.conv1.out_channels == 96


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 9)], ids=str)
def test_any_image(name: str, shape: tuple[int, ...]) -> None:
    model = narrow(name, shape)
    assert model(torch.randn(4, *shape)).shape == (4, 10)
    assert model.eval()(torch.randn(1, *shape)).shape == (1, 10)


@pytest.mark.parametrize("name", OWN)
def test_deterministic(name: str) -> None:
    x = torch.randn(4, *DIGITS)
    first, second = narrow(name), narrow(name)
    assert torch.equal(first(x), second(x))
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert torch.equal(first.eval()(x), first(x))


@pytest.mark.parametrize("name", ["mlp", "conv-4", "vgg-small", "resnet-20", "wrn-10-0.5"])
def test_traces(name: str) -> None:
    model, x = narrow(name).eval(), torch.randn(4, *DIGITS)
    assert torch.equal(fx.symbolic_trace(model)(x), model(x))


@pytest.mark.parametrize("name", OWN)
def test_gradient_reaches_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    model = narrow(name, **({} if name == "mlp" else {"affine": True}))
    nn.functional.cross_entropy(model(torch.randn(16, *DIGITS)), torch.arange(16) % 10).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.count_nonzero() > 0, parameter_name


@pytest.mark.parametrize(
    ("name", "args", "line"),
    [
        ("conv-4", {"activation": "sign"}, "conv-4: unknown activation 'sign'; allowed: relu, binary"),
        ("mlp", {"hidden": [], "activation": True}, "mlp: unknown activation True; allowed: relu, binary"),
        ("vgg-small", {"activation": ["relu"]}, r"vgg-small: unknown activation \['relu'\]; allowed: relu, binary"),
        ("resnet-20", {"activaton": "binary"}, r"'activaton' \(did you mean activation\?\); allowed: width, affine, "),
        (
            "conv-2",
            {"activation": "relu", "affine": True},
            "conv-2: affine is true, but with activation relu it has no norms",
        ),
        ("lenet-300-100", {"affine": 1}, "lenet-300-100: affine is 1; allowed: true, false"),
        ("wrn-10-1", {"dropout": 0.3}, "wrn-10-1: dropout is 0.3, which adds zeros to -1 and"),
        ("vgg-smal", {}, r"unknown model 'vgg-smal' \(did you mean vgg-small"),
    ],
)
def test_error_lines(name: str, args: dict[str, Any], line: str) -> None:
    with pytest.raises(TombolaError, match=line) as caught:
        net(name, **args)
    assert "\n" not in str(caught.value)


def test_no_import_circle() -> None:
    code = "import sys, tombola.nn.binary; sys.exit(any(name.startswith('tombola.models') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, env={"PYTHONPATH": "src"}).returncode == 0
