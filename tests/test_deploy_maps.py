"""Blocks of the field deployed whole: gates, pyramids, resized and joined maps, in native kernels alone."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tombola
from clocks import NATIVE
from tombola.parameters import prunable
from tombola.select import select


class Excited(nn.Module):
    """A depthwise convolution whose channels are scaled by what their means say, with a shortcut."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.filter = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.filter(x))
        gate = F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(y, 1)))))
        return x + gate * y


class Pyramid(nn.Module):
    """Halves, maxima over ever larger windows, all joined."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(8, 10, 1), nn.Conv2d(20, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, other = F.silu(self.first(x)).chunk(2, 1)
        parts = [other, one]
        for _ in range(2):
            parts.append(F.max_pool2d(parts[-1], 5, 1, 2))
        return self.last(torch.cat(parts, 1))  # type: ignore[no-any-return]


class Resized(nn.Module):
    """Down, and up again in three ways, joined with what was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(8, 8, 3, 2, 1), nn.ConvTranspose2d(8, 4, 3, 2, 1, 1)
        self.joined = nn.Conv2d(8 + 4 + 8 + 8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.down(x))
        near, smooth = F.interpolate(y, scale_factor=2), F.interpolate(y, x.shape[2:], mode="bilinear")
        return self.joined(torch.cat([x, self.up(y), near, smooth], 1))  # type: ignore[no-any-return]


BLOCKS: dict[str, Callable[[], nn.Module]] = {"excited": Excited, "pyramid": Pyramid, "resized": Resized}


def zeroed(model: nn.Module, density: float = 0.4) -> nn.Module:
    weights = prunable(model)
    draw = torch.Generator().manual_seed(0)
    mask = select({name: torch.rand(weight.shape, generator=draw) for name, weight in weights.items()}, density=density)
    with torch.no_grad():
        for name, weight in weights.items():
            weight.mul_(mask[name])
    return model.eval()


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return zeroed(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), BLOCKS[name](), nn.Conv2d(8, 3, 1)))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("batch", [1, 8])
def test_a_block_is_one_region_at_any_batch(name: str, batch: int) -> None:
    model = made(name)
    one, two = (tombola.deploy(model, torch.randn(batch, 3, 8, 8), threads=n, clock=NATIVE) for n in (1, 2))
    assert [part.engine for part in one.plan.parts] == ["native"]
    assert not one.report.dense
    for rows in (0, 1, 3, 8, 17):
        x = torch.randn(rows, 3, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(one(x), model(x), rtol=1e-4, atol=1e-5)
        assert torch.equal(one(x), two(x))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_goes_where_it_goes_in_torch(name: str, value: float) -> None:
    block = zeroed(BLOCKS[name](), 1.0)
    deployed = tombola.deploy(block, torch.randn(1, 8, 8, 8), threads=1, clock=NATIVE)
    for place in ((0, 3, 0, 0), (0, 7, 7, 5), (0, 2, 4, 7)):
        x = torch.randn(1, 8, 8, 8)
        x[place] = value
        with torch.no_grad():
            want, have = block(x), deployed(x)
        assert torch.equal(want.isfinite(), have.isfinite())


def test_calls_of_several_threads_at_once_give_the_same_bits() -> None:
    deployed = tombola.deploy(made("resized"), torch.randn(2, 3, 8, 8), threads=1, clock=NATIVE)
    inputs = [torch.randn(rows, 3, 8, 8) for rows in (1, 5, 8)]
    wanted = [deployed(x) for x in inputs]
    same: list[bool] = []

    def calls(turn: int) -> None:
        for i in range(turn, turn + 30):
            same.append(torch.equal(deployed(inputs[i % 3]), wanted[i % 3]))

    threads = [threading.Thread(target=calls, args=(turn,)) for turn in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 90
