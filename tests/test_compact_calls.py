"""Compaction through functions: which calls let a constant unit pass, and that the outputs stay the network's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tombola.compact import Compacted, compact
from tombola.nn.binary import use_binary_layers_

Call = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """Two layers with a function between them; units 1 and 2 of the first send 3 and 0 whatever the input."""

    def __init__(self, call: Call, conv: bool = False) -> None:
        super().__init__()
        self.call = call
        self.first = nn.Conv2d(2, 4, 1) if conv else nn.Linear(2, 4)
        self.second = nn.Conv2d(4, 3, 1) if conv else nn.Linear(4, 3)
        with torch.no_grad():
            self.first.weight[1:3] = 0
            self.first.bias[1], self.first.bias[2] = 3, 0

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.call(self.first(x)))


def equal(model: nn.Module, *example: Tensor, says: str | None = None) -> Compacted:
    """Compact, and compare on three inputs of other sizes and values.

    `says`: why it is left alone. Otherwise no comparison of outputs may have stopped it: what goes is right at once.
    """
    found = compact(model.eval(), *example)
    assert says is None if found.report.reason is None else says is not None and says in found.report.reason
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for factor, batch in ((1.0, 2), (100.0, 3), (0.01, 5)):
            inputs = [factor * torch.randn(batch, *x.shape[1:], generator=draw) for x in example]
            want, have = model(*inputs), found.module(*inputs)
            torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
    return found


def units(found: Compacted, name: str) -> tuple[int, int]:
    return next(layer.units for layer in found.report.layers if layer.name == name)


PASSING: dict[str, Call] = {
    "plus a number": lambda x: x + 2,
    "a number less": lambda x: x - 2,
    "a number minus": lambda x: 2 - x,
    "in place": lambda x: x.mul_(0.5),
    "times a number": lambda x: 3 * x,
    "torch.add with alpha": lambda x: torch.add(x, 2, alpha=3),
    "by a number": lambda x: x / 4,
    "torch.div": lambda x: torch.div(x, 4),
    "negative": lambda x: -x,
    "square": torch.square,
    "clamp": lambda x: x.clamp(min=-1, max=2),
    "clamp by keyword": lambda x: torch.clamp(x, max=1.5),
    "leaky relu": lambda x: F.leaky_relu(x, negative_slope=0.3),
    "silu": F.silu,
    "hard-swish": F.hardswish,
    "clone": lambda x: x.clone(),
    "dropout in eval mode": lambda x: F.dropout(x, 0.5, training=False),
}


@pytest.mark.parametrize("call", PASSING.values(), ids=PASSING.keys())
def test_constants_pass(call: Call) -> None:
    model = Between(call)
    sent = call(torch.tensor([[3.0, 0.0]]))[0]
    found = equal(model, torch.randn(4, 2))
    assert units(found, "first") == (4, 2)
    assert found.report.constants == {"second": int((sent != 0).sum())}


UNSURE: dict[str, Call] = {
    "a number over it": lambda x: 2 / x,
    "torch.div of a number": lambda x: torch.div(torch.full_like(x, 2.0), x),
    "rounded division": lambda x: torch.div(x, 0.7, rounding_mode="floor"),
    "floor": lambda x: torch.floor(x + 0.5),
    "softmax": lambda x: x.softmax(1),
    "by the sum": lambda x: x - x.sum(1, keepdim=True),
    "turned round": lambda x: x.flip(1),
    "rolled": lambda x: x.roll(1, 1),
    "cumulative": lambda x: x.cumsum(1),
    "a column": lambda x: x + x[:, :1],
    "another shape": lambda x: (x[:, :, None] + torch.arange(3.0)).sum(2),
}


@pytest.mark.parametrize("call", UNSURE.values(), ids=UNSURE.keys())
def test_what_mixes_channels_or_jumps_stays_equal(call: Call) -> None:
    found = equal(Between(call), torch.randn(4, 2))
    assert units(found, "first") == (4, 4)


@pytest.mark.parametrize(
    ("call", "left"),  # 2: constants go; 3: only that of 0, as others are less at the border; 4: nothing goes
    [
        (lambda x: F.max_pool2d(x, 2), 2),
        (lambda x: F.avg_pool2d(x, 2), 2),
        (lambda x: F.avg_pool2d(x, 3, stride=1, padding=1), 3),
        (lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), 2),
        (lambda x: F.avg_pool2d(x, 2, divisor_override=3), 3),
        (lambda x: F.adaptive_avg_pool2d(x, 3), 2),
        (lambda x: F.max_pool2d(x, 3, 1, 1), 2),
        (lambda x: x.mean((2, 3), keepdim=True), 2),
        (lambda x: x.mean(dim=(-1, -2), keepdim=True), 2),
        (lambda x: x.amax(dim=3, keepdim=True), 2),
        (lambda x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1), 4),
        (lambda x: F.pad(x, (1, 1, 1, 1)), 3),
        (lambda x: F.pad(x, (0, 0, 0, 0, 1, 0))[:, :4], 4),
    ],
)
def test_pools_and_borders(call: Call, left: int) -> None:
    found = equal(Between(call, conv=True), torch.randn(2, 2, 6, 6))
    assert units(found, "first") == (4, left)


class Cat(nn.Module):
    """Two branches laid side by side; one unit of each sends a constant."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.join, self.a, self.b, self.last = join, nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(width, 2)
        with torch.no_grad():
            for layer, unit, constant in ((self.a, 0, 5.0), (self.b, 2, 7.0)):
                layer.weight[unit] = 0
                layer.bias[unit] = constant

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.join(self.a(x), self.b(x)))


