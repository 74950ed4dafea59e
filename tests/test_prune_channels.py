"""Channels that are pruned over everything that makes or reads them, and networks that really lose them."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

import tombola as tb
from tombola.compact import Compacted, compact
from tombola.errors import TombolaError
from tombola.prune.channels import Units, channel_units, choose, prune_channels
from tombola.rng.seeds import generator

IMAGE = (3, 16, 16)


def filled(model: nn.Module) -> nn.Module:
    """In eval mode, with numbers everywhere: no scale of 1, no bias or head of 0, statistics of all kinds."""
    draw = generator(0, "numbers")
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if not tensor.is_floating_point():
                continue
            spread = torch.rand(tensor.shape, generator=draw) if name.endswith("running_var") else None
            normal = torch.randn(tensor.shape, generator=draw)
            scale = 1.0 / math.sqrt(max(1, tensor[0].numel())) if tensor.dim() > 1 else 0.5
            tensor.copy_(0.5 + spread if spread is not None else scale * normal)
    return model.eval()


def images(rows: int = 2, *, shape: Sequence[int] = IMAGE) -> Tensor:
    return torch.randn(rows, *shape, generator=generator(1, "images"))


def masked(model: nn.Module, mask: tb.Mask) -> nn.Module:
    made = copy.deepcopy(model)
    mask.apply_(made)
    return made


def off(one: nn.Module, other: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        want, have = one(x), other(x)
    return float((want - have).abs().max() / want.abs().max())


# ---- networks with each kind of coupling -----------------------------------------------------------------------------


class Gate(nn.Module):
    """Squeeze-excitation."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.up(F.silu(self.down(x.mean((2, 3), keepdim=True))))) * x


class Inverted(nn.Module):
    """A block as in EfficientNet: expanded, depthwise, gated, projected, added."""

    def __init__(self, channels: int, wide: int) -> None:
        super().__init__()
        self.expand, self.bn1 = nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False)
        self.bn2, self.gate = nn.BatchNorm2d(wide), Gate(wide, 2)
        self.project, self.bn3 = nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.bn2(self.depthwise(F.silu(self.bn1(self.expand(x))))))
        out: Tensor = x + self.bn3(self.project(self.gate(y)))
        return out


class Beside(nn.Module):
    """Two branches laid side by side, in two ranges that change places."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(torch.cat([self.a(x), self.b(x)], 1))
        out: Tensor = self.c(torch.cat([y[:, 3:], y[:, :3]], 1))
        return out


class Heads(nn.Module):
    """Attention of four heads of width 3, with projections of its own, over 2 + positions numbers."""

    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.attend = attend
        self.q, self.k, self.v, self.o = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        rows, positions, _ = x.shape
        q, k, v = (one(x).view(rows, positions, 4, 3).transpose(1, 2) for one in (self.q, self.k, self.v))
        out: Tensor = self.o(self.attend(q, k, v).transpose(1, 2).reshape(rows, positions, 12))
        return out


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def spelled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(3) + torch.zeros(1, 1, 5, 5)
    return torch.softmax(scores, -1) @ v


class Packed(nn.Module):
    """torch's own attention, whose projection is one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 3, batch_first=True)
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.attention(x, x, x, need_weights=False)[0])
        return out


def convolutions(*middle: nn.Module) -> nn.Module:
    end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), *middle, *end)


def vit(width: int = 32, heads: int = 4, hidden: int = 64) -> nn.Module:
    return VisionTransformer(16, 8, 2, heads, width, hidden, num_classes=5)


def convnext(*widths: int) -> nn.Module:
    one, other = widths
    return ConvNeXt([CNBlockConfig(one, other, 1), CNBlockConfig(other, None, 2)], num_classes=5)


grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
TOKENS = (5, 6)
Case = tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, int]]
CASES: dict[str, Case] = {
    "chain": (lambda: nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 2)), (6,), {"0.weight": 8}),
    "inverted": (
        lambda: convolutions(Inverted(4, 8)),
        IMAGE,
        {"0.weight": 4, "3.expand.weight": 8, "3.gate.down.weight": 2},
    ),
    "beside": (
        lambda: convolutions(Beside()),
        IMAGE,
        {"0.weight": 4, "3.a.weight": 4, "3.b.weight": 6, "3.c.weight": 4},
    ),
    "groups": (lambda: convolutions(copy.deepcopy(grouped)), IMAGE, {"0.weight": 2}),
    "fused attention": (lambda: Heads(fused), TOKENS, {"q.weight": 4}),
    "spelled attention": (lambda: Heads(spelled), TOKENS, {"q.weight": 4}),
    "packed attention": (Packed, TOKENS, {"attention.in_proj_weight": 3, "attention.out_proj.weight": 6}),
}
"""name -> what makes it, the shape of one input, how many units each family has: worked out by hand."""
cases = pytest.mark.parametrize("case", list(CASES))


def drawn(case: str) -> tuple[nn.Module, Tensor]:
    make, shape, _ = CASES[case]
    return filled(make()), images(shape=shape)


