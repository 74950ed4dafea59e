"""One-shot pruning of trained networks: scores and updates by hand, exact counts, any form of calibration data."""

from __future__ import annotations

import copy
import json
import random
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.prune import l1_unstructured

import tombola as tb
from tombola.cli import main
from tombola.data.registry import load_data
from tombola.data.splits import Resident
from tombola.errors import TombolaError
from tombola.models.registry import build_network
from tombola.prune.calibration import read
from tombola.prune.layers import layers_of
from tombola.prune.measure import likeness
from tombola.prune.norms import renew_norms
from tombola.prune.sparse_gpt import sparse_gpt
from tombola.prune.watch import gram_matrices, input_norms, order_of_calls
from tombola.select.patterns import NM, Block, Element, Inputs
from tombola.select.select import EmptyLayerWarning
from tombola.ticket.example import example_input


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(*layers: nn.Module, seed: int = 0) -> nn.Sequential:
    model, draw = nn.Sequential(*layers).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    return model


# ---- Wanda -------------------------------------------------------------------------------------------------


def test_wanda_by_hand() -> None:
    layer = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0, 3.0], [4.0, 1.0, -0.5]]))
    x = torch.tensor([[3.0, 1.0, 0.0], [4.0, 0.0, 1.0]])  # norms 5, 1, 1: scores 5 2 3, 20 1 0.5
    pruned = tb.prune(layer, x, density=1 / 3, criterion="wanda")
    assert pruned.mask["weight"].tolist() == [[True, False, False], [True, False, False]]
    by_layer = tb.prune(layer, x, density=0.5, criterion="wanda", scope="layer")
    assert by_layer.mask["weight"].tolist() == [[True, False, True], [True, False, False]]


def test_rows_share_the_exact_count_evenly() -> None:
    model = network(nn.Linear(7, 10))
    pruned = tb.prune(model, drawn(5, 7), density=0.3, criterion="wanda")
    rows = pruned.mask["0.weight"].sum(1)
    assert pruned.mask.kept == 21
    assert set(rows.tolist()) == {2, 3}


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Linear(6, 4), (3, 5, 6)),
        (lambda: nn.Conv1d(4, 6, 3, padding=1), (2, 4, 9)),
        (lambda: nn.Conv1d(4, 6, 3, padding="same", padding_mode="reflect"), (2, 4, 9)),
        (lambda: nn.Conv2d(4, 6, (3, 2), stride=2, dilation=(1, 2), groups=2), (2, 4, 9, 8)),
        (lambda: nn.Conv2d(4, 8, 3, padding=2, groups=4, padding_mode="circular"), (2, 4, 5, 6)),
        (lambda: nn.Conv3d(2, 4, 2, padding=1), (1, 2, 4, 5, 3)),
        (lambda: nn.ConvTranspose1d(4, 6, 4, stride=3, padding=1), (2, 4, 5)),
        (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=2, output_padding=1, groups=2), (2, 4, 4, 5)),
        (lambda: nn.ConvTranspose2d(4, 6, 2, stride=3, dilation=2, output_padding=2), (2, 4, 4, 5)),
    ],
)
def test_rows_times_columns_are_the_layers_output(layer: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    model = network(layer(), seed=1)
    found = layers_of(model)["0.weight"]
    x = drawn(*shape)
    rows = found.rows(found.weight.detach())
    assert torch.equal(found.weight_of(rows), found.weight)
    outputs = []
    for columns in found.columns(model[0], (x,), {}):
        outputs.append(torch.cat([part @ group.t() for part, group in zip(columns, rows, strict=True)], dim=1))
    bias = model[0].bias.detach()
    truth = model(x).detach()
    truth = truth if isinstance(model[0], nn.Linear) else truth.movedim(1, -1)
    torch.testing.assert_close(torch.cat(outputs) + bias, truth.reshape(-1, len(bias)), rtol=1e-4, atol=1e-4)


# ---- SparseGPT ---------------------------------------------------------------------------------------------


def test_the_kept_weights_are_the_least_squares_solution() -> None:
    x, weight = drawn(50, 4).double(), drawn(1, 1, 4, seed=1).double()
    gram = (2 * x.t() @ x / 50).unsqueeze(0)
    new, kept = sparse_gpt(weight, gram, 0.75, Element(), damping=1e-12)
    gone = int((~kept[0, 0]).nonzero())
    # Of four single deletions it is the one that costs least, each at its own best ... to the right of the column.
    left = [j for j in range(4) if j > gone]
    target = x @ weight[0, 0] - x[:, :gone] @ weight[0, 0, :gone]
    best = torch.linalg.lstsq(x[:, left], target.unsqueeze(1)).solution.flatten() if left else weight[0, 0, :0]
    torch.testing.assert_close(new[0, 0, left], best)
    assert torch.equal(new[0, 0, :gone], weight[0, 0, :gone])
    assert new[0, 0, gone] == 0


def test_the_first_column_is_made_up_for_by_all_others() -> None:
    x = drawn(60, 5).double()
    x[:, 0] = x[:, 1] + 0.1 * x[:, 0]  # nearly the second: it costs least
    weight = torch.ones(1, 1, 5, dtype=torch.float64)
    new, kept = sparse_gpt(weight, (x.t() @ x / 30).unsqueeze(0), 0.8, Element(), damping=1e-12)
    assert kept[0, 0].tolist() == [False, True, True, True, True]
    best = torch.linalg.lstsq(x[:, 1:], x.sum(1, keepdim=True)).solution.flatten()
    torch.testing.assert_close(new[0, 0, 1:], best)


@pytest.mark.parametrize("pattern", [Element(), Block(4), Inputs(4), NM(2, 4), NM(1, 3)], ids=str)
@pytest.mark.parametrize("block", [3, 8, 128])
def test_exact_counts_over_groups_and_blocks(pattern: Any, block: int) -> None:
    rows, x = drawn(3, 10, 13), drawn(3, 40, 13, seed=1).double()
    gram = x.transpose(1, 2) @ x
    new, kept = sparse_gpt(rows, gram, 0.37, pattern, block=block)
    assert bool((new[~kept] == 0).all())
    if isinstance(pattern, NM):
        for mask in kept.flatten(0, 1):
            full = mask[: 13 - 13 % pattern.m].view(-1, pattern.m)
            assert full.sum(1).tolist() == [pattern.n] * len(full)
    elif isinstance(pattern, Element):
        assert int(kept.sum()) == round(0.37 * kept.numel())
    elif isinstance(pattern, Inputs):
        units = kept[:, :, ::4]
        assert int(units.sum()) == round(0.37 * units.numel())
        assert torch.equal(units.repeat_interleave(4, dim=2)[:, :, :13], kept)
    else:
        units = kept[:, ::4]
        assert int(units.sum()) == round(0.37 * units.numel())


def test_units_of_inputs_are_channels_at_one_position_in_every_kind_of_layer() -> None:
    layers = nn.Conv2d(6, 4, (3, 2)), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2)
    found = tb.prune(network(*layers), drawn(2, 6, 5, 5), density=0.4, pattern="inputs:3")
    down, up = found.mask["0.weight"], found.mask["2.weight"].transpose(0, 1)
    assert torch.equal(down, down[:, ::3].repeat_interleave(3, dim=1))
    assert int(down.sum()) == 3 * round(0.4 * down[:, ::3].numel())
    assert torch.equal(up[:, :3], up[:, :1].expand(-1, 3, -1, -1))
    assert int(up[:, ::3].sum()) == round(0.4 * up[:, ::3].numel())
    with pytest.raises(TombolaError, match="has a kernel of several positions"):
        tb.prune(network(*layers), drawn(2, 6, 5, 5), density=0.4, pattern="inputs:3", criterion="sparse_gpt")


