"""Activations in native kernels: as exact as in torch, finite or not, and blocks of known networks as one region."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import tombola
from activations import ACTIVATIONS
from clocks import NATIVE
from tombola.deploy.kernels.sparse import build
from tombola.deploy.ops import Activation, Linear, Pointwise, Region
from tombola.parameters import prunable
from tombola.select import select

ODD = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e38, -1e38, 3.0, -3.0, 6.0, 1e-30, -1e-30, 0.0, -88.6])


def computed(activation: Activation, x: Tensor) -> list[Tensor]:
    """The activation of each number, by kernels of single floats, and of vectors of images; `x`: (8 n,)."""
    single = Pointwise("p", "x", "y", activation=activation)
    vectors = Linear("l", "x", "y", torch.ones(1, 1), activation=activation)
    one = build(Region({"x": (1, 1, len(x))}, (single,), ("y",)), 1, 1)(x.view(1, 1, 1, -1))[0]
    other = build(Region({"x": (1,)}, (vectors,), ("y",)), len(x), 1)(x.view(-1, 1))[0]
    return [one.view(-1), other.view(-1)]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda one: one.name)
def test_an_activation_is_as_exact_as_in_torch(activation: Activation) -> None:
    normal = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    x = torch.cat([torch.linspace(-80, 80, 40_000), 3 * normal])
    # torch's own GELU loses what is small below 0, even in float64
    wanted = x.double() * torch.erfc(-x.double() / 2**0.5) / 2 if activation.name == "gelu" else activation(x.double())
    most = 4e-7 if activation.name == "gelu" else 2e-7
    for found in computed(activation, x):
        assert float(((found - wanted).abs() / wanted.abs().clamp_min(1e-30)).max()) <= most


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda one: one.name)
def test_what_is_not_finite_or_overflows_comes_out_as_in_torch(activation: Activation) -> None:
    x = ODD.repeat(2)
    for found in computed(activation, x):
        wanted = activation(x.double()).float() if activation.name == "gelu" else activation(x)
        torch.testing.assert_close(found, wanted, equal_nan=True, rtol=4e-7, atol=1e-36)


@pytest.mark.parametrize(
    ("name", "at_minus_inf"), [("silu", "nan"), ("hardswish", "nan"), ("sigmoid", "0"), ("relu", "0")]
)
def test_minus_infinity_by_hand(name: str, at_minus_inf: str) -> None:
    for found in computed(Activation(name), torch.full((8,), -float("inf"))):
        assert str(found[0].item()).removesuffix(".0") == at_minus_inf


# ---- blocks ----------------------------------------------------------------------------------------------------------


def convolution(inputs: int, out: int, kernel: int, activation: nn.Module, **how: int) -> nn.Sequential:
    """Convolution, norm and activation; the statistics are not the initial ones."""
    norm = nn.BatchNorm2d(out)
    nn.init.uniform_(norm.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
    nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
    return nn.Sequential(nn.Conv2d(inputs, out, kernel, padding=kernel // 2, bias=False, **how), norm, activation)


class Bottleneck(nn.Module):
    """Two convolutions with SiLU and a shortcut, as in YOLOv5 and its successors."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.two = (convolution(channels, channels, k, nn.SiLU(inplace=True)) for k in (1, 3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.two(self.one(x))
        return y


class Inverted(nn.Module):
    """An inverted residual without squeezing, as in MobileNetV3: expand, filter channel by channel, project."""

    def __init__(self, channels: int, wide: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            convolution(channels, wide, 1, nn.Hardswish()),
            convolution(wide, wide, 3, nn.Hardswish(), groups=wide),
            convolution(wide, channels, 1, nn.Identity()),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.block(x)
        return y


BLOCKS = {
    "yolo": lambda: nn.Sequential(convolution(3, 8, 3, nn.SiLU(), stride=2), Bottleneck(8), Bottleneck(8)),
    "mobilenet-v3": lambda: nn.Sequential(convolution(3, 8, 3, nn.Hardswish(), stride=2), Inverted(8, 24)),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("batch", [1, 8])
def test_a_block_is_one_region_with_the_same_bits_at_any_thread_count(name: str, batch: int) -> None:
    torch.manual_seed(0)
    model = BLOCKS[name]().eval()
    mask = select({key: torch.rand_like(weight) for key, weight in prunable(model).items()}, density=0.3)
    x = torch.randn(batch, 3, 12, 12)
    with torch.no_grad():
        for key, kept in mask.items():
            model.get_parameter(key).mul_(kept)
        wanted = model(x)
    deployed = tombola.deploy(model, x, threads=1, clock=NATIVE)
    assert [part.engine for part in deployed.report.parts] == ["native"]
    assert not deployed.report.dense
    assert float((deployed(x) - wanted).abs().max() / wanted.abs().max()) <= 1e-5
    other = tombola.deploy(model, x, threads=2, plan=deployed.plan)
    assert torch.equal(deployed(x), other(x))
