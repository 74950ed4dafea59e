"""What is written into weights, and what is computed, within torch.autocast, which keeps narrow copies of weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from tombola.gradual import merge_adapters


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def mask() -> tb.Mask:
    return tb.prune(network(), density=0.25).mask


def task() -> tb.Ticket:
    backbone = network()
    return tb.prune(backbone, density=0.25).ticket(origin=backbone).on_base(backbone)


def changed() -> tb.Delta:
    return tb.delta(network(), tb.prune(network(), density=0.25).model)


@pytest.mark.parametrize(
    "write",
    [
        lambda model: tb.switch(model, task()),
        lambda model: mask().apply_(model),
        lambda model: tb.hold(model, mask()),
        lambda model: tb.Gradual(model, 0.25),
        lambda model: changed().apply_(model),
        lambda model: merge_adapters(model, {"0.weight": (torch.ones(1, 8), torch.ones(16, 1))}),
    ],
    ids=["switch", "mask", "hold", "gradual", "delta", "adapters"],
)
def test_weights_that_are_written_are_seen_at_once(write: Callable[[nn.Module], Any]) -> None:
    model, x = network(), torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu"):
        before = model(x)
        _kept = write(model)
        within = model(x)
    with torch.autocast("cpu"):
        after = model(x)
    assert torch.equal(within, after)
    assert not torch.equal(before, within)


def test_a_task_and_then_the_backbone() -> None:
    model, x = network(), torch.ones(3, 8)
    with torch.autocast("cpu"):
        before = model(x)
        with tb.switch(model, task()):
            assert not torch.equal(model(x), before)
        assert torch.equal(model(x), before)


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparse_gpt", "snip"])
def test_pruning_computes_in_the_network_s_own_dtype(criterion: str) -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 8, generator=draw), torch.randint(4, (12,), generator=draw)

    def found(autocast: bool) -> tuple[str, dict[str, Tensor]]:
        with torch.autocast("cpu") if autocast else nullcontext():
            pruned = tb.prune(network(), (x, y), density=0.25, criterion=criterion)
        return str(pruned), dict(pruned.model.state_dict())

    plain, within = found(False), found(True)
    assert within[0] == plain[0]
    assert all(torch.equal(within[1][name], value) for name, value in plain[1].items())


def test_so_do_budgets_and_sensitivity() -> None:
    x, y = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 4

    def found() -> tuple[str, str]:
        reached = tb.prune_to(network(), (x, y), keep_accuracy=10.0, trials=2)
        return str(reached), str(tb.sensitivity(network(), (x, y), densities=[0.1]))

    plain = found()
    with torch.autocast("cpu"):
        assert found() == plain
