"""Traced networks as regions: what is recognised, fused and left, and that regions compute what the network did."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import tombola
from clocks import NATIVE
from tombola.deploy.kernels.kernel import computed
from tombola.deploy.lower import Lowered, LoweredRegion, alone, lower, put_in
from tombola.deploy.ops import (
    RELU,
    Activation,
    Combine,
    Conv,
    Linear,
    Op,
    Pointwise,
    Pool,
    Region,
    Resize,
    Slice,
    padded,
    reads,
)
from tombola.deploy.slices import as_slices
from tombola.graph.trace import traced
from tombola.models.registry import build_network


class Reference(nn.Module):
    """A region by torch's functions, one operation after the other: what an operation means."""

    def __init__(self, part: LoweredRegion) -> None:
        super().__init__()
        self.part = part

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        region = self.part.region
        values = dict(zip(region.inputs, inputs, strict=True))
        for op in region.ops:
            values[op.target] = compute(op, values)
        return tuple(
            values[name].reshape(-1, *shape) for name, shape in zip(region.outputs, self.part.shapes, strict=True)
        )


def compute(op: Op, values: dict[str, Tensor]) -> Tensor:
    sources = [values[name] for name in reads(op)]
    x = sources[0]
    if isinstance(op, Conv):
        y = F.conv2d(padded(x, op), op.weight, op.bias, op.stride, 0, op.dilation, op.groups)
    elif isinstance(op, Linear):
        y = F.linear(x.flatten(1), op.weight, op.bias)
    else:
        return computed(op, [one.double() for one in sources]).float()
    y = sum(sources[1:], y)
    return y if op.activation is None else op.activation(y)


def lowered(model: nn.Module, *example: Tensor) -> tuple[Lowered, fx.GraphModule]:
    network = as_slices(traced(model.eval(), example, [len(x) == len(example[0]) for x in example]))
    return lower(network), network


def regions(model: nn.Module, *example: Tensor) -> list[Region]:
    return [part.region for part in lowered(model, *example)[0].parts]


def check(model: nn.Module, *example: Tensor) -> Lowered:
    """Regions alone, in torch, and put in compute what the model does."""
    with torch.no_grad():
        want = model.eval()(*example)
        found, network = lowered(model, *example)
        again = network(*example)
        for part in found.parts:
            alone(network, part)  # can be cut out
        put_in(network, [(part, Reference(part)) for part in found.parts])
        have = network(*example)
    torch.testing.assert_close(again, want)
    torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5)
    return found


# ---- single layers ---------------------------------------------------------------------------------------------------


class Functions(nn.Module):
    """Weights by name, functions instead of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.matrix = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(5, 16))
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(F.conv2d(x, self.kernel, stride=2, padding=1)), 2)
        x = F.dropout(x.view(x.size(0), -1), 0.5, training=self.training)
        return F.linear(x, self.matrix, self.bias)


def test_functions_are_layers_too() -> None:
    (region,) = regions(Functions(), torch.randn(2, 3, 8, 8))
    conv, pool, linear = region.ops
    assert isinstance(conv, Conv)
    assert (conv.name, conv.stride, conv.padding, conv.activation) == ("kernel", (2, 2), (1, 1), RELU)
    assert isinstance(pool, Pool)
    assert isinstance(linear, Linear)
    assert linear.source == pool.target  # flattening costs nothing
    check(Functions(), torch.randn(2, 3, 8, 8))


class Residual(nn.Module):
    """A block with a branch of its own beside it."""

    def __init__(self, add: Callable[..., Tensor] = operator.add, *, swap: bool = False) -> None:
        super().__init__()
        self.one, self.two, self.short = (nn.Conv2d(3, 3, k, padding=k // 2) for k in (3, 3, 1))
        self.add, self.swap = add, swap

    def forward(self, x: Tensor) -> Tensor:
        y = self.two(F.relu(self.one(x)))
        z = self.short(x)
        return F.relu(self.add(z, y) if self.swap else self.add(y, z))


ADDITIONS = [operator.add, operator.iadd, torch.add, lambda a, b: a.add(b), lambda a, b: a.add_(b)]


@pytest.mark.parametrize("add", ADDITIONS)
@pytest.mark.parametrize("swap", [True, False])
def test_residual_additions_go_into_the_later_layer(add: Callable[..., Tensor], swap: bool) -> None:
    (region,) = regions(Residual(add, swap=swap), torch.randn(2, 3, 5, 5))
    assert [type(op) for op in region.ops] == [Conv, Conv, Conv]
    last = region.ops[-1]
    assert isinstance(last, Conv)
    assert (last.name, last.activation, last.residual) == ("short", RELU, region.ops[1].target)
    check(Residual(add, swap=swap), torch.randn(2, 3, 5, 5))


class Twice(nn.Module):
    """A shared layer, a value read twice, an in-place activation whose input is read again."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.layer, self.relu = nn.Linear(4, 4), nn.ReLU(inplace=inplace)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.layer(self.layer(x))
        z = self.relu(y)
        return y + z, z + z


