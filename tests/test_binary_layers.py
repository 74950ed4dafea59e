"""Binary activations and binary layers: values, exact sums, gradients, tools of torch, and the swap in place."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tombola.errors import TombolaError
from tombola.nn.binary import (
    BinaryActivation,
    BinaryConv1d,
    BinaryConv2d,
    BinaryConv3d,
    BinaryLinear,
    is_binary,
    use_binary_layers_,
)

PAIRS = [(nn.Conv1d, BinaryConv1d, 1), (nn.Conv2d, BinaryConv2d, 2), (nn.Conv3d, BinaryConv3d, 3)]


def binarise_(weight: Tensor, *, density: float = 0.5, per_row: bool = True) -> None:
    """Make a weight's rows hold 0 and ±alpha; the first row is empty."""
    shape = (weight.shape[0], *[1] * (weight.dim() - 1))
    alpha = torch.rand(shape) + 0.1 if per_row else torch.full(shape, 0.3)
    with torch.no_grad():
        weight.copy_(alpha * torch.sign(torch.randn_like(weight)) * (torch.rand_like(weight) < density))
        weight[0] = 0


def twins(plain: nn.Module, **options: Any) -> tuple[nn.Module, nn.Module]:
    """(the plain layer with a binary weight, the same as a Binary* layer)."""
    assert isinstance(plain.weight, Tensor)
    binarise_(plain.weight, **options)
    binary = copy.deepcopy(plain)
    use_binary_layers_(binary, ["weight"])
    return plain, binary


def signs(*shape: int) -> Tensor:
    return torch.randint(0, 2, shape) * 2.0 - 1


# ---- activations


def test_activation_values_and_gradient_of_the_paper() -> None:
    x = torch.tensor([-2, -0.5, 0, 0.5, 2], requires_grad=True)
    y = BinaryActivation()(x)
    y.sum().backward()
    assert y.tolist() == [-1, -1, 1, 1, 1]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 2, 1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_activation_is_exactly_plus_or_minus_one(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).tiny
    x = torch.tensor([-0.0, 0.0, tiny, -tiny, torch.inf, -torch.inf, 3, -3], dtype=dtype)
    y = BinaryActivation()(x)
    assert y.dtype == dtype
    assert y.tolist() == [1, 1, 1, -1, 1, -1, 1, -1]
    assert x[0] == 0  # never in place


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=20), st.integers(0, 2**32))
def test_activation_gradient_is_the_factor_times_the_gradient(values: list[float], seed: int) -> None:
    x = torch.tensor(values, requires_grad=True)
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    BinaryActivation()(x).backward(g)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, g * (2 * (1 - x.detach().abs())).clamp(min=0))


def test_activation_keeps_the_memory_format() -> None:
    x = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert BinaryActivation()(x).is_contiguous(memory_format=torch.channels_last)


# ---- layers


@settings(max_examples=40, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 1),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    bias=st.booleans(),
    per_row=st.booleans(),
    channels_last=st.booleans(),
    dims=st.sampled_from([0, 1, 2]),
)
@example(1, 1, 1, 1, 0, "circular", False, False, True, 1)  # 1x1: the weight's strides alone say channels-last
def test_convolution_equals_the_plain_one_with_its_gradients(
    groups: int,
    kernel: int,
    stride: int,
    dilation: int,
    padding: int,
    mode: str,
    bias: bool,
    per_row: bool,
    channels_last: bool,
    dims: int,
) -> None:
    plain_class, binary_class, space = PAIRS[dims]
    assume(space < 3 or mode != "reflect" or padding == 0)
    torch.manual_seed(kernel)
    layer = plain_class(
        4, 8, kernel, stride, padding, dilation, groups, bias, padding_mode=mode, dtype=torch.float64
    )  # fmt: skip
    plain, binary = twins(layer, per_row=per_row)
    assert type(binary) is binary_class
    x = torch.randn(2, 4, *[6] * space, dtype=torch.float64)
    if channels_last and space == 2:
        plain, binary = (module.to(memory_format=torch.channels_last) for module in (plain, binary))
        x = x.to(memory_format=torch.channels_last)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    want, have = plain(a), binary(b)
    torch.testing.assert_close(have, want)
    assert have.stride() == want.stride()
    g = torch.randn_like(want)
    want.backward(g)
    have.backward(g)
    torch.testing.assert_close(b.grad, a.grad)
    for p, q in zip(plain.parameters(), binary.parameters(), strict=True):  # the empty row's gradient too
        torch.testing.assert_close(q.grad, p.grad)
    torch.testing.assert_close(binary(x[0]), plain(x[0]))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 12), (2, 3, 12), (12,)])
def test_linear_equals_the_plain_one_with_its_gradients(bias: bool, shape: tuple[int, ...]) -> None:
    plain, binary = twins(nn.Linear(12, 7, bias=bias, dtype=torch.float64))
    assert type(binary) is BinaryLinear
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(binary(x), plain(x))
    for module in (plain, binary):
        module(x).square().sum().backward()
    for p, q in zip(plain.parameters(), binary.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad)


