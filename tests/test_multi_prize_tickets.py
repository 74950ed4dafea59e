"""Tickets of binary networks: what is stored, what is built, what it weighs, and who goes on from it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from test_multi_prize import RECIPE, levels, network, splits
from torch import Tensor, nn

from tombola.errors import TicketError, TombolaError
from tombola.methods.binary_weights import BinaryWeights
from tombola.methods.edge_popup import EdgePopup
from tombola.methods.find import find, run_find
from tombola.methods.imp import IterativePruning
from tombola.methods.joint import Joint
from tombola.methods.multi_prize import MultiPrize
from tombola.methods.request import make_request
from tombola.methods.start import start_from
from tombola.models.spec import ModelSpec
from tombola.nn.binary import BinaryActivation, BinaryConv2d, BinaryLinear
from tombola.rng.seeds import derive
from tombola.study.arms import ARMS, Contest
from tombola.study.verify import verify
from tombola.supermask import refresh
from tombola.supermask.attach import groups, layers
from tombola.supermask.loop import attached, make_ticket
from tombola.ticket.export import export_state
from tombola.ticket.origin import NetworkSpec, Origin
from tombola.ticket.storage import bits_per_weight
from tombola.ticket.ticket import Ticket
from tombola.train.hooks import Hook
from tombola.train.options import Options
from tombola.train.recipe import Recipe
from tombola.train.search import Search
from tombola.train.state import Loop

OWN = {
    "lenet-300-100": {"width": 0.1},
    "conv-2": {"width": 0.06},
    "vgg-small": {"width": 0.06},
    "resnet-20": {"width": 0.25},
    "wrn-10-1": {},
}


class Functional(nn.Module):
    """A user's network whose ReLUs are functions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.hidden, self.out = nn.Linear(144, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.out(nn.functional.relu(self.hidden(x.flatten(1)), inplace=True))


def trained(name: str, method: Any, shape: tuple[int, ...] = (1, 8, 8)) -> tuple[nn.Module, Ticket]:
    """One of Tombola's own networks, attached and trained for two steps, in eval mode, and its ticket."""
    spec = method.network(ModelSpec(name, OWN[name]))
    nothing: Any = None
    origin = Origin.seeded(NetworkSpec(spec.name, spec.args, shape, 4), "kaiming_normal", 5)
    made = Search(nothing, origin, 0, {"from": "a test"})
    learning = method.learning(made.network())
    model = attached(made, learning)
    scores, weights = groups(model)
    torch.manual_seed(0)
    optimizer = torch.optim.SGD([*scores, *weights], lr=0.5, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        out = model(torch.randn(6, *shape))
        nn.functional.cross_entropy(out, torch.randint(4, (6,))).backward()
        optimizer.step()
        refresh(model)
    return model.eval(), make_ticket(made, model, learning.rewrites, {})


# -- the same bits


METHODS = [
    MultiPrize(density=0.3),
    MultiPrize(density=0.3, norms="trained", scope="global", per_channel=True),
    Joint(density=0.3, weights="binary", weight_gradient="dense"),
    BinaryWeights(),
]


def named(method: Any) -> str:
    return f"{method.name} {getattr(method, 'norms', '')}"


@pytest.mark.filterwarnings("ignore:nothing is kept")
@pytest.mark.parametrize("activations", ["float", "binary"])
@pytest.mark.parametrize("method", METHODS, ids=named)
@pytest.mark.parametrize("name", OWN)
def test_what_is_saved_computes_the_same_bits(name: str, method: Any, activations: str, tmp_path: Path) -> None:
    method = type(method)(**{**vars(method), "activations": activations})
    model, ticket = trained(name, method)
    ticket.save(tmp_path / "a.ticket")
    loaded = Ticket.load(tmp_path / "a.ticket")
    assert loaded == ticket
    built = loaded.build().eval()
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(built(x), model(x))
    kinds = [type(module) for module in built.modules()]
    assert BinaryLinear in kinds
    assert (BinaryActivation in kinds) == (activations == "binary")
    for layer in layers(model):
        weight = dict(built.named_parameters())[layer.name].detach()
        assert torch.equal(weight, layer.supermask(layer.weight).detach())
        if not getattr(method, "per_channel", False):
            assert len(weight.abs().unique()) <= 2
            assert weight.abs().max() == layer.supermask.scale
    if isinstance(method, MultiPrize):
        sizes = loaded.info()["bytes_by_kind"]
        assert set(sizes) <= {"mask", "scale", "state"}  # seeded weights: neither values nor signs
        assert loaded.trained is None
    else:
        assert loaded.trained
        assert all(signs.dtype == torch.int8 for signs in loaded.trained.values())


def test_joint_binary_stores_signs_of_those_layers_alone_that_have_flipped() -> None:
    method = Joint(density=0.3, weights="binary")
    spec = method.network(ModelSpec("conv-2", OWN["conv-2"]))
    nothing: Any = None
    origin = Origin.seeded(NetworkSpec(spec.name, spec.args, (1, 8, 8), 4), "kaiming_normal", 5)
    made = Search(nothing, origin, 0, {})
    learning = method.learning(made.network())
    model = attached(made, learning)
    first, second, *_ = layers(model)
    with torch.no_grad():
        second.weight.mul_(1.7)  # other sizes, the same signs
        first.weight.neg_()
    refresh(model)
    ticket = make_ticket(made, model, learning.rewrites, {})
    assert ticket.trained is not None
    assert set(ticket.trained) == {first.name}
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(ticket.build().eval()(x), model.eval()(x))


def test_tuned_norms_are_kept_with_signs_and_scales(tmp_path: Path) -> None:
    levels_ = levels(MultiPrize(norms="tuned", tune="3it", activations="binary"), ModelSpec("mlp", {"hidden": [9, 7]}))
    first, second = (level.ticket for level in levels_)
    second.save(tmp_path / "b.ticket")
    loaded = Ticket.load(tmp_path / "b.ticket")
    x = torch.randn(4, 1, 6, 6)
    assert torch.equal(loaded.build().eval()(x), second.build().eval()(x))
    before, after = first.build().state_dict(), loaded.build().state_dict()
    assert {name for name in after if not torch.equal(before[name], after[name])} >= {"norm1.weight", "norm1.bias"}
    assert all(torch.equal(before[name], after[name]) for name in first.mask)
    assert "trained" not in loaded.info()["bytes_by_kind"]


# -- what it weighs


def test_bits_per_weight_by_hand() -> None:
    torch.manual_seed(0)
    ticket = find(nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, 2)), splits(), MultiPrize(0.25))
    half = 0.25 * math.log2(4) + 0.75 * math.log2(4 / 3)  # H(1/4) of either layer: 36 of 144, 2 of 8
    assert bits_per_weight(ticket) == pytest.approx(half + 0.25)
    popup = find(
        nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, 2)), splits(), EdgePopup(0.25), recipe=RECIPE
    )
    assert bits_per_weight(popup) == pytest.approx(half + 0.25 * 32)
