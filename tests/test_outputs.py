"""The channel pattern leaves the rows of output layers, which are classes, unless it is asked to prune them."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tombola as tb
from tombola.data.splits import Splits, make_splits
from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.nn.outputs import OutputsKeptWarning, output_weights
from tombola.parameters import prunable

RECIPE = {"length": "4it", "batch_size": 8}
RULE = tb.TopK(0.25, pattern="channel")


class HeadFirst(nn.Module):
    """Two heads that are registered before the body, the second of them called as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 3), nn.Linear(8, 2)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.body(x)
        return {"a": self.first(h).softmax(-1), "b": F.linear(h, self.second.weight)}


class Backwards(nn.Module):
    """A classifier whose output layer is registered first."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 4)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x))
        return out


def backwards() -> Backwards:
    torch.manual_seed(0)
    model = Backwards()
    model.head.weight.data[1:] *= 1e-3  # of small classes all but one row would go
    return model


def data() -> Splits:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(32, 6, generator=draw)
    y = torch.arange(32) % 4
    return make_splits((x, y), (x, y), (x, y))


# ---- finding them ------------------------------------------------------------------------------------------------


def test_heads_are_found_by_what_reaches_the_output_not_by_their_order() -> None:
    model = HeadFirst().train()
    assert output_weights(model, torch.randn(2, 6), prunable(model)) == ["first.weight", "second.weight"]
    assert output_weights(model, torch.randn(2, 6), ["body.0.weight", "second.weight"]) == ["second.weight"]
    assert model.training


def test_convolutions_under_pooling_tied_embeddings_and_frozen_weights() -> None:
    conv = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    conv.requires_grad_(False)
    assert output_weights(conv, torch.randn(2, 1, 8, 8), prunable(conv)) == ["2.weight"]
    embed, inner = nn.Embedding(7, 4), nn.Linear(4, 4)
    tied = nn.Sequential(embed, inner, nn.Linear(4, 7, bias=False))
    tied[2].weight = embed.weight
    assert output_weights(tied, torch.randint(7, (2, 3)), prunable(tied)) == []  # its output layer is the embedding
    assert output_weights(nn.Sequential(nn.Flatten()), torch.randn(2, 3), []) == []


# ---- pruning -----------------------------------------------------------------------------------------------------


def rows(mask: Mask) -> dict[str, int]:
    return {name: int(kept.any(1).sum()) for name, kept in mask.items()}


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("criterion", ["magnitude", "random", "small_final"])
def test_pruned_channels_leave_all_classes(scope: str, criterion: str) -> None:
    method = tb.IterativePruning(density=0.6, rounds=2, pattern="channel", scope=scope, criterion=criterion)
    with pytest.warns(OutputsKeptWarning, match=r"keeps all rows of head\.weight, .* prune_outputs prunes it too"):
        kept = rows(tb.find(backwards(), data(), method, recipe=RECIPE).mask)
    assert kept["head.weight"] == 4
    assert sum(kept.values()) == 12  # 0.6 of 20


ASKED = [{"prune_outputs": True}, {"prune_outputs": True, "scope": "global"}, {"output_rate": 0.1}]


@pytest.mark.parametrize("asked", ASKED, ids=repr)
def test_output_rows_are_pruned_where_that_is_asked_for(asked: dict[str, object]) -> None:
    method = tb.IterativePruning(density=0.5, rounds=1, pattern="channel", **asked)  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[5.0], [1e-3], [1e-3], [1e-3]]).expand(4, 8))
    with warnings.catch_warnings(action="error", category=OutputsKeptWarning):
        kept = rows(tb.find(model, data(), method, recipe={**RECIPE, "lr": 1e-4}).mask)
    assert 0 < kept["2.weight"] < 4


def test_other_patterns_prune_the_output_layer_as_before() -> None:
    with warnings.catch_warnings(action="error", category=OutputsKeptWarning):
        for pattern in ("element", "block:2"):
            method = tb.IterativePruning(density=0.5, rounds=1, pattern=pattern)
            assert not bool(tb.find(backwards(), data(), method, recipe=RECIPE).mask["head.weight"].all())


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_density_that_the_outputs_leave_no_room_for_is_refused_before_training(scope: str) -> None:
    method = tb.IterativePruning(density=0.2, rounds=1, pattern="channel", scope=scope)
    with pytest.raises(TombolaError, match=r"density|prune_outputs"):
        tb.find(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), data(), method, recipe=RECIPE)


# ---- learned masks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("method", [tb.EdgePopup, tb.Joint])
def test_learned_channels_leave_all_classes(method: type, scope: str) -> None:
    chosen = method(density=0.5, pattern="channel", scope=scope)
    with pytest.warns(OutputsKeptWarning, match=r"head\.weight"):
        kept = rows(tb.find(backwards(), data(), chosen, recipe=RECIPE).mask)
    assert kept["head.weight"] == 4
    assert sum(kept.values()) == 4 + 8
    asked = method(density=0.5, pattern="channel", scope="layer", prune_outputs=True)
    with warnings.catch_warnings(action="error", category=OutputsKeptWarning):
        assert rows(tb.find(backwards(), data(), asked, recipe=RECIPE).mask)["head.weight"] == 2


def test_an_annealed_density_keeps_them_too() -> None:
    chosen = tb.EdgePopup(density=0.25, pattern="channel", anneal="2it")
    with pytest.warns(OutputsKeptWarning):
        assert rows(tb.find(backwards(), data(), chosen, recipe=RECIPE).mask)["head.weight"] == 4


def test_attach_keeps_the_last_weight_or_those_that_are_named() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.warns(OutputsKeptWarning, match=r"2\.weight, .*attach\(outputs=\(\)\)"):
        tb.attach(model, RULE)
    assert rows(tb.read(model)) == {"0.weight": 2, "2.weight": 4}
    tb.detach(model)
    with warnings.catch_warnings(action="error", category=OutputsKeptWarning):
        tb.attach(model, RULE, outputs=())
        assert rows(tb.read(model)) == {"0.weight": 2, "2.weight": 1}
        tb.detach(model)
        tb.attach(model, tb.TopK(0.25))
        tb.detach(model)
        tb.attach(model, RULE, outputs=["0.weight"])
        assert rows(tb.read(model)) == {"0.weight": 8, "2.weight": 1}
        tb.detach(model)
    with pytest.raises(TombolaError, match=r"'0\.wieght'"):
        tb.attach(model, RULE, outputs=["0.wieght"])