@cases
def test_units_come_from_the_graph_and_nothing_of_the_network_changes(case: str) -> None:
    model, x = drawn(case)
    before = copy.deepcopy(model.state_dict())
    units = channel_units(model, x)
    assert units.sizes == CASES[case][2]
    assert units.count == sum(units.sizes.values())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@cases
def test_compaction_leaves_of_every_tensor_what_the_mask_keeps_and_the_outputs(case: str) -> None:
    model, x = drawn(case)
    mask = prune_channels(model, x, density=0.5)
    pruned = masked(model, mask)
    small = compact(pruned, x)
    assert small.report.reason is None
    assert off(pruned, small.module, x) <= 1e-4
    assert_all_gone(small, mask)


def assert_all_gone(small: Compacted, mask: tb.Mask) -> None:
    """Every tensor is as small as the mask says; norms that are folded are not there any more."""
    sizes = {name: tensor.numel() for name, tensor in small.module.named_parameters()}
    folded = {f"{norm}.{kind}" for norm in small.report.folded for kind in ("weight", "bias")}
    want = {name: kept for name, (kept, _) in mask.counts().items() if name not in folded}
    assert {name: sizes[name] for name in want} == want
    assert mask.kept < mask.total


def test_channels_of_which_only_the_makers_are_zero_go_as_well() -> None:
    """Behind a norm of 0 and 0, SiLU gives 0, and the gate 0.5 times 0."""
    model, x = drawn("inverted")
    block = model[3]
    assert isinstance(block, Inverted)
    with torch.no_grad():
        for layer, norm in ((block.expand, block.bn1), (block.depthwise, block.bn2)):
            for tensor in (layer.weight, norm.weight, norm.bias):
                tensor[2:5] = 0
    small = compact(model, x)
    assert small.report.reason is None
    units = {layer.name: layer.units for layer in small.report.layers}
    assert units["3.expand"] == units["3.depthwise"] == units["3.gate.up"] == (8, 5)


# ---- scores and choice -----------------------------------------------------------------------------------------------


def chain(*rows: float) -> tuple[nn.Sequential, Tensor]:
    """Hidden units with a weight each before them, and 1 after."""
    model = nn.Sequential(nn.Linear(1, len(rows)), nn.Linear(len(rows), 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(rows)[:, None])
        model[1].weight.fill_(1.0)
    return model, torch.ones(2, 1)


def test_scores_are_the_mean_over_tensors_of_parts_of_the_familys_mean() -> None:
    model, x = chain(1.0, 2.0, 3.0)
    units = channel_units(model, x)
    squares = {name: weight.square() for name, weight in model.named_parameters()}
    # rows 1, 4, 9 of mean 14/3; columns 1, 1, 1 of mean 1
    want = torch.tensor([(3 / 14 + 1) / 2, (12 / 14 + 1) / 2, (27 / 14 + 1) / 2], dtype=torch.float64)
    torch.testing.assert_close(units.scores(squares), want)
    assert prune_channels(model, x, density=1 / 3)["0.weight"].flatten().tolist() == [False, False, True]


def test_the_mask_drops_rows_biases_and_columns_and_speaks_of_all_weights() -> None:
    model, x = chain(3.0, 1.0, 2.0)
    mask = prune_channels(model, x, density=0.67)
    assert mask.counts() == {"0.weight": (2, 3), "0.bias": (2, 3), "1.weight": (2, 3)}
    assert mask["0.bias"].tolist() == mask["1.weight"][0].tolist() == [True, False, True]


def test_scores_of_a_criterion_decide_in_place_of_magnitudes() -> None:
    model, x = chain(1.0, 2.0, 3.0)
    scores = {"0.weight": torch.tensor([[3.0], [2.0], [1.0]])}
    assert prune_channels(model, x, density=1 / 3, scores=scores)["0.bias"].tolist() == [True, False, False]


def test_of_every_family_one_unit_stays_in_either_scope() -> None:
    units = Units(torch.tensor([0, 0, 0, 1, 1, 1]), ("a", "b"), (), {})
    scores = torch.tensor([1.0, 2.0, 3.0, 9.0, 8.0, 7.0], dtype=torch.float64)
    assert choose(units, scores, 0.01).tolist() == [False, False, True, True, False, False]
    assert choose(units, scores, 0.5, "global").tolist() == [False, False, True, True, True, False]
    assert choose(units, scores, {"b": 0.34}).tolist() == [True, True, True, True, False, False]


def test_layers_that_are_excluded_keep_their_outputs() -> None:
    model, x = drawn("inverted")
    units = channel_units(model, x, exclude=["0.*", "*.down.weight"])
    assert units.sizes == {"3.expand.weight": 8}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"density": 0.0}, "must lie in"),
        ({"density": 0.5, "scope": "row"}, "scope"),
        ({"density": 0.5, "exclude": ["nothing"]}, "matches no layer's weight"),
        ({"density": {"nothing": 0.5}}, "no family of channels is called 'nothing'"),
        ({"density": {"0.weight": 0.5}, "scope": "global"}, "scope 'layer'"),
        ({"density": 0.05, "scope": "global"}, "each of 3 families needs one"),
        (
            {"density": 0.5, "scores": {"0.weight": torch.ones(3)}},
            r"scores of '0.weight' have shape \(3,\)",
        ),
        ({"density": 0.5, "scores": {"0.wieght": torch.ones(3)}}, "did you mean 0.weight"),
        ({"density": 0.5, "scores": {"0.weight": torch.full((4, 3, 1, 1), math.nan)}}, "scores of '0.weight' are NaN"),
    ],
)
def test_mistakes_are_refused_in_one_line(asked: dict[str, object], says: str) -> None:
    model, x = drawn("inverted")
    with pytest.raises(TombolaError, match=says) as error:
        prune_channels(model, x, **asked)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_a_network_without_channels_that_can_go_is_refused() -> None:
    with pytest.raises(TombolaError, match="no channel of the network can go"):
        prune_channels(nn.Linear(2, 3), torch.ones(1, 2), density=0.5)
    with pytest.raises(TombolaError, match="there is no example input"):
        prune_channels(nn.Linear(2, 3), density=0.5)
    with pytest.raises(TombolaError, match=r"the network refuses the example of shape \(1, 5\) \(.*forward takes it"):
        prune_channels(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)), torch.ones(1, 5), density=0.5)