@settings(max_examples=30, deadline=None)
@given(
    channels=st.integers(1, 70),
    rows=st.integers(1, 9),
    density=st.floats(0, 1),
    alpha=st.floats(2**-10, 8, width=32),
    seed=st.integers(0, 2**32),
)
def test_sums_are_exact_integers_times_alpha(channels: int, rows: int, density: float, alpha: float, seed: int) -> None:
    torch.manual_seed(seed)
    layer = BinaryConv2d(channels, rows, 3, padding=1, bias=False)
    sign = torch.sign(torch.randn_like(layer.weight)) * (torch.rand_like(layer.weight) < density)
    with torch.no_grad():
        layer.weight.copy_(alpha * sign)
    x = signs(2, channels, 4, 4)
    exact = F.conv2d(x.double(), sign.double(), padding=1)
    assert torch.equal(exact, exact.round())
    assert torch.equal(layer(x), exact.float() * torch.tensor(alpha))


def test_order_of_the_inputs_does_not_change_a_bit() -> None:
    torch.manual_seed(0)
    _, layer = twins(nn.Linear(4096, 32))
    assert isinstance(layer, BinaryLinear)
    x, order = signs(16, 4096), torch.randperm(4096)
    want = layer(x)
    with torch.no_grad():
        layer.weight.copy_(layer.weight[:, order])
    assert torch.equal(layer(x[:, order]), want)


def test_weight_is_read_once_per_forward() -> None:
    class Count(nn.Module):
        reads = 0

        def forward(self, weight: Tensor) -> Tensor:
            self.reads += 1
            return weight * 2

    for layer, x in ((BinaryLinear(4, 3), torch.randn(2, 4)), (BinaryConv2d(4, 3, 2), torch.randn(2, 4, 5, 5))):
        count = Count()
        parametrize.register_parametrization(layer, "weight", count)
        count.reads = 0
        layer(x)
        assert count.reads == 1


@pytest.mark.parametrize("layer", [nn.Linear(8, 4), nn.Conv2d(8, 4, 3)])
def test_autocast_gives_the_plain_layers_dtype(layer: nn.Module) -> None:
    plain, binary = twins(layer)
    x = signs(2, 8) if isinstance(layer, nn.Linear) else signs(2, 8, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        want, have = plain(x), binary(x)
    assert have.dtype == want.dtype == torch.bfloat16
    torch.testing.assert_close(have, want, rtol=0.02, atol=0.02)
    have.float().sum().backward()
    assert binary.weight.grad.dtype == torch.float32  # type: ignore[union-attr]


def net() -> nn.Sequential:
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), BinaryActivation(), nn.Flatten(), nn.Linear(64, 5), nn.Flatten()
    )
    for layer in (model[0], model[4]):
        assert isinstance(layer.weight, Tensor)
        binarise_(layer.weight)
    use_binary_layers_(model, ["0.weight", "4.weight"])
    return model


def test_export_compile_and_trace() -> None:
    model, x = net().eval(), torch.randn(2, 3, 6, 6)
    want = model(x)
    assert torch.equal(torch.export.export(model, (x,)).module()(x), want)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), want)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    want.square().sum().backward()
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad()
    have = compiled(x)
    have.square().sum().backward()
    assert torch.equal(have, want)
    for p, g in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, g)


# ---- whether a weight is binary, and the swap


def test_is_binary() -> None:
    assert is_binary(torch.tensor([[0.5, -0.5, 0], [2, 2, 2], [0, 0, 0]]))
    assert is_binary(torch.zeros(3, 0))
    assert is_binary(torch.tensor(3.0))
    assert not is_binary(torch.tensor([[0.5, -0.4]]))
    assert not is_binary(torch.tensor([[torch.inf, 0]]))
    assert not is_binary(torch.tensor([[torch.nan, 1.0]]))
    weight = torch.empty(4, 3, 2, 2)
    binarise_(weight)
    assert is_binary(weight)


def test_swap_changes_classes_alone() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[2].weight = model[1].weight  # tied: both layers turn
    before = dict(model.state_dict())
    use_binary_layers_(model, ["1.weight"])
    use_binary_layers_(model, ["2.weight"])
    assert [type(m) for m in model] == [nn.Conv2d, BinaryLinear, BinaryLinear]
    assert [*model.state_dict()] == [*before]
    assert all(model.state_dict()[name].data_ptr() == tensor.data_ptr() for name, tensor in before.items())


def test_swap_refuses_in_one_line_and_changes_nothing() -> None:
    attention = nn.MultiheadAttention(4, 1)
    cases = [
        (
            nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.ConvTranspose2d(2, 2, 1)}),
            ["a.weight", "b.weight"],
            "Transpose",
        ),
        (attention, ["in_proj_weight"], "MultiheadAttention"),
        (attention, ["out_proj.weight"], "NonDynamically"),
        (nn.Linear(2, 2), ["bias"], "bias of a torch Linear"),
        (nn.Linear(2, 2), ["wieght"], r"did you mean weight\?"),
        (nn.BatchNorm2d(2), ["weight"], "BatchNorm2d"),
        (parametrize.register_parametrization(nn.Linear(2, 2), "weight", nn.Identity()), ["weight"], "parametrisation"),
    ]
    for model, names, message in cases:
        classes = [type(m) for m in model.modules()]
        with pytest.raises(TombolaError, match=message) as caught:
            use_binary_layers_(model, names)
        assert "\n" not in str(caught.value)
        assert [type(m) for m in model.modules()] == classes