def test_a_wide_layer_is_cut_into_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network(nn.Linear(300, 4)), drawn(500, 300)
    whole = tb.prune(model, x, density=0.4, criterion="sparse_gpt")
    monkeypatch.setattr(import_module("tombola.prune.sparse_gpt"), "LARGEST", 140 * 300)
    cut = tb.prune(model, x, density=0.4, criterion="sparse_gpt")
    alone = [network(nn.Linear(n, 4)) for n in (140, 140, 20)]
    for part, one in zip(model[0].weight.detach().split(140, dim=1), alone, strict=True):
        one[0].weight.data = part
    each = [
        tb.prune(one, y, density=0.4, criterion="sparse_gpt").model[0].weight
        for one, y in zip(alone, x.split(140, dim=1), strict=True)
    ]
    torch.testing.assert_close(cut.model[0].weight, torch.cat(each, dim=1))
    assert cut.mask.kept == whole.mask.kept == 480
    of_groups = tb.prune(model, x, criterion="sparse_gpt", pattern="1:3")
    assert set(of_groups.mask["0.weight"].view(-1, 3).sum(1).tolist()) == {1}


def test_a_smaller_error_than_magnitude_and_than_wanda() -> None:
    x = drawn(400, 8) @ drawn(8, 32, seed=3) + 0.1 * drawn(400, 32, seed=4)  # features that depend on each other
    model = network(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8))
    found = [tb.prune(model, x, density=0.4, criterion=name) for name in ("sparse_gpt", "wanda", "magnitude")]
    errors = [one.error or 0 for one in found]
    assert errors == sorted(errors)
    assert errors[0] < 0.5 * errors[1]