@pytest.mark.parametrize(
    ("join", "width", "left"),
    [
        (lambda a, b: torch.cat([a, b], 1), 6, 2),
        (lambda a, b: torch.cat((b, a), dim=1), 6, 2),
        (lambda a, b: torch.cat(tensors=[a, b], dim=-1), 6, 2),
        (lambda a, b: torch.concat([a, b], axis=1), 6, 2),
        (lambda a, b: torch.cat([torch.empty(0), a, b], -1), 6, 2),  # what a cache begins with, of no use to torch
        (lambda a, b: torch.cat([a, b]), 3, 3),  # along the batch
        (lambda a, b: torch.cat([a, b], -2), 3, 3),
        (lambda a, b: torch.cat([a, a, b], 1), 9, 2),
        (lambda a, b: a + b, 3, 3),
        (lambda a, b: torch.sub(a, b), 3, 3),
        (lambda a, b: torch.sub(a, other=b), 3, 3),
        (lambda a, b: torch.add(a, b, alpha=3), 3, 3),
        (lambda a, b: a * b, 3, 3),
        (lambda a, b: a / (b.abs() + 1), 3, 3),
        (lambda a, b: torch.stack([a, b], 1).sum(1), 3, 3),
        (lambda a, b: torch.maximum(a, b), 3, 3),
    ],
)
def test_joins(join: Callable[[Tensor, Tensor], Tensor], width: int, left: int) -> None:
    found = equal(Cat(join, width), torch.randn(4, 2))
    assert (units(found, "a"), units(found, "b")) == ((3, left), (3, left))


def test_of_a_range_of_channels_the_others_go() -> None:
    found = equal(Cat(lambda a, b: a[:, 1:] + b[:, 1:2], 2), torch.randn(4, 2))
    assert (units(found, "a"), units(found, "b")) == ((3, 2), (3, 1))


class Functional(nn.Module):
    """Convolutions called as functions on the module's own parameters."""

    def __init__(self, padding: int | str = 0, groups: int = 1, tied: bool = False) -> None:
        super().__init__()
        self.padding, self.groups, self.tied = padding, groups, tied
        self.first, self.bias = nn.Parameter(torch.randn(4, 4 // groups, 1, 1)), nn.Parameter(torch.randn(4))
        self.second = nn.Parameter(torch.randn(4, 4 // groups, 3, 3))
        with torch.no_grad():
            self.first[1] = 0
            self.bias[1] = 3

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.first, self.bias, groups=self.groups)
        y = F.conv2d(y, self.second, padding=self.padding, groups=self.groups)
        return F.conv2d(y, weight=self.first, bias=self.bias, groups=self.groups) if self.tied else y


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, "same", "valid"])
def test_functional_convolutions(padding: int | str, groups: int, tied: bool) -> None:
    equal(Functional(padding, groups, tied), torch.randn(2, 4, 6, 6))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_convolution_without_a_batch_stays(dim: int) -> None:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dim - 1]
    model = nn.Sequential(kind(2, 3, 1), kind(3, 2, 1)).eval()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0, 3
    x = torch.randn(2, *[4] * dim)
    found = compact(model, x)
    torch.testing.assert_close(found.module(x), model(x))


def test_the_report_in_words() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3), nn.Softmax(1), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight[1:3], model[0].bias[1:3] = 0, 0
    report = compact(model.eval(), torch.randn(2, 2)).report
    # 4·2 + 3·4 + 3 weights, then 2·2 + 3·2 + 3; a multiply-add is two FLOPs, for each of two examples
    assert str(report).startswith("compacted: 92 -> 52 FLOPs, 23 -> 13 weights, ")
    lines = str(report).splitlines()
    assert any(line.split()[0] == "0" and "4" in line and "2" in line for line in lines[1:])
    assert any("stays whole" in line and line.split()[0] == "3" for line in lines)
    assert not any(line.split()[0] == "4" for line in lines[1:])  # nothing went there


def test_a_unit_of_a_frozen_layer_and_its_norm_stay_frozen() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.MaxPool2d(1), nn.BatchNorm2d(3), nn.MaxPool2d(1), nn.Conv2d(3, 1, 1))
    with torch.no_grad():
        model[4].weight[:, 1] = 0
    model[2].weight.requires_grad_(False)
    found = compact(model.eval(), torch.randn(2, 1, 4, 4))
    norm = next(m for m in found.module.modules() if isinstance(m, nn.BatchNorm2d))
    assert (norm.weight.shape, norm.weight.requires_grad, norm.bias.requires_grad) == ((2,), False, True)
    assert not isinstance(norm.running_mean, nn.Parameter)
    assert norm.running_mean.shape == norm.running_var.shape == (2,)


def test_binary_layers_keep_their_norms() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    use_binary_layers_(model, ["0.weight"])
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight.sign() * 0.5)
    assert equal(model, torch.randn(4, 3)).report.folded == ()


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_norm_folds_into_a_frozen_layer_with_what_there_is(bias: bool, affine: bool) -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, bias=bias), nn.BatchNorm2d(3, affine=affine), nn.ReLU(), nn.Conv2d(3, 1, 1)
    )
    model[0].weight.requires_grad_(False)
    for value in (model[1].running_mean, model[1].running_var):
        value.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
    found = equal(model, torch.randn(2, 2, 5, 5))
    assert found.report.folded == ("1",)
    layer = found.module.get_submodule("0")
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    assert not layer.weight.requires_grad
    assert found.module.get_parameter("3.weight").requires_grad
    assert (model[0].bias is not None) == bias  # the user's own stays as it is
