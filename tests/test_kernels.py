"""Every kernel, in each of its candidates, gives what its reference says, on made-up operations of all kinds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from activations import PERHAPS
from tombola.deploy.kernels import KERNELS, Kernel
from tombola.deploy.kernels.sparse.geometry import shapes_of
from tombola.deploy.ops import Conv, Linear, Op, Pointwise, Pool, Region

KINDS = ("conv", "linear", "pool", "pointwise")


def weight(draw: torch.Generator, shape: tuple[int, ...], kind: str, density: float) -> Tensor:
    """Zeros, and normal weights or ± one number for each row."""
    values = torch.randn(shape, generator=draw)
    if kind == "signs":
        values = values.sign() * (0.1 + torch.rand(shape[0], *[1] * (len(shape) - 1), generator=draw))
    return values * (torch.rand(shape, generator=draw) < density)


@st.composite
def regions(draw: st.DrawFn) -> Region:
    """One operation, perhaps with a residual."""
    g = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    kernel, stride, dilation = ((draw(st.integers(1, 3)), draw(st.integers(1, 3))) for _ in range(3))
    padding = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    high, wide = (dilation[i] * (kernel[i] - 1) + draw(st.integers(1, 8)) for i in range(2))
    channels, out, groups = draw(st.integers(1, 20)), draw(st.integers(1, 12)), draw(st.sampled_from([1, 1, 2]))
    shape: tuple[int, ...] = (channels * groups, high, wide)
    activation, add = draw(PERHAPS), draw(st.sampled_from([False, False, True]))
    values, density = draw(st.sampled_from(["normal", "signs"])), draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    bias = torch.randn(out * groups, generator=g) if draw(st.booleans()) else None

    def made(residual: str | None) -> Op:
        match kind:
            case "conv":
                w = weight(torch.Generator().manual_seed(1), (out * groups, channels, *kernel), values, density)
                return Conv("c", "x", "y", w, bias, stride, padding, dilation, groups, activation, residual)
            case "linear":
                w = weight(torch.Generator().manual_seed(1), (out * groups, shapes["x"]), values, density)
                return Linear("l", "x", "y", w, bias, activation, residual)
            case "pool":
                sort = draw(st.sampled_from(["max", "mean"]))
                return Pool("p", "x", "y", sort, kernel, stride, (0, 0), activation)
        scale = torch.randn(shape[0], generator=g)
        return Pointwise("n", "x", "y", scale, None, activation, residual)

    kind = draw(st.sampled_from(KINDS))
    if kind == "linear" and draw(st.booleans()):
        shape = (draw(st.sampled_from([1, 7, 70, 300])),)
    shapes = {"x": torch.Size(shape).numel()}
    plain = Region({"x": shape}, (made(None),), ("y",))
    if not add or kind == "pool":
        return plain
    result = shapes_of(plain)["y"][: 1 if kind == "linear" or len(shape) == 1 else 3]
    return Region({"x": shape, "r": result}, (made("r"),), ("y",))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.filter_too_much])
@given(region=regions(), batch=st.sampled_from([1, 1, 3, 8, 17]), threads=st.sampled_from([1, 2]), data=st.data())
def test_every_candidate_gives_what_the_reference_says(
    kernel: Kernel[Any], region: Region, batch: int, threads: int, data: st.DataObject
) -> None:
    (op,) = region.ops
    assume(kernel.takes(op) is None)
    candidates = list(kernel.candidates(region, batch, threads))
    assume(candidates)
    run = kernel.build(region, batch, threads, data.draw(st.sampled_from(candidates)))
    g = torch.Generator().manual_seed(2)
    inputs = [torch.randn(batch, *shape, generator=g) for shape in region.inputs.values()]
    for found, wanted in zip(run(*inputs), kernel.reference(region, *inputs), strict=True):
        assert found.shape == wanted.shape
        assert found.dtype == torch.float32
        assert float((found - wanted).abs().max()) <= 1e-5 * (1 + float(wanted.abs().max()))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_each_kernel_takes_some_layer_and_says_why_not_another(kernel: Kernel[Any]) -> None:
    full = Linear("l", "x", "y", torch.ones(2, 3))
    assert kernel.takes(full) is None
    assert list(kernel.candidates(Region({"x": (3,)}, (full,), ("y",)), 1, 1))
    assert kernel.takes(Linear("l", "x", "y", torch.ones(0, 3)))