def test_later_layers_see_what_pruned_ones_send() -> None:
    model, x = network(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)), drawn(50, 6)
    found = tb.prune(model, x, density=0.5, criterion="sparse_gpt")
    half = tb.prune(model, x, density={"0.weight": 0.5}, criterion="sparse_gpt").model
    layers = layers_of(half)
    calibration = read(x, half, None, None, 0)
    gram = gram_matrices(half, {"2.weight": layers["2.weight"]}, calibration, 1)["2.weight"][0]
    sent = F.relu(half[0](x)).double()
    torch.testing.assert_close(gram, 2 * sent.t() @ sent / 50, rtol=1e-5, atol=1e-5)
    rows, _ = sparse_gpt(half[2].weight.detach().unsqueeze(0), [gram], 0.5, Element())
    torch.testing.assert_close(rows[0], found.model[2].weight.detach())


# ---- heads, packed attention -------------------------------------------------------------------------------


class Block4(nn.Module):
    """Attention as BERT has it: the output projection beside the module that counts the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Module()
        self.own.num_attention_heads = 4  # type: ignore[assignment]
        for name in ("query", "key", "value"):
            setattr(self.own, name, nn.Linear(8, 8))
        self.output = nn.Module()
        self.output.dense = nn.Linear(8, 8)
        self.output.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            getattr(self.own, name)(x).unflatten(-1, (4, 2)).transpose(1, 2) for name in ("query", "key", "value")
        )
        return self.output.norm(self.output.dense(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))


def test_whole_heads_go_and_nothing_of_them_stays() -> None:
    torch.manual_seed(0)
    model, x = Block4().eval(), drawn(2, 5, 8)
    with torch.no_grad():
        for part in (model.own.query, model.own.key, model.own.value):
            part.weight[2:4] *= 0.01  # head 1 is the smallest
        model.output.dense.weight[:, 2:4] *= 0.01
    pruned = tb.prune(model, x, density=0.75, pattern="head")
    for name in ("own.query.weight", "own.key.weight", "own.value.weight"):
        assert pruned.mask[name].all(1).tolist() == [True, True, False, False, True, True, True, True]
    assert pruned.mask["output.dense.weight"].all(0).tolist() == [True, True, False, False, True, True, True, True]
    assert pruned.mask.density == 0.75
    with torch.no_grad():
        before = pruned.model(x)
        pruned.model.own.value.bias[2:4] = 100.0  # all that is left of the head
        assert torch.equal(pruned.model(x), before)


@pytest.mark.parametrize("more", [{}, {"kdim": 6, "vdim": 5}], ids=["packed", "apart"])
def test_torchs_attention_by_heads_and_by_inputs(more: dict[str, int]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **more)

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out: Tensor = self.attention(q, k, value=v, need_weights=False)[0]
            return out

    torch.manual_seed(0)
    model = Net().eval()
    batch = (drawn(3, 4, 8), drawn(3, 5, more.get("kdim", 8), seed=1), drawn(3, 5, more.get("vdim", 8), seed=2))
    half = tb.prune(model, [batch], density=0.5, pattern="head", criterion="wanda")
    assert half.mask.density == 0.5
    kept = half.mask["attention.out_proj.weight"].all(0)
    assert sorted([kept[:4].all().item(), kept[4:].all().item()]) == [False, True]
    norms = input_norms(model, layers_of(model), read([batch], model, None, None, 0))
    values = norms["attention.in_proj_weight" if not more else "attention.v_proj_weight"]
    last = values[16:] if not more else values
    torch.testing.assert_close(last[0], batch[2].flatten(0, 1).norm(dim=0))
    for criterion in ("wanda", "sparse_gpt"):
        assert tb.prune(model, [batch], density=0.5, criterion=criterion).mask.density == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow", "px", "taylor", "wanda", "sparse_gpt"])
def test_inference_mode_changes_nothing_and_neither_does_what_is_made_in_it(criterion: str) -> None:
    model, x, y = network(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), drawn(8, 6), torch.arange(8) % 3
    wanted = tb.prune(model, [(x, y)], density=0.5, criterion=criterion)
    with torch.inference_mode():
        made = copy.deepcopy(model)
        for one in (model, made):
            found = tb.prune(one, [(x.clone(), y.clone())], density=0.5, criterion=criterion)
            assert found.mask == wanted.mask
            assert not any(value.is_inference() for value in found.model.state_dict().values())
    assert not made[0].weight.requires_grad or made[0].weight.is_inference()


def test_searches_over_densities_work_in_inference_mode() -> None:
    model, x, y = network(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), drawn(8, 6), torch.arange(8) % 3
    with torch.inference_mode():
        assert tb.prune_to(model, [(x, y)], keep_accuracy=100, criterion="taylor", trials=1).met
        assert tb.sensitivity(model, [(x, y)], criterion="snip", densities=[0.5]).layers


def test_a_density_of_channels_or_heads_is_said_to_be_so() -> None:
    model, x = network(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), drawn(8, 6)
    said = "the density asked for, 0.5, counts channels, coupled ones as one; the table counts weights"
    assert said in str(tb.prune(model, x, density=0.5, pattern="channel"))
    for options in ({"density": 0.5}, {"density": {"0.weight": 0.5}, "pattern": "channel"}):
        assert "the density asked for" not in str(tb.prune(model, x, **options))


def test_coupled_channels_go_together() -> None:
    model, x = network(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3)), drawn(8, 2, 7, 7)
    with torch.no_grad():
        model[0].weight[:3] *= 0.01
        model[3].weight[:, :3] *= 0.01
    for criterion in ("magnitude", "wanda"):
        mask = tb.prune(model, x, density=0.5, pattern="channel", criterion=criterion).mask
        last = [False] * 3 + [True] * 3
        assert mask["0.weight"].flatten(1).all(1).tolist() == mask["1.bias"].tolist() == mask["0.bias"].tolist() == last
        assert mask["3.weight"].all(0).flatten(1).all(1).tolist() == last
        assert bool(mask["3.weight"][:, 3:].all())
    rows = tb.prune(model, x, density={"0.weight": 0.5}, pattern="channel").mask
    assert list(rows) == ["0.weight", "3.weight"]
    assert rows["0.weight"].flatten(1).all(1).tolist() == last
    assert bool(rows["3.weight"].all())


def test_what_the_last_projection_takes_in_is_seen() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = drawn(3, 4, 8)
    found = layers_of(layer)
    seen = input_norms(layer, found, read(x, layer, None, None, 0))["self_attn.out_proj.weight"][0]
    attention = layer.self_attn
    projected = x @ attention.in_proj_weight.t() + attention.in_proj_bias
    heads = [part.unflatten(-1, (2, 4)).transpose(1, 2) for part in projected.chunk(3, dim=-1)]
    attended = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    torch.testing.assert_close(seen, attended.flatten(0, 1).norm(dim=0), rtol=1e-4, atol=1e-4)
    groups = order_of_calls(layer, found, read(x, layer, None, None, 0))
    assert groups[:2] == [{"self_attn.in_proj_weight": 1}, {"self_attn.out_proj.weight": 1}]


def test_layers_that_share_an_input_are_pruned_together_and_tied_ones_see_both() -> None:
    torch.manual_seed(0)
    model, x = Block4().eval(), drawn(2, 5, 8)
    groups = order_of_calls(model, layers_of(model), read(x, model, None, None, 0))
    assert [list(group) for group in groups] == [
        ["own.query.weight", "own.key.weight", "own.value.weight"],
        ["output.dense.weight"],
    ]
    tied = network(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    y = drawn(9, 4)
    norms = input_norms(tied, layers_of(tied), read(y, tied, None, None, 0))["0.weight"][0]
    both = torch.cat([y, F.relu(tied[0](y)).detach()])
    torch.testing.assert_close(norms, both.norm(dim=0))


# ---- norms, errors, tickets --------------------------------------------------------------------------------


def test_norms_take_the_statistics_of_the_pruned_network() -> None:
    model, x = network(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), drawn(20, 2, 6, 6)
    with torch.no_grad():
        model[1].running_var.fill_(7.0)
    batches = [x[:10], x[10:]]
    pruned = tb.prune(model, batches, density=0.5, norms=True)
    parts = [pruned.model[0](part).detach() for part in batches]
    torch.testing.assert_close(pruned.model[1].running_mean, torch.stack([p.mean((0, 2, 3)) for p in parts]).mean(0))
    torch.testing.assert_close(pruned.model[1].running_var, torch.stack([p.var((0, 2, 3)) for p in parts]).mean(0))
    assert pruned.model[1].momentum == 0.1
    assert (pruned.norms, pruned.model.training) == (1, False)
    as_it_was = tb.prune(model, batches, density=0.5, norms=False)
    assert torch.equal(as_it_was.model[1].running_var, model[1].running_var)


def test_norms_leave_out_a_batch_of_one_that_has_no_variance() -> None:
    model, x = network(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()), drawn(9, 3)
    ragged, even = (
        tb.prune(model, batches, density={"0.weight": 1}, norms=True).model[1] for batches in ([x[:8], x[8:]], [x[:8]])
    )
    assert torch.equal(ragged.running_mean, even.running_mean)
    assert torch.equal(ragged.running_var, even.running_var)
    assert tb.prune(model, x[:1], density=0.5, norms=False).norms == 0
    pictures = network(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))
    assert tb.prune(pictures, drawn(1, 2, 6, 6), density=0.5, norms=True).norms == 1


def test_norms_get_new_statistics_where_outputs_come_nearer() -> None:
    """Three ReLUs at 10 % of the weights: what norms see shrinks. Shifted data move statistics in the whole network."""
    blocks = [part for _ in range(3) for part in (nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU())]
    model, x = network(*blocks, nn.Linear(16, 4)), drawn(256, 16)
    renew_norms(model, read(x, model, None, None, 0))  # as trained on such data
    pruned = tb.prune(model, x, density=0.1)
    assert pruned.norms == 3
    foreign = tb.prune(model, 5 + 0.1 * x, density={"9.weight": 0.9})
    assert foreign.norms == 0
    assert torch.equal(foreign.model[1].running_mean, model[1].running_mean)
    assert foreign.model[1].num_batches_tracked == model[1].num_batches_tracked


def test_likeness_leaves_out_mean_and_scale() -> None:
    x = drawn(6, 3)
    data = read([x[:4], x[4:]], nn.Identity(), None, None, 0)

    class Moved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x + 7

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones_like(x)

    assert likeness(nn.Identity(), Moved(), data) == pytest.approx(1)
    assert likeness(nn.Identity(), Constant(), data) == 0


def test_a_layer_that_ends_empty_beside_a_path_is_a_warning() -> None:
    model = network(Apart(), nn.Linear(3, 2))
    with pytest.warns(EmptyLayerWarning, match=r"nothing is kept of 0\.unused\.weight;") as told:
        tb.prune(model, drawn(4, 3), density={"0.unused.weight": 1e-9})
    assert len(told) == 1


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (nn.utils.weight_norm, r"\(weight_norm\).*torch\.nn\.utils\.remove_weight_norm\(layer\)"),
        (nn.utils.spectral_norm, r"\(spectral_norm\).*\.remove_spectral_norm"),
        (nn.utils.parametrizations.weight_norm, r"\(WeightNorm\).*remove_parametrizations\(layer, 'weight'\)"),
        (nn.utils.parametrizations.orthogonal, r"\(Orthogonal\).*remove_parametrizations"),
        (lambda layer: l1_unstructured(layer, "weight", 2), r"torch\.nn\.utils\.prune\.remove"),
    ],
)
def test_weights_that_are_computed_from_others_are_refused(make: Callable[[nn.Module], nn.Module], words: str) -> None:
    model, x = network(make(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2)), drawn(8, 4)
    for call in (
        lambda: tb.prune(model, x, density=0.5),
        lambda: tb.prune(model, density=0.5),
        lambda: tb.prune(model, x, density=0.5, criterion="sparse_gpt"),
        lambda: tb.sensitivity(model, x),
        lambda: tb.prune_to(model, x, file="1kB"),
    ):
        with pytest.raises(TombolaError, match=rf"'0\.weight' is computed .*{words}.* exclude=\['0\.\*'\]") as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("make", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_weight_norm_goes_with_no_mask_on_it(make: Callable[[nn.Module], nn.Module]) -> None:
    model = network(make(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2))
    for call in (lambda: tb.prune_channels(model, drawn(2, 4), density=0.5), lambda: tb.Gradual(model, 0.5)):
        with pytest.raises(TombolaError, match=r"'0\.weight' is computed from other parameters"):
            call()
    assert list(tb.Gradual(model, 0.5, exclude=["0.*"]).mask) == ["2.weight"]


def test_weight_norm_stays_where_it_is_excluded() -> None:
    model = network(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2))
    pruned = tb.prune(model, drawn(8, 4), density=0.5, exclude=["0.*"])
    assert list(pruned.mask) == ["2.weight"]
    assert pruned.ticket().build(model=copy.deepcopy(model))[2].weight.count_nonzero() == 4


def test_errors_by_hand() -> None:
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 1.0]]))
        model[1].weight.fill_(2.0)
    pruned = tb.prune(model, torch.eye(2), density={"0.weight": 0.5})
    assert [layer.error for layer in pruned.layers] == pytest.approx([0.1, 0.0])  # outputs 3 and 1, of which 1 is lost
    assert pruned.error == pytest.approx(0.1)
    assert [(layer.kept, layer.total) for layer in pruned.layers] == [(1, 2), (1, 1)]
    assert "10.00 %" in str(pruned)


def test_the_users_model_stays_and_the_ticket_comes_back(tmp_path: Any) -> None:
    model, x = network(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)), drawn(12, 2, 6, 6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruned = tb.prune(model, x, density=0.3, criterion="sparse_gpt")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in pruned.model.modules())
    pruned.ticket().save(tmp_path / "x.ticket")
    assert example_input(tb.Ticket.load(tmp_path / "x.ticket"), 3).shape == (3, 2, 6, 6)
    again = tb.Ticket.load(tmp_path / "x.ticket").build(model=model).eval()
    assert torch.equal(again(x), pruned.model(x))
    whole = pruned.ticket(origin=model)
    assert whole.build("origin", model=model).state_dict()["0.weight"][~pruned.mask["0.weight"]].eq(0).all()
    assert torch.equal(whole.build(model=model).eval()(x), pruned.model(x))
    with pruned.held(), torch.no_grad():
        pruned.model[0].weight += 1
        pruned.model(x)
        assert torch.equal(pruned.model[0].weight == 0, ~pruned.mask["0.weight"])


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, ids: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
        return {"out": self.layer(ids if scale is None else ids * scale)}


def test_every_form_of_calibration_data() -> None:
    torch.manual_seed(0)
    model, x = Named().eval(), drawn(6, 3)
    labels = torch.zeros(6, dtype=torch.long)
    forms: list[Any] = [
        x,
        [x[:2], x[2:]],
        (part for part in x.split(3)),
        [(x, labels)],
        [[x, labels]],
        {"ids": x, "labels": labels},
        [({"ids": x}, labels)],
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, labels), batch_size=4),
        [{"ids": x.double()}],
    ]
    masks = [tb.prune(model, form, density=0.5, criterion="wanda").mask for form in forms]
    assert all(mask == masks[0] for mask in masks)
    assert len(read([x, x, x], model, 7, None, 0).batches) == 2


def test_a_network_that_takes_one_dictionary() -> None:
    torch.manual_seed(0)
    model, x = Whole(), drawn(6, 3)
    labels = torch.tensor([0, 1] * 3)
    forms: list[Any] = [
        {"x": x},
        [{"x": x, "labels": labels}],
        [({"x": x}, labels)],
        [{"x": x.double(), "name": "six"}],
        [{"x": [x]}],
    ]
    masks = [tb.prune(model, form, density=0.5, criterion="wanda").mask for form in forms]
    assert all(mask == masks[0] for mask in masks)
    assert tb.sensitivity(model, [({"x": x}, labels)], densities=[0.5]).measure == "accuracy"
    assert tb.prune_to(model, [({"x": x}, labels)], file="1GB").met
    with pytest.raises(TombolaError, match=r"takes none of y, .* nor the whole as one argument; it takes batch"):
        tb.prune(model, {"y": x}, density=0.5)


def test_a_data_set_by_name_and_criteria_of_gradients() -> None:
    model = network(nn.Flatten(), nn.Linear(64, 10))
    pruned = tb.prune(model, "digits", density=0.5, criterion="taylor", samples=100)
    assert pruned.how["samples"] == 100
    calibration = read("digits", model, 100, None, 0)
    gradients = [
        torch.autograd.grad(F.cross_entropy(model(x), y), model[1].weight)[0] * len(y)
        for x, y in calibration.labelled()
    ]
    score = (sum(gradients) / 100 * model[1].weight).abs().detach()
    assert float(score[pruned.mask["1.weight"]].min()) >= float(score[~pruned.mask["1.weight"]].max()) - 1e-9


def steepest(context: Any) -> dict[str, Tensor]:
    """A criterion of one's own."""
    return {name: -weight for name, weight in context.final.items()}


