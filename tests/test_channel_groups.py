"""Units of channels from the traced graph, and networks that are really made smaller by them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from channel_networks import FAMILIES, PreActivation, grouped, plain, pre_activation
from tombola.compact import ChannelGroups, channel_groups, cut, scatter
from tombola.compact.slim import Slim, slim
from tombola.errors import TombolaError
from tombola.rng.seeds import generator
from tombola.select.select import select

families = pytest.mark.parametrize("family", list(FAMILIES))


def drawn(family: str) -> tuple[nn.Module, Tensor]:
    """A network whose norms have all kinds of numbers, and inputs."""
    make, shape, _ = FAMILIES[family]
    draw = generator(0, family)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm):
                for name, tensor in module.state_dict().items():
                    if name in ("weight", "running_var"):
                        tensor.copy_(0.5 + torch.rand(tensor.shape, generator=draw))
                    elif name in ("bias", "running_mean"):
                        tensor.copy_(0.2 * torch.randn(tensor.shape, generator=draw))
    return model, torch.randn(6, *shape, generator=draw)


def masked(model: nn.Module, groups: ChannelGroups, kept: Tensor) -> nn.Module:
    made = copy.deepcopy(model)
    groups.mask(kept).apply_(made)
    return made


def small_of(model: nn.Module, groups: ChannelGroups, kept: Tensor, x: Tensor) -> Slim:
    return slim(model, groups.mask(kept), x)


def off(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    """The largest difference of outputs, as a part of the largest output."""
    with torch.no_grad():
        one, two = model(x), other(x)
    return float((one - two).abs().max() / one.abs().max())


def half(groups: ChannelGroups, density: float = 0.5) -> Tensor:
    scores = torch.rand(groups.count, generator=generator(4, "scores"))
    return select({"units": scores}, density=density)["units"]


@families
def test_units_of_each_family_come_from_its_graph(family: str) -> None:
    model, x = drawn(family)
    before = copy.deepcopy(model.state_dict())
    groups = channel_groups(model, x)
    assert groups.count == FAMILIES[family][2]
    assert not groups.opaque
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    seen = torch.cat([units[units >= 0] for units in groups.scales.values()])
    assert seen.unique().numel() == groups.count  # each is scaled by a norm


@families
def test_a_network_made_smaller_gives_what_the_masked_one_gives_and_its_tensors_return_to_their_places(
    family: str,
) -> None:
    model, x = drawn(family)
    groups = channel_groups(model, x)
    kept = half(groups)
    made, small = masked(model, groups, kept), small_of(model, groups, kept, x)
    assert small.mask is None
    assert small.report.flops[1] < 0.6 * small.report.flops[0]
    for name, keep in groups.mask(kept).items():
        assert small.module.get_parameter(name).numel() == int(keep.sum())
    module = small.load(made.state_dict())
    assert off(made.eval(), module.eval(), x) < 1e-5
    assert off(made.double().train(), module.double().train(), x.double()) < 1e-5
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator(2, "step")))
    made.load_state_dict(scatter(module.state_dict(), made.state_dict(), small.kept))
    assert off(made.eval(), module.eval(), x.double()) < 1e-5
    again = cut(made.state_dict(), small.kept)
    assert all(torch.equal(again[name], value) for name, value in module.state_dict().items())


def test_a_channel_of_a_residual_stream_is_one_unit_whatever_norms_it_passes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), PreActivation(2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 4))
    groups = channel_groups(model, torch.randn(2, 3, 2, 2))
    assert groups.count == 2 + 1 + 1
    assert torch.equal(groups.scales["1.bn1.weight"], groups.scales["2.weight"])
    with torch.no_grad():
        model[1].bn1.weight.copy_(torch.tensor([0.5, -1.0]))
        model[2].weight.copy_(torch.tensor([0.25, 3.0]))
        model[1].bn2.weight.fill_(-0.125)
    scores = groups.scores(dict(model.named_parameters()))
    assert scores[groups.scales["2.weight"]].tolist() == [0.375, 2.0]
    assert scores[groups.scales["1.bn2.weight"]].tolist() == [0.125]


def test_channels_of_residual_streams_stay_where_they_are_not_asked_for() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), PreActivation(2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 4))
    groups = channel_groups(model, torch.randn(2, 3, 2, 2), residual=False)
    assert groups.count == 2
    assert groups.scales["2.weight"].tolist() == groups.scales["1.bn1.weight"].tolist() == [-1, -1]
    assert groups.scales["1.bn2.weight"].tolist() == [0]
    kept = groups.mask(torch.tensor([False, True]))
    assert bool(kept["0.weight"].all())
    assert bool(kept["4.weight"].all())
    only_streams = nn.Sequential(nn.Conv2d(3, 2, 1), Adding(), nn.Flatten(), nn.Linear(8, 4))
    with pytest.raises(TombolaError, match="residual streams, which are not pruned; set residual"):
        channel_groups(only_streams, torch.randn(2, 3, 2, 2), residual=False)


class Adding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.conv(self.norm(x))
        return added


def test_half_of_four_channels_by_their_scales() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.9, 0.1, -0.5, 0.3]))
    groups = channel_groups(model, torch.randn(2, 1, 1, 1))
    kept = select({"units": groups.scores(dict(model.named_parameters()))}, density=0.5)["units"]
    assert kept.tolist() == [True, False, True, False]
    mask = groups.mask(kept)
    assert mask["0.weight"].flatten().tolist() == kept.tolist()
    assert mask["3.weight"].tolist() == [kept.tolist()] * 2
    assert groups.lost(kept) == []
    assert groups.lost(torch.zeros(4, dtype=torch.bool)) == ["0.weight"]


def test_channels_of_a_group_go_together() -> None:
    model = grouped()
    groups = channel_groups(model, torch.randn(2, 3, 4, 4))
    assert groups.scales["1.weight"].tolist() == [0, 0, 1, 1]
    assert groups.scales["4.weight"].tolist() == [0, 0, 0, 1, 1, 1]
    assert "3.weight" not in groups.inputs


@pytest.mark.parametrize("norm", ["1.bn1.weight", "1.bn2.weight", "2.bn3.weight"])
def test_a_whole_branch_may_die(norm: str) -> None:
    torch.manual_seed(0)
    model, x = pre_activation(), torch.randn(6, 3, 4, 4)
    groups = channel_groups(model, x)
    kept = half(groups, 0.8)
    kept[groups.scales[norm]] = norm == "1.bn1.weight"
    kept[groups.scales["1.bn1.weight"][:4]] = False
    made, small = masked(model, groups, kept), small_of(model, groups, kept, x)
    module = small.load(made.state_dict())
    assert off(made.eval(), module.eval(), x) < 1e-5
    assert off(made.train(), module.train(), x) < 1e-5
    assert (small.mask is None) == (norm == "1.bn1.weight")
    if small.mask is not None:  # of a dead branch one channel stands for all, and is held silent
        assert min(small.mask.densities().values()) < 1


def test_kept_weights_that_are_zero_stay() -> None:
    model = plain(4, 5)
    nn.init.zeros_(model[-1].weight)
    x = torch.randn(4, 3, 4, 4)
    groups = channel_groups(model, x)
    small = small_of(model, groups, half(groups), x)
    assert small.module.load_state_dict(cut(model.state_dict(), small.kept))
    assert sum(p.numel() for p in small.module.parameters()) < sum(p.numel() for p in model.parameters())
    assert small.module.get_parameter("11.weight").shape[1] == int(half(groups)[groups.scales["9.weight"]].sum())


def test_a_small_network_trains_on() -> None:
    model, x = drawn("resnet-20")
    groups = channel_groups(model, x)
    module = small_of(model, groups, half(groups), x).load(model.state_dict())
    step = torch.optim.SGD(module.train().parameters(), lr=0.05)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(module(x), torch.arange(6) % 4)
        loss.backward()  # type: ignore[no-untyped-call]
        step.step()
        step.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_networks_without_such_channels_are_refused() -> None:
    x = torch.randn(2, 3, 4, 4)
    bare = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(TombolaError, match="no norm has a trained scale"):
        channel_groups(bare, x)
    last = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
    with pytest.raises(TombolaError, match="none of its norms' channels can be removed"):
        channel_groups(last, x)

    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(TombolaError, match="channels cannot be followed"):
        channel_groups(Branching(), x)
