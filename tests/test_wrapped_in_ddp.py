"""A user's own data-parallel loop: names without `module.`, masks that hold, and stay alike on all ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

import tombola as tb
from in_ranks import in_ranks
from tombola.select.select import select

NAMES = ["0.weight", "2.weight"]


def wrapped() -> tuple[nn.Module, Tensor, Tensor]:
    """A network in DistributedDataParallel, and this rank's half of a batch."""
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.randn(8, 6), torch.arange(8) % 3
    half = slice(dist.get_rank() * 4, dist.get_rank() * 4 + 4)
    return nn.parallel.DistributedDataParallel(model), x[half], y[half]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    optimizer.zero_grad()


def hold_a_mask() -> dict[str, Any]:
    model, x, y = wrapped()
    weights = tb.prunable(model)
    gradients = tb.gradient(model, ((x, y), (x, y)))
    mask = select({name: weight.detach().abs() for name, weight in weights.items()}, density=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with tb.hold(model, mask):
        for _ in range(3):
            step(model, optimizer, x, y)
        held = tb.gradient(model, ((x, y), (x, y)))
    names = [list(weights), list(gradients)]
    return {"names": names, "mask": mask, "held": held, "state": model.module.state_dict()}  # type: ignore[union-attr, operator]


def test_held_masks_and_criteria_go_by_the_names_of_the_network_itself() -> None:
    first, second = in_ranks(hold_a_mask)
    assert first["names"] == [NAMES, [NAMES[0], "0.bias", NAMES[1], "2.bias"]]
    assert list(first["mask"]) == NAMES
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name])
    for name, keep in first["mask"].items():
        assert not first["state"][name][~keep].any()
        assert first["state"][name][keep].all()
        assert first["held"][name].shape == keep.shape


def learn_a_mask() -> dict[str, Any]:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    tb.attach(model, tb.TopK(0.5), seed=1)
    before = tb.read(model)
    parallel = nn.parallel.DistributedDataParallel(model)
    x, y = torch.randn(4, 6, generator=torch.Generator().manual_seed(dist.get_rank())), torch.arange(4) % 3
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=5.0)
    for _ in range(3):
        step(parallel, optimizer, x, y)
        tb.refresh(parallel)
    return {"before": before, "after": tb.read(parallel)}


def test_learned_masks_stay_alike() -> None:
    first, second = in_ranks(learn_a_mask)
    assert list(first["after"]) == NAMES
    assert all(torch.equal(first["after"][name], second["after"][name]) for name in NAMES)
    assert any(not torch.equal(first["after"][name], first["before"][name]) for name in NAMES)