@pytest.mark.parametrize("inplace", [True, False])
def test_shared_layers_and_values_read_again(inplace: bool) -> None:
    found = check(Twice(inplace), torch.randn(3, 4))
    assert found.parts[0].layers == ("layer", "layer")
    assert len(found.parts[0].outputs) == 2


class Unknown(nn.Module):
    """Something without a kernel between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 3, 3), nn.Conv2d(2, 4, 3)
        self.last = nn.Conv2d(7, 2, 1)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        joined = torch.cat([F.relu(self.one(x)), self.two(y)], 1)
        summed = joined.cumsum(1)
        return {"out": self.last(summed), "both": summed}


def test_what_has_no_kernel_stays_and_is_named() -> None:
    found = check(Unknown(), torch.randn(2, 2, 5, 5), torch.randn(2, 2, 5, 5))
    assert [part.layers for part in found.parts] == [("one", "two"), ("last",)]
    (where, why), *more = found.left.items()
    assert why == "cumsum has no kernel of its own"
    assert "test_lower.py" in where
    assert not more


class Cut(nn.Module):
    """Parts of a layer's channels, one of them through another layer, joined again."""

    def __init__(self, cut: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(2, 6, 1), nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(9, 2, 1)
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cut(self.one(x).relu()))
        parts.append(self.two(parts[0]).relu())
        out: Tensor = self.last(torch.cat(parts, 1))
        return out


class Applied(nn.Module):
    """A function as a module."""

    def __init__(self, made: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.made = made

    def forward(self, x: Tensor) -> Tensor:
        return self.made(x)


CUTS: list[Callable[[Tensor], Any]] = [
    lambda x: x.chunk(3, 1),
    lambda x: x.split(2, 1),
    lambda x: x.split([2, 4], dim=-3),
    lambda x: torch.tensor_split(x, 3, 1),
    lambda x: torch.tensor_split(x, (2, 3), 1),
    lambda x: (x[:, :2], x[:, 2:]),
    lambda x: (x[:, -6:-4], x[:, 2:999]),
    lambda x: (x.narrow(1, 0, 2), x.narrow(1, 2, 4)),
]


@pytest.mark.parametrize("cut", CUTS)
def test_parts_of_channels_stay_in_the_region(cut: Callable[[Tensor], Any]) -> None:
    found = check(Cut(cut), torch.randn(2, 2, 5, 5))
    assert [part.layers for part in found.parts] == [("one", "two", "last")]
    assert not found.left


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda x: torch.cat([x, x], 2), "a concatenation along another dimension"),
        (lambda x: x[:, ::2], "a slice of another dimension than the channels, or in steps"),
        (lambda x: x[..., 1:], "a slice of another dimension than the channels, or in steps"),
        (lambda x: torch.cat([x.flatten(1), x.flatten(1)], 1), "cat of flattened maps"),
        (lambda x: x.flatten(1)[:, 3:9], "slice of flattened maps"),
        (lambda x: x.chunk(2, 2)[1], "a slice of another dimension than the channels, or in steps"),
    ],
)
def test_which_joins_and_cuts_stay(made: Callable[[Tensor], Tensor], reason: str) -> None:
    found = check(Between(made), torch.randn(2, 2, 5, 5))
    assert reason in "".join(found.left.values())
    assert [part.layers for part in found.parts][:1] == [("first",)]