def test_a_criterion_of_ones_own_and_recurrent_weights_on_request() -> None:
    model = network(nn.Linear(4, 4))
    by_path = tb.prune(model, density=0.5, criterion="test_prune.steepest")
    assert by_path.mask == tb.prune(model, density=0.5, criterion=steepest).mask
    assert by_path.error is None
    lstm = nn.LSTM(3, 4)
    assert list(tb.prune(lstm, density=0.25, include=["weight_*"]).mask) == ["weight_ih_l0", "weight_hh_l0"]


class Apart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Whole(nn.Module):
    """Takes a batch as one dictionary, in lists too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        x: Any = batch["x"]
        return self.layer(x[0] if isinstance(x, list) else x)


def two() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))


class Diverged(nn.Linear):
    """A weight that is no number."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.weight.data[0, 1] = float("nan")


class Locked(nn.Linear):
    """A layer that keeps what cannot be copied."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.lock = threading.Lock()


class Draws(nn.Linear):
    """Noise in evaluation mode too, from every global generator."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.1 * torch.randn(len(x), 1) + random.random() + float(np.random.rand())


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparse_gpt", "snip"])
def test_networks_and_loaders_that_draw_leave_the_generators_alone_and_give_the_same_again(criterion: str) -> None:
    data = torch.utils.data.TensorDataset(drawn(12, 6), torch.arange(12) % 3)
    model = nn.Sequential(Draws(6, 4), nn.ReLU(), Draws(4, 3))

    def found() -> tuple[str, Tensor]:
        loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
        pruned = tb.prune(model, loader, density=0.5, criterion=criterion)
        return str(pruned), pruned.model[0].weight

    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    once, again = found(), found()
    assert once[0] == again[0]
    assert torch.equal(once[1], again[1])
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), str(np.random.get_state()))


