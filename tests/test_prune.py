"""One-shot pruning of trained networks: scores and updates by hand, exact counts, any form of calibration data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tombola as tb
from tombola.prune.calibration import read
from tombola.prune.layers import layers_of
from tombola.prune.sparse_gpt import sparse_gpt
from tombola.prune.watch import gram_matrices
from tombola.select.patterns import NM, Block, Element


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


@pytest.mark.parametrize("pattern", [Element(), Block(4), NM(2, 4), NM(1, 3)], ids=str)
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
    else:
        units = kept[:, ::4]
        assert int(units.sum()) == round(0.37 * units.numel())


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
    gram = gram_matrices(half, {"2.weight": layers["2.weight"]}, calibration, 1)["2.weight"]
    sent = F.relu(half[0](x)).double()
    torch.testing.assert_close(gram[0], 2 * sent.t() @ sent / 50, rtol=1e-5, atol=1e-5)
    rows, _ = sparse_gpt(half[2].weight.detach().unsqueeze(0), gram, 0.5, Element())
    torch.testing.assert_close(rows[0], found.model[2].weight.detach())