class Between(nn.Module):
    """A function between layers."""

    def __init__(self, made: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.made = nn.Conv2d(2, 4, 1), made

    def forward(self, x: Tensor) -> Tensor:
        return self.made(self.first(x)).relu()


@pytest.mark.parametrize(
    ("layer", "shape", "reason"),
    [
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), (1, 2, 5, 5), "pad has no kernel"),
        (nn.AvgPool2d(2, ceil_mode=True), (1, 2, 5, 5), "ceil_mode"),
        (nn.MaxPool2d(2, dilation=2), (1, 2, 5, 5), "pooling with dilation"),
        (nn.ConvTranspose2d(2, 2, 2, dilation=2), (1, 2, 5, 5), "a transposed convolution with dilation"),
        (nn.Upsample(scale_factor=2, mode="bicubic"), (1, 2, 5, 5), "upsample_bicubic2d has no kernel"),
        (nn.AvgPool2d(2, padding=1), (1, 2, 4, 4), "mean pooling with padding"),
        (nn.AdaptiveAvgPool2d(2), (1, 2, 5, 5), "unequal sizes"),
        (nn.BatchNorm2d(2, track_running_stats=False), (1, 2, 5, 5), "computes statistics"),
        (nn.Tanh(), (1, 2), "tanh has no kernel"),
        (nn.GELU("tanh"), (1, 2), "a GELU that is approximated"),
        (nn.Linear(2, 2), (1, 3, 2), "more than (N, F)"),
        (nn.Conv3d(2, 2, 1), (1, 2, 3, 3, 3), "5 dimensions"),
        (nn.Linear(2, 2).double(), (1, 2), "float64"),
    ],
)
def test_why_a_layer_stays(layer: nn.Module, shape: tuple[int, ...], reason: str) -> None:
    dtype = next((p.dtype for p in layer.parameters()), torch.float32)
    found, _ = lowered(nn.Sequential(layer), torch.randn(shape, dtype=dtype))
    assert reason in next(iter(found.left.values()))
    assert len(found.parts) == reason.startswith("pad has")  # the convolution over what is padded


