"""Two processes over gloo must select what one process selects from the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from tombola.errors import TombolaError
from tombola.select.select import select
from tombola.select.sharded import keep_largest_sharded, select_sharded
from tombola.select.topk import keep_largest

CUT = 700


def cases() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    normal = torch.randn(1_501, generator=draw)
    return {
        "normal": normal,
        "ties": (normal * 2).round(),
        "constant": torch.zeros(1_501),
        "half": normal.abs().half(),
        "double": normal.double(),
        "integer": (normal * 5).long(),
        "first shard empty": normal,
    }


def cut(name: str) -> int:
    return 0 if "empty" in name else CUT


def layers() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {
        "a": (torch.randn(90, generator=draw) * 2).round(),
        "b": (torch.randn(61, generator=draw) * 2).round(),
    }


def shard(whole: Tensor, rank: int, at: int) -> Tensor:
    return whole[:at] if rank == 0 else whole[at:]


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results: dict[str, Tensor] = {}
    for name, whole in cases().items():
        part = shard(whole, rank, cut(name))
        for k in (0, 1, 600, 1_500, 1_501):
            results[f"{name}/{k}"] = keep_largest_sharded(part, k)
    parts = {name: shard(whole, rank, 40) for name, whole in layers().items()}
    for scope in ("layer", "global"):
        for name, kept in select_sharded(parts, density=0.3, scope=scope).items():
            results[f"{scope}/{name}"] = kept
    errors = 0
    poisoned = torch.ones(3)
    if rank == 1:
        poisoned[0] = float("nan")
    for scores, k in ((poisoned, 2), (torch.ones(3), 7)):
        try:
            keep_largest_sharded(scores, k)
        except TombolaError:
            errors += 1
    results["errors"] = torch.tensor([errors])
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, args=(str(folder),), nprocs=2)  # type: ignore[attr-defined]
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    return {name: torch.cat([first[name], second[name]]) for name in first}


def test_equals_one_process(joined: dict[str, Tensor]) -> None:
    for name, whole in cases().items():
        for k in (0, 1, 600, 1_500, 1_501):
            assert torch.equal(joined[f"{name}/{k}"], keep_largest(whole, k)), (name, k)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_layers_equal_one_process(joined: dict[str, Tensor], scope: str) -> None:
    expected = select(layers(), density=0.3, scope=scope)
    for name, kept in expected.items():
        assert torch.equal(joined[f"{scope}/{name}"], kept)


def test_errors_arise_on_every_rank(joined: dict[str, Tensor]) -> None:
    assert joined["errors"].tolist() == [2, 2]