def test_a_tuple_is_one_batch_and_batches_without_examples_are_left_out() -> None:
    model, x, y = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), drawn(6, 3), torch.arange(6) % 2
    one = tb.prune(model, [(x, y)], density=0.5, criterion="snip")
    for same in ((x, y), [(x[:0], y[:0]), (x, y)]):
        assert str(tb.prune(model, same, density=0.5, criterion="snip")) == str(one)


class Beside(nn.Module):
    """A layer, and a branch of no features."""

    def __init__(self) -> None:
        super().__init__()
        self.none, self.of_none, self.some = nn.Linear(4, 0), nn.Linear(0, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.some(x) + self.of_none(self.none(x))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparse_gpt"])
def test_layers_without_weights_are_no_layers(criterion: str) -> None:
    assert list(tb.prune(Beside(), drawn(5, 4), density=0.5, criterion=criterion).mask) == ["some.weight"]


def test_a_criterion_may_work_in_place() -> None:
    layer = nn.Linear(4, 3)
    pruned = tb.prune(layer, density=0.5, criterion=lambda context: {n: w.abs_() for n, w in context.final.items()})
    assert torch.equal(pruned.model.weight, layer.weight * pruned.mask["weight"])


class Complex(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 2, bias=False, dtype=torch.complex64)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(torch.complex64))