def test_a_refused_example_is_said_once_and_torch_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    loggers = [logging.getLogger(f"torch.{name}") for name in ("_subclasses.fake_tensor", "fx.experimental.recording")]
    for logger in loggers:
        logger.addHandler(caplog.handler)
    try:
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 4))
        with pytest.raises(TombolaError, match="the network refuses the example"):
            prune_channels(model, torch.ones(2, 1, 9, 9), density=0.5)
    finally:
        for logger in loggers:
            logger.removeHandler(caplog.handler)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not any(logger.disabled for logger in loggers)


def test_weights_that_are_no_numbers_are_refused() -> None:
    model, x = drawn("inverted")
    next(model.parameters()).data[0] = math.nan
    with pytest.raises(TombolaError, match="are NaN; did training diverge"):
        prune_channels(model, x, density=0.5)


# ---- streams through layer norms -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: vit(), lambda: convnext(8, 12)], ids=["vit", "convnext"])
def test_a_stream_through_layer_norms_stays_and_the_rest_goes_exactly(make: Callable[[], nn.Module]) -> None:
    model, x = filled(make()), images()
    mask = prune_channels(model, x, density=0.5)
    pruned = masked(model, mask)
    small = compact(pruned, x)
    assert small.report.reason is None
    assert off(pruned, small.module, x) <= 1e-4
    assert "its statistics are of all channels" in str(small.report)
    assert_all_gone(small, mask)


@pytest.mark.parametrize(
    ("make", "smaller"),
    [(lambda: vit(), lambda: vit(16, 2, 32)), (lambda: convnext(8, 12), lambda: convnext(4, 6))],
    ids=["vit", "convnext"],
)
def test_a_stream_that_is_cut_across_layer_norms_is_the_network_of_that_size(
    make: Callable[[], nn.Module], smaller: Callable[[], nn.Module]
) -> None:
    """The same class built with half of all widths, and given the tensors that are left, computes the same."""
    model, x = filled(make()), images()
    mask = prune_channels(model, x, density=0.5, across_norms=True)
    pruned = masked(model, mask)
    small = compact(pruned, x, across_norms=True)
    assert small.report.reason is None
    assert small.report.error <= 1e-4
    half = smaller().eval()
    half.load_state_dict(small.module.state_dict())
    assert off(half, small.module, x) <= 1e-4
    assert off(pruned, small.module, x) > 1e-2  # no mask can say it: the norms see fewer channels
    assert_all_gone(small, mask)


# ---- torchvision's networks ------------------------------------------------------------------------------------------

COUNTS = {
    "mobilenet_v3_small": (113_020_800, 35_206_976),
    "resnet18": (3_628_146_688, 966_299_648),
    "efficientnet_b0": (771_629_504, 216_232_416),
}
"""FLOPs of one image at 224x224: whole, and with half of the channels by Torch-Pruning 1.6.1 (MagnitudePruner, the
classifier left out, its other settings as they are), counted by `tombola.nn.flops`."""


def half_of(name: str) -> tuple[int, int]:
    """FLOPs of a network and of what is left of it, which gives what the masked one gives."""
    model, x = filled(getattr(torchvision.models, name)()), images(1, shape=(3, 224, 224))
    mask = prune_channels(model, x, density=0.5)
    pruned = masked(model, mask)
    small = compact(pruned, x)
    assert small.report.reason is None
    assert off(pruned, small.module, x) <= 1e-4
    return small.report.flops


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COUNTS))
def test_half_of_the_channels_leave_as_few_flops_as_torch_pruning(name: str) -> None:
    assert half_of(name) == COUNTS[name]