@pytest.mark.parametrize(
    ("middle", "kind"),
    [
        (nn.Conv2d(2, 2, 3, padding="same", dilation=2), Conv),
        (nn.Conv2d(2, 2, 3, padding="valid"), Conv),
        (nn.Conv2d(2, 2, (2, 4), padding="same"), Conv),
        (nn.Conv2d(2, 4, 3, groups=2), Conv),
        (nn.MaxPool2d(3, 2, 1), Pool),
        (nn.MaxPool2d(5, 1, 2), Pool),
        (nn.MaxPool2d(3, 2, ceil_mode=True), Pool),
        (nn.MaxPool2d((4, 3), (3, 1), (1, 0), ceil_mode=True), Pool),
        (nn.ConvTranspose2d(2, 3, 2, 2), Conv),
        (nn.ConvTranspose2d(2, 4, 3, 2, 1, output_padding=1, groups=2), Conv),
        (nn.ConvTranspose2d(2, 3, (4, 3), (2, 3), (1, 2), bias=False), Conv),
        (nn.ConvTranspose2d(2, 3, 3), Conv),
        (nn.Upsample(scale_factor=2), Resize),
        (nn.Upsample((9, 4)), Resize),
        (nn.Upsample(scale_factor=1.7, mode="nearest-exact"), Resize),
        (nn.Upsample(scale_factor=2, mode="bilinear"), Resize),
        (nn.Upsample((11, 4), mode="bilinear", align_corners=True), Resize),
        (nn.Upsample(scale_factor=1.6, mode="bilinear"), Resize),
        (Applied(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()), Pool),
        (Applied(lambda x: x.mean((2, 3), keepdim=True) + x), Pool),
        (Applied(lambda x: x - x[:, :1]), Slice),
        (Applied(lambda x: x * x), Combine),
        (Applied(lambda x: x / x.sigmoid()), Pointwise),
        (Applied(lambda x: 3 * x), Pointwise),
        (Applied(lambda x: x - 0.5), Pointwise),
        (Applied(lambda x: x / 4 + 2), Pointwise),
        (nn.AvgPool2d(2), Pool),
        (nn.AdaptiveAvgPool2d(1), Pool),
        (nn.AdaptiveAvgPool2d((3, 1)), Pool),
        (nn.BatchNorm2d(2), Pointwise),
        (nn.BatchNorm2d(2, affine=False), Pointwise),
    ],
)
def test_layers_mean_what_they_do(middle: nn.Module, kind: type) -> None:
    if isinstance(middle, nn.BatchNorm2d):
        middle.running_mean = torch.randn(2)
        middle.running_var = torch.rand(2) + 0.5
    found = check(nn.Sequential(nn.Conv2d(3, 2, 1), middle), torch.randn(2, 3, 6, 6))
    assert type(found.parts[0].region.ops[1]) is kind


@pytest.mark.parametrize(
    ("module", "activation"),
    [
        (nn.ReLU(), RELU),
        (nn.ReLU6(), Activation("hardtanh", (0.0, 6.0))),
        (nn.Hardtanh(-2, 1), Activation("hardtanh", (-2.0, 1.0))),
        (nn.LeakyReLU(0.25), Activation("leaky_relu", (0.25,))),
        (nn.Sigmoid(), Activation("sigmoid")),
        (nn.SiLU(), Activation("silu")),
        (nn.SiLU(inplace=True), Activation("silu")),
        (nn.GELU(), Activation("gelu")),
        (nn.Hardsigmoid(), Activation("hardsigmoid")),
        (nn.Hardswish(inplace=True), Activation("hardswish")),
    ],
    ids=str,
)
def test_activations_go_into_the_operation_before_them(module: nn.Module, activation: Activation) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), module, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 4), module)
    found = check(model, torch.randn(2, 3, 6, 6))
    (part,) = found.parts
    assert [getattr(op, "activation", None) for op in part.region.ops] == [activation, None, activation]
    assert not found.left