def test_complex_outputs_have_errors_too() -> None:
    layer, x = Complex(), drawn(5, 3)
    pruned = tb.prune(layer, x, density=0.5)
    before, after = layer(x).detach(), pruned.model(x).detach()
    error = float((before - after).abs().square().sum() / before.abs().square().sum())
    assert error > 0
    assert pruned.layers[0].error == pytest.approx(error)
    assert pruned.error == pytest.approx(error)


@pytest.mark.parametrize(
    ("model", "data", "settings", "words"),
    [
        (nn.Linear(3, 2), None, {}, "density is missing"),
        (nn.Linear(3, 2), None, {"density": 1.5}, r"density is 1.5; it must lie in \(0, 1]"),
        (nn.Linear(3, 2), None, {"density": {"weight": 0}}, "density of 'weight' is 0"),
        (nn.Linear(3, 2), None, {"density": {"wieght": 0.5}}, "did you mean weight"),
        (nn.Linear(4, 2), None, {"density": 0.3, "pattern": "2:4"}, "pattern 2:4 fixes the density at 0.5"),
        (nn.Linear(4, 2), None, {"pattern": "2:4", "scope": "global"}, "fixed within every layer"),
        (nn.Linear(3, 2), None, {"density": 0.5, "criterion": "wnda"}, "did you mean wanda"),
        (nn.Linear(3, 2), None, {"density": 0.5, "criterion": "sparsegpt"}, "did you mean sparse_gpt"),
        (nn.Linear(3, 2), None, {"density": 0.5, "criterion": "wanda"}, "needs calibration data"),
        (nn.Linear(3, 2), None, {"density": 0.5, "criterion": "sparse_gpt"}, "needs calibration data"),
        (nn.Linear(3, 2), drawn(4, 3), {"density": 0.5, "criterion": "snip"}, "needs labels"),
        (nn.Linear(3, 2), [(drawn(1, 3), torch.tensor([2]))], {"density": 1, "criterion": "taylor"}, "loss refuses"),
        (nn.Linear(3, 2), [(drawn(2, 3), torch.tensor([0]))], {"density": 0.5, "criterion": "snip"}, r"shape \(1,\)"),
        (nn.Linear(3, 2), drawn(4, 3) / 0, {"density": 0.5, "criterion": "wanda"}, "what 'weight' takes in .* inf"),
        (nn.Linear(3, 2), 0 * drawn(4, 3) / 0, {"density": 0.5, "criterion": "sparse_gpt"}, "what 'weight' takes in"),
        (Diverged(), drawn(4, 3), {"density": 0.5, "criterion": "sparse_gpt"}, "1 of 6 weights of 'weight' are NaN"),
        (Locked(), drawn(4, 3), {"density": 0.5}, "the model cannot be copied"),
        (nn.Linear(3, 2), drawn(4, 5), {"density": 0.5}, r"refuses a calibration batch of shape \(4, 5\)"),
        (nn.Linear(3, 2), [], {"density": 0.5}, "has no example"),
        (nn.Linear(3, 2), (drawn(0, 3), torch.tensor([])), {"density": 0.5}, "has no example"),
        (nn.Linear(3, 2), torch.ones(4, 3, dtype=torch.int64), {"density": 0.5, "criterion": "snip"}, "refuses a cali"),
        (nn.Linear(3, 2, device="meta"), drawn(4, 3), {"density": 0.5}, "'weight' is on the meta device"),
        (Complex(), drawn(4, 3), {"density": 0.5, "criterion": "sparse_gpt"}, "'weight' is complex"),
        (nn.Linear(3, 2), None, {"density": 0.5, "criterion": lambda c: {"other": torch.ones(2)}}, "is called 'other'"),
        (nn.Linear(3, 2), ["a"], {"density": 0.5}, "a calibration batch is 'a'"),
        (nn.Linear(3, 2), {"y": drawn(4, 3)}, {"density": 0.5}, "takes none of y"),
        (Apart(), drawn(4, 3), {"density": 0.5, "criterion": "wanda"}, "never reach 'unused.weight'"),
        (Apart(), drawn(4, 3), {"density": 0.5, "criterion": "sparse_gpt"}, "never reach 'unused.weight'"),
        (nn.Linear(3, 2), drawn(4, 3), {"density": 0.5, "pattern": "head"}, "finds no attention layer"),
        (nn.Linear(3, 2), drawn(4, 3), {"density": 0.5, "pattern": "heads"}, r"mean head\?\); allowed: .* head"),
        (nn.Linear(3, 2), None, {"density": 1e-9}, "no path .*: 0 of 6 weights are kept, and none of weight; ask"),
        (two(), drawn(4, 3), {"density": 1e-9, "criterion": "wanda"}, "no path .*, and none of 0.weight, 1.weight"),
        (two(), drawn(4, 3), {"density": {"1.weight": 1e-9}}, "no path leads .*: 9 of 15 weights .* none of 1.weight"),
        (two(), drawn(4, 3), {"density": 1e-9, "criterion": "sparse_gpt", "scope": "layer"}, "no path leads"),
        (Apart(), drawn(4, 3), {"density": {"used.weight": 1e-9}}, "no path leads"),
        (Whole(), [{"x": drawn(4, 3)}], {"density": 1e-9, "include": ["*.bias"]}, "no path leads"),
        (nn.BatchNorm1d(3), drawn(1, 3), {"density": 1, "include": ["*"]}, "no variance; give batches of 2 examples"),
        (nn.Linear(3, 2), None, {"density": 0.5, "pattern": "channel"}, "pattern channel needs calibration data"),
        (nn.Linear(3, 2), None, {"density": 0.5, "scope": "rows"}, "did you mean row"),
        (nn.Linear(3, 2), None, {"density": 0.5, "scope": "row", "pattern": "block:2"}, "scope 'row' is for pattern"),
        (nn.Linear(3, 2), drawn(4, 3), {"density": 0.5, "criterion": "sparse_gpt", "pattern": "channel"}, "goes with"),
        (nn.Linear(3, 2), drawn(4, 3), {"density": 1, "criterion": "sparse_gpt", "scope": "global"}, "layer by layer"),
        (nn.LSTM(3, 2), drawn(4, 3), {"density": 0.5, "include": ["weight_*"], "criterion": "wanda"}, "nothing shows"),
        (nn.ReLU(), None, {"density": 0.5}, "no prunable weights"),
        (nn.Linear(3, 2), None, {"density": 0.5, "samples": 0}, "samples is 0"),
    ],
)  # fmt: skip
def test_mistakes_are_said_in_one_line(model: nn.Module, data: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(TombolaError, match=words) as caught:
        tb.prune(model, data, **settings)
    assert "\n" not in str(caught.value)


# ---- the command -------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    splits = load_data(tb.DataSpec("digits"))
    model = build_network("mlp", input_shape=(1, 8, 8), classes=10)
    assert isinstance(splits.train, Resident)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(splits.train.x), splits.train.y).backward()
        optimizer.step()
    torch.save({"model": model.state_dict()}, tmp_path / "trained.pt")
    words = ["prune", "mlp", "--checkpoint", str(tmp_path / "trained.pt"), "--data", "digits", "--density", "0.4"]
    words += ["--criterion", "sparse_gpt", "--out", str(tmp_path / "x.ticket"), "--json"]
    assert main(words) == 0
    shown = capsys.readouterr()
    said = json.loads(shown.out.splitlines()[-1])
    assert "validation accuracy" in shown.err
    assert said["density"] == pytest.approx(0.4, abs=1e-3)
    assert said["val_before"] > 0.9
    assert said["val_before"] - said["val_after"] < 0.05
    assert said["bytes"] == (tmp_path / "x.ticket").stat().st_size < 0.5 * said["dense"]
    ticket = tb.Ticket.load(tmp_path / "x.ticket")
    built = ticket.build().eval()
    x, y = splits.val.x, splits.val.y
    assert float((built(x).argmax(1) == y).float().mean()) == pytest.approx(said["val_after"])
    for mistake, line in (
        (["--pattern", "2:4"], "fixes the density"),
        (["--model_args", "{hidden: [7]}"], "does not fit the model"),
        (["--density", "2"], "must lie in (0, 1]"),
    ):
        assert main([*words[:-3], "--out", str(tmp_path / "y.ticket"), *mistake]) == 2
        assert line in capsys.readouterr().err
    assert main(["prune", "mlp", "--density", "0.5", "--out", str(tmp_path / "y.ticket")]) == 2
    assert "give its --checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "y.ticket").exists()
