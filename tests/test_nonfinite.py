"""NaN and infinities: what reaches an output over kept weights comes out of every native kernel as torch has it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tombola
from activations import ACTIVATIONS
from clocks import NATIVE
from tombola.compact.compare import largest_error
from tombola.deploy.jit.program import Program
from tombola.deploy.kernels.binary.layer import Maps
from tombola.deploy.kernels.binary.modules import PackSigns
from tombola.deploy.kernels.gemv.forms import build as build_gemv
from tombola.deploy.kernels.gemv.forms import forms
from tombola.deploy.kernels.sparse import build
from tombola.deploy.kernels.sparse.candidates import candidates, splits
from tombola.deploy.kernels.sparse.choices import Choices
from tombola.deploy.kernels.sparse.geometry import shapes_of
from tombola.deploy.nonzeros import Nonzeros
from tombola.deploy.ops import RELU, Conv, Linear, Op, Pointwise, Pool, Region
from tombola.nn.binary import BinaryActivation, BinaryConv2d, BinaryLinear

NAN, INF = float("nan"), float("inf")
ODD = (NAN, INF, -INF)


deploy = partial(tombola.deploy, clock=NATIVE)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def over_kept(weight: Tensor, patches: Tensor) -> Tensor:
    """Σ weight · patch over the weights that are not 0; weight (out, in), patches (..., in)."""
    return torch.where(weight != 0, weight * patches.unsqueeze(-2), torch.zeros(())).sum(-1)


def computed(op: Op, x: Tensor, residual: Tensor | None, *, dense: bool) -> Tensor:
    """The operation by torch; not dense: pruned weights read nothing."""
    if isinstance(op, Linear):
        y = F.linear(x.flatten(1), op.weight, op.bias) if dense else over_kept(op.weight, x.flatten(1))
        y = y if dense or op.bias is None else y + op.bias
    elif isinstance(op, Conv):
        y = F.conv2d(x, op.weight, None, op.stride, op.padding)
        if not dense:
            patches = F.unfold(x, op.weight.shape[2:], padding=op.padding, stride=op.stride).movedim(1, -1)
            y = over_kept(op.weight.flatten(1), patches).movedim(-1, 1).reshape(y.shape)
    elif isinstance(op, Pool):
        y = (F.max_pool2d if op.kind == "max" else F.avg_pool2d)(x, op.kernel, op.stride, op.padding)
    else:
        y = x if op.scale is None else x * op.scale.view(-1, 1, 1)
    y = y if residual is None else y + residual
    return y if op.activation is None else op.activation(y)


def strewn(x: Tensor) -> Tensor:
    """Some NaN and infinities among the values."""
    flat = x.clone().view(-1)
    for i, value in enumerate(ODD * 2):
        flat[(7 * i + 3) % len(flat)] = value
    return flat.view(x.shape)


def agree(found: Tensor, wanted: Tensor, eager: Tensor | None = None) -> None:
    """Each value is what is wanted, or what torch gives, where a pruned weight meets what is not finite."""
    wanted = wanted if eager is None else torch.where(found.isnan() & eager.isnan(), eager, wanted)
    torch.testing.assert_close(found, wanted, equal_nan=True, rtol=1e-4, atol=1e-4)


def weights(*shape: int) -> Tensor:
    return torch.randn(shape) * (torch.rand(shape) < 0.4)


OPS: dict[str, tuple[tuple[int, ...], Op]] = {
    "linear": ((16,), Linear("l", "x", "y", weights(12, 16), torch.randn(12))),
    "linear, relu": ((16,), Linear("l", "x", "y", weights(12, 16), torch.randn(12), activation=RELU)),
    "linear, added": ((12,), Linear("l", "x", "y", weights(12, 12), torch.randn(12), residual="x")),
    "convolution": ((3, 6, 9), Conv("c", "x", "y", weights(4, 3, 3, 3), padding=(1, 1), activation=RELU)),
    "strided": ((3, 7, 7), Conv("c", "x", "y", weights(4, 3, 3, 3), stride=(2, 2), padding=(1, 1), activation=RELU)),
    "max": ((3, 6, 8), Pool("p", "x", "y", "max", (2, 2), (2, 2))),
    "max, padded": ((3, 6, 9), Pool("p", "x", "y", "max", (3, 3), (2, 2), (1, 1), activation=RELU)),
    "large max": ((3, 9, 9), Pool("p", "x", "y", "max", (5, 5), (1, 1))),
    "mean": ((3, 6, 8), Pool("p", "x", "y", "mean", (2, 2), (2, 2), activation=RELU)),
    "relu": ((3, 5, 5), Pointwise("r", "x", "y", activation=RELU)),
    "norm": ((3, 5, 5), Pointwise("r", "x", "y", scale=torch.tensor([1.0, -2.0, 0.5]), activation=RELU)),
    "added": ((3, 5, 5), Pointwise("r", "x", "y", residual="x", activation=RELU)),
    **{f"{one.name} alone": ((3, 5, 5), Pointwise("r", "x", "y", activation=one)) for one in ACTIVATIONS},
    **{f"{one.name} fused": ((16,), Linear("l", "x", "y", weights(12, 16), activation=one)) for one in ACTIVATIONS},
}


@pytest.mark.parametrize("batch", [1, 8, 11])
@pytest.mark.parametrize("kind", OPS)
def test_kernels_pass_on_what_is_not_finite(kind: str, batch: int) -> None:
    shape, op = OPS[kind]
    region = Region({"x": shape}, (op,), ("y",))
    x = strewn(torch.randn(batch, *shape))
    residual = x if getattr(op, "residual", None) else None
    wanted = computed(op, x, residual, dense=False)
    eager = computed(op, x, residual, dense=True)
    for split in splits(region, batch, 1):
        tried = candidates(op, shapes_of(region)["y"], split) if isinstance(op, Conv | Linear) else ()
        for chosen in [{"y": one} for one in (*tried[:1], *tried[-1:])] or [{}]:
            agree(build(region, batch, 1, Choices(split, chosen))(x)[0], wanted, eager)


@pytest.mark.parametrize("kind", ["weights", "signs"])
def test_products_with_a_vector(kind: str) -> None:
    weight = weights(40, 300)
    if kind == "signs":
        weight = weight.sign()
    x = torch.randn(300)
    for value in ODD:
        x[5] = value
        wanted = over_kept(weight, x).relu()
        for choice in forms(Nonzeros(weight)):
            gemv = build_gemv(Nonzeros(weight), None, choice, activation=RELU)
            found = torch.empty(40)
            step = gemv.step(x, found)
            Program([step], 1).run()
            agree(found, wanted, weight @ x)


# ---- whole networks --------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.two(self.one(x).relu()) + x).relu()


NETWORKS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "mlp": (nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4), nn.ReLU()), (8,)),
    "convolutions": (
        nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3),
            nn.ReLU6(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3), nn.LeakyReLU(),
        ),
        (3, 8, 8),
    ),
    "residual": (nn.Sequential(Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), (3, 6, 6)),
    "hard": (nn.Sequential(nn.Linear(8, 8), nn.Hardtanh(), nn.Linear(8, 8), nn.Softplus()), (8,)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch", [1, 8])
def test_without_zeros_networks_give_just_what_torch_gives(name: str, batch: int) -> None:
    model, shape = NETWORKS[name]
    model.eval()
    fast = deploy(model, torch.randn(batch, *shape), threads=1)
    for value in ODD:
        x = torch.randn(batch, *shape)
        x[(0, *[1] * len(shape))] = value
        with torch.no_grad():
            agree(fast(x), model(x))
        assert not fast(torch.full_like(x, NAN)).isfinite().any()


def test_a_mask_hides_only_what_it_prunes() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight[:2, 0] = 0
        model[2].weight[0, 2] = 0  # output 0 does not read unit 2, which alone reads input 0
        model[2].weight[1, 2] = 1
    fast = deploy(model.eval(), torch.randn(1, 4), threads=1)
    out = fast(torch.tensor([[NAN, 1.0, 1.0, 1.0]]))[0]
    assert out[1].isnan()  # output 0 may be NaN, as in a dense product, or not


@pytest.mark.parametrize(("one", "other"), [(NAN, 0.0), (INF, -INF), (INF, torch.finfo(torch.float64).max), (NAN, INF)])
def test_what_is_not_finite_is_not_equal_to_something_else(one: float, other: float) -> None:
    a, b = (torch.tensor([1.0, value], dtype=torch.float64) for value in (one, other))
    assert largest_error(a, b) == largest_error(b, a) == INF
    assert largest_error(a, a) == largest_error(b, b) == 0


# ---- signs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [8, 64, 5])
def test_the_sign_of_nan_is_torchs(channels: int) -> None:
    x = torch.randn(3, channels, 4, 4)
    x[:, 1::3] = NAN
    for lies in (x, x.contiguous(memory_format=torch.channels_last)):
        bits = PackSigns(Maps(channels, 4, 4), 1)(lies)
        assert torch.equal(bits, PackSigns(Maps(channels, 4, 4), 1)(BinaryActivation()(lies)))


def test_binary_networks_give_nan_its_sign() -> None:
    middle = (BinaryConv2d(8, 8, 3), nn.BatchNorm2d(8), BinaryActivation(), nn.Flatten())
    model = nn.Sequential(BinaryActivation(), *middle, BinaryLinear(32, 4))
    with torch.no_grad():
        for module in (model[1], model[5]):
            module.weight.sign_()
    model.eval()
    x = torch.randn(2, 8, 4, 4)
    fast = deploy(model, x, threads=1)
    x[:, ::2] = NAN
    with torch.no_grad():
        assert torch.equal(fast(x), model(x))