class Means(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean([2, 3]) + x.mean((-1, -2), keepdim=True).flatten(1)


def test_means_over_space() -> None:
    found = check(nn.Sequential(nn.Conv2d(3, 2, 1), Means()), torch.randn(2, 3, 4, 4))
    assert not found.left


class Flattened(nn.Module):
    """A norm over flattened maps, which is no norm over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(1, 2, 3), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.norm(self.conv(x).flatten(1)))
        return out


class Squeezed(nn.Module):
    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(*self.dims)


@pytest.mark.parametrize(("dims", "left"), [((), ["squeezing of every dimension, the batch too"]), ((1,), [])])
def test_squeezing_can_take_the_batch(dims: tuple[int, ...], left: list[str]) -> None:
    found = check(nn.Sequential(nn.Linear(3, 2), Squeezed(*dims)), torch.randn(2, 3))
    assert list(found.left.values()) == left


def test_isolated_layers_share_no_region_with_others() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) if i % 2 == 0 else nn.ReLU() for i in range(8)))
    found = lower(traced(model.eval(), (torch.randn(2, 4),), [True]), ["2", "4"])
    assert [part.layers for part in found.parts] == [("0",), ("2", "4"), ("6",)]
    assert all(op.activation == RELU for part in found.parts for op in part.region.ops if isinstance(op, Linear))


def test_what_hooks_do_is_read_and_values_without_a_batch_are_left() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].register_forward_hook(lambda module, args, out: out.cumsum(1))
    found, _ = lowered(model, torch.randn(1, 4))
    assert list(found.left.values()) == ["cumsum has no kernel of its own"]


@pytest.mark.parametrize("shape", [(1, 4), (4,), (1,), ()])
@pytest.mark.parametrize("with_", [torch.add, torch.mul, torch.sub, torch.div])
def test_parameters_for_each_channel_are_scales_and_shifts(shape: tuple[int, ...], with_: Any) -> None:
    found = check(Placed(torch.randn(shape), with_), torch.randn(3, 4))
    assert [type(op) for op in found.parts[0].region.ops] == [Linear, Pointwise]
    assert not found.left
    found = check(Placed(torch.randn(4, 3, 1) if shape else torch.randn(3, 4), with_), torch.randn(3, 4))
    assert list(found.left.values()) == ["a constant that makes the value larger" if shape else _NO_CHANNELS]


_NO_CHANNELS = "a constant that is no number for each channel"


class Placed(nn.Module):
    """A layer's result with a parameter."""

    def __init__(self, place: Tensor, with_: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.place, self.with_ = nn.Linear(4, 4), nn.Parameter(place), with_

    def forward(self, x: Tensor) -> Tensor:
        return self.with_(self.layer(x), self.place)


class Counting(nn.Module):
    """A buffer that its forward changes, and that is read too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.layer(x) * self.calls
        return out


def test_a_buffer_that_changes_is_no_constant() -> None:
    model = Counting()
    deployed = tombola.deploy(model, torch.randn(2, 4), clock=NATIVE)
    for calls in (1, 2, 3):
        x = torch.randn(2, 4)
        torch.testing.assert_close(deployed(x), model.layer(x) * calls)


def test_a_norm_over_flattened_maps_is_left() -> None:
    found = check(Flattened(), torch.randn(3, 1, 4, 4))
    assert "a norm over flattened maps" in found.left.values()


# ---- whole networks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lenet-300-100", "conv-2", "resnet-20"])
def test_networks_of_the_field_are_one_region(name: str) -> None:
    found = check(build_network(name, input_shape=(3, 8, 8), classes=4), torch.randn(2, 3, 8, 8))
    assert len(found.parts) == 1
    assert not found.left


KINDS = ("conv", "relu", "norm", "residual", "silu", "tanh", "pool", "dropout", "halves")


def random_block(kind: str, channels: int) -> nn.Module:
    blocks: dict[str, Callable[[], nn.Module]] = {
        "conv": lambda: nn.Conv2d(channels, channels, 3, padding=1),
        "relu": lambda: nn.ReLU(inplace=True),
        "norm": lambda: nn.BatchNorm2d(channels),
        "residual": lambda: ResidualOf(channels),
        "silu": lambda: nn.SiLU(inplace=True),
        "tanh": nn.Tanh,
        "pool": lambda: nn.MaxPool2d(2, 1),
        "dropout": lambda: nn.Dropout(0.5),
        "halves": lambda: Halves(channels),
    }
    return blocks[kind]()


class Halves(nn.Module):
    """Half of the channels through a layer, and both halves joined."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels // 2, channels // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        one, other = x.chunk(2, 1)
        return torch.cat([other, self.conv(one)], 1)


class ResidualOf(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        return x + self.conv(x).relu()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.sampled_from(["conv", "relu", "norm", "residual", "silu", "tanh", "pool", "dropout", "halves"]), max_size=7
    )
)
def test_random_stacks(kinds: list[str]) -> None:
    torch.manual_seed(len(kinds))
    layers = [random_block(kind, 2) for kind in kinds]
    check(nn.Sequential(nn.Conv2d(1, 2, 3), *layers, nn.Flatten(), nn.LazyLinear(3)), torch.randn(2, 1, 10, 10))
