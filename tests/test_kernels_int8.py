"""8-bit kernels give the integer reference to the bit, and a network deployed in them says how far it is off."""

from __future__ import annotations

import platform
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tombola as tb
from clocks import INT8, NATIVE, Never
from tombola.deploy.jit.native import assembly
from tombola.deploy.kernels.int8 import Int8Choices, Int8Region, calibrated, integer_reference, unsupported
from tombola.deploy.kernels.int8.choices import Words
from tombola.deploy.kernels.int8.emitted import DOTS, WordKernel, dot_of, word_step
from tombola.deploy.kernels.int8.lists import kept_words, lane_lists, word_lists
from tombola.deploy.kernels.int8.scales import GROUP, Scale, rows_of, scale_of
from tombola.deploy.kernels.int8.tune import variants
from tombola.deploy.kernels.sparse.choices import Flat, Lanes, Split
from tombola.deploy.ops import RELU, Activation, Conv, Linear, Op, Pointwise, Pool, Region
from tombola.deploy.plan import Plan
from tombola.errors import TombolaError


def drawn(*shape: int, seed: int = 0, density: float = 1.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g) * (torch.rand(shape, generator=g) < density)


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_a_scale_has_zero_exactly_and_holds_both_ends() -> None:
    scale = scale_of(-1.0, 1.55)
    assert scale.zero == 100
    assert scale.step * (255 - scale.zero) == pytest.approx(1.55)
    assert scale_of(2.0, 5.1) == Scale(float(np.float32(0.02)), 0)  # 0 is held even where it does not occur
    assert scale_of(-3.0, -1.0).zero == 255
    assert scale_of(0.0, 0.0).zero == 0
    for bad in (0.0, -1.0, 0.1, float("nan"), float("inf"), 1e-40):  # 0.1 is no float32
        with pytest.raises(TombolaError, match="a step of"):
            Scale(bad, 0)
    with pytest.raises(TombolaError, match="have no scale"):
        scale_of(0.0, float("inf"))


def test_weights_by_hand() -> None:
    weight = np.array([[1.27, 0.0, 0.0, -0.635], [1.0, 0.27, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    rows = rows_of(weight, np.arange(4))
    assert rows.values.tolist() == [[127, 0, 0, -64], [100, 27, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(rows.steps, [0.01, 0.01, 1.0], rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.sampled_from([0.1, 0.5, 1.0]))
def test_no_pair_of_products_leaves_16_bits_and_rounding_is_half_a_step(seed: int, words: int, density: float) -> None:
    weight = drawn(5, GROUP * words, seed=seed, density=density).numpy()
    rows = rows_of(weight, np.arange(GROUP * words))
    pairs = np.abs(rows.values.astype(int)).reshape(5, -1, 2).sum(2)
    assert 255 * pairs.max() < 2**15
    assert (np.abs(rows.values * rows.steps[:, None] - weight) <= 0.5001 * rows.steps[:, None]).all()


def test_weights_without_8_bit_numbers() -> None:
    with pytest.raises(TombolaError, match="not finite"):
        rows_of(np.array([[np.nan]], np.float32), np.arange(1))
    with pytest.raises(TombolaError, match="leave 32 bits"):
        rows_of(np.ones((1, 80_000), np.float32), np.arange(80_000))


def test_lists_hold_every_word_of_each_row_once() -> None:
    weight = drawn(11, 30, density=0.2).numpy()
    weight[3] = 0
    rows = rows_of(weight, np.arange(30))
    kept = kept_words(rows, np.arange(30))
    assert 3 not in kept.row
    lists, lanes = word_lists(kept, 100 * np.arange(8)), lane_lists(kept)
    padded = np.zeros((11, 32), np.int8)
    padded[:, :30] = rows.values
    for row in range(11):
        mine = lists.entries[lists.starts[row] : lists.starts[row + 1]]
        found = np.zeros((8, 4), np.int8)
        found[mine[:, 0] // 100] = mine[:, 1:].copy().view(np.int8)
        assert (found.reshape(-1) == padded[row]).all()
        group, lane = (int(x[0]) for x in np.nonzero(lanes.order == row))
        own = lanes.words[lanes.starts[group] : lanes.starts[group + 1]]
        found[:] = 0
        for place, four in zip(own[:, :16].copy().view(np.uint16)[:, lane], own[:, 16:].view(np.int8), strict=True):
            found[place] += four.reshape(8, 4)[lane]
        assert (found.reshape(-1) == padded[row]).all()
    assert lists.groups == 3
    assert lists.bounds(2).tolist()[::2] == [0, 3]


# ---- kernels -------------------------------------------------------------------------------------------------------


def same(region: Region, choices: Int8Choices, batch: int, threads: int, sizes: tuple[int, ...]) -> None:
    run = Int8Region(region, batch, threads, choices)
    for size in sizes:
        inputs = [drawn(size, *shape, seed=size) for shape in region.inputs.values()]
        wanted = integer_reference(region, choices.scales, *inputs)
        for one, other in zip(run(*inputs), wanted, strict=True):
            assert one.dtype == torch.float32
            assert torch.equal(one, other)


def scales_for(region: Region) -> dict[str, Scale]:
    return calibrated(region, [[drawn(9, *shape) for shape in region.inputs.values()]])


def network(density: float, activation: Activation | None = RELU) -> Region:
    """Two convolutions with a residual, pools, a strided one and a linear layer over maps."""
    ops: tuple[Op, ...] = (
        Conv("a", "x", "y", drawn(10, 3, 3, 3, density=density), drawn(10), padding=(1, 1), activation=activation),
        Conv(
            "b", "y", "z", drawn(10, 10, 3, 3, seed=1, density=density), padding=(1, 1), activation=RELU, residual="y"
        ),
        Pool("p", "z", "u", "max", (3, 3), (2, 2), (1, 1)),
        Conv("s", "u", "t", drawn(7, 10, 3, 3, seed=2, density=density), drawn(7), (2, 2), (1, 1), dilation=(1, 2)),
        Pool("m", "t", "v", "mean", (2, 1), (1, 1), activation=activation),
        Linear("l", "v", "o", drawn(5, 28, seed=3, density=density), drawn(5)),
    )
    return Region({"x": (3, 9, 11)}, ops, ("o",))


@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
def test_a_convolutional_region_at_one_image_and_at_many(density: float) -> None:
    region = network(density, Activation("hardtanh", (-0.5, 6.0)))
    scales = scales_for(region)
    flat = {"y": Flat(4), "z": Flat(3), "t": Flat(2), "o": Words()}
    lanes = {"y": Lanes(2, 2, 1), "z": Lanes(1, 4, 1), "t": Lanes(1, 1, 1), "o": Lanes(1, 1, 1)}
    same(region, Int8Choices(Split("rows", 1), flat, scales), 1, 2, (1, 2))
    same(region, Int8Choices(Split("chunks", 8), lanes, scales), 8, 2, (1, 8, 13))


@st.composite
def linear_regions(draw: st.DrawFn) -> Region:
    sizes = draw(st.lists(st.integers(1, 40), min_size=2, max_size=4))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    names = [f"v{i}" for i in range(len(sizes))]
    ops = tuple(
        Linear(
            f"l{i}", names[i], names[i + 1], drawn(sizes[i + 1], sizes[i], seed=i, density=density),
            drawn(sizes[i + 1], seed=i) if draw(st.booleans()) else None,
            draw(st.sampled_from([None, RELU, Activation("leaky_relu", (0.1,))])),
            "v0" if sizes[i + 1] == sizes[0] and draw(st.booleans()) else None,
        )
        for i in range(len(sizes) - 1)
    )  # fmt: skip
    return Region({"v0": (sizes[0],)}, ops, (names[-1],))


@settings(max_examples=12, deadline=None)
@given(linear_regions(), st.sampled_from([1, 8]), st.integers(1, 2))
def test_linear_regions(region: Region, batch: int, threads: int) -> None:
    same(region, next(iter(variants(region, batch, threads, scales_for(region)))), batch, threads, (1, 13))


@pytest.mark.parametrize("value", [-1e9, 1e9, float("nan"), float("inf"), float("-inf")])
def test_what_is_beyond_the_scale_is_its_end_and_nan_the_least(value: float) -> None:
    region = Region({"x": (5,)}, (Linear("l", "x", "y", drawn(3, 5)),), ("y",))
    scales = scales_for(region)
    found = Int8Region(region, 1, 1, Int8Choices(Split("rows", 1), {"y": Words()}, scales))(torch.full((1, 5), value))[
        0
    ]
    assert torch.equal(found, integer_reference(region, scales, torch.full((1, 5), value))[0])
    assert found.isfinite().all()


@pytest.mark.parametrize("dot", [name for name in DOTS if name != "vnni"])
def test_every_form_of_the_product_is_exact_at_its_largest_sums(dot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("tombola.deploy.kernels.int8.region"), "host_dot", lambda: dot)
    weight = torch.tensor([[1.0, 0.0, 0.5, 0.5] * 4, [-1.0, 0.0, -0.5, -0.5] * 4, [0.3, -0.7, 1.0, 1e-3] * 4])
    region = Region({"x": (16,)}, (Linear("l", "x", "y", weight),), ("y",))
    scales = {"x": scale_of(0.0, 1.0)}
    for choices in (
        Int8Choices(Split("rows", 1), {"y": Words()}, scales),
        Int8Choices(Split("rows", 8), {"y": Lanes(1, 1, 1)}, scales),
    ):
        batch = choices.split.images
        x = torch.full((batch, 16), 2.0)
        found = Int8Region(region, batch, 1, choices)(x)[0]
        assert torch.equal(found, integer_reference(region, scales, x)[0])


def test_products_of_bytes_are_one_instruction_where_there_is_one() -> None:
    def of(cpu: str, dot: str) -> str:
        return assembly(word_step(WordKernel((0, 32), (0, 32), None, RELU, False, False, dot)).ended(), cpu)

    if platform.machine() == "x86_64":
        assert "vpdpbusd" in of("znver4", "vnni")
        assert "vpmaddubsw" in of("znver3", "avx2")
    assert dot_of({"avx512vnni": True, "avx512vl": True, "avx2": True}) == "vnni"
    assert dot_of({"avxvnni": True}) == "vnni"
    assert dot_of({"avx512vnni": True, "avx2": True}) == "avx2"
    assert dot_of({}) == "plain"


def test_what_has_no_8_bit_kernel() -> None:
    def alone(op: Op, *more: str) -> str | None:
        return unsupported(Region({"x": (4, 6, 6)}, (op,), ("y", *more)))

    conv = Conv("c", "x", "y", drawn(4, 4, 3, 3))
    assert alone(conv) is None
    assert alone(replace(conv, groups=2, weight=drawn(4, 2, 3, 3))) == "c: a convolution of groups"
    assert alone(Pointwise("n", "x", "y", activation=RELU)) == "n: a norm or an addition of its own"
    assert alone(Pool("p", "x", "y", "max", (2, 2), (2, 2))) == "p ends the region, and has no weights"
    two = Region({"x": (4,)}, (Linear("a", "x", "y", drawn(4, 4)), Linear("b", "y", "z", drawn(4, 4))), ("y", "z"))
    assert unsupported(two) == "b reads what leaves the region"
    region = Region({"x": (4,)}, two.ops[:1], ("y",))
    with pytest.raises(TombolaError, match="do not fit the region: 'x'"):
        Int8Region(region, 1, 1, Int8Choices(Split("rows", 1), {"y": Words()}, {}))
    with pytest.raises(TombolaError, match="shares lists or has panels"):
        Int8Choices(Split("rows", 8), {"y": Lanes(1, 1, 1, rows=2)}, {})


# ---- deployed networks ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> nn.Module:
    layers = [nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 7)]
    for i, layer in enumerate(layers[::2]):
        assert isinstance(layer, nn.Linear)
        layer.weight.data = drawn(*layer.weight.shape, seed=i, density=0.3)
    return nn.Sequential(*layers).eval()


def test_a_network_in_8_bits_ships_as_a_plan(model: nn.Module, tmp_path: Path) -> None:
    x, batches = drawn(1, 24), [(drawn(32, 24, seed=i), torch.zeros(32)) for i in range(3)]
    fast = tb.deploy(model, x, precision="int8", calibration=batches, threads=1, clock=INT8)
    assert [part.engine for part in fast.plan.parts] == ["int8"]
    assert fast.report.int8 is not None
    assert (fast.report.int8.regions, fast.report.int8.tried, fast.report.int8.batches) == (1, 1, 3)
    assert fast.report.error <= 1e-6
    with torch.no_grad():
        off = max(float((fast(y) - model(y)).abs().max() / model(y).abs().max()) for y, _ in batches)
    assert fast.report.int8.error == pytest.approx(off, rel=1e-3)
    assert 0 < off < 0.03
    assert "outputs differ from float32's" in str(fast.report)
    assert "int8:words" in str(fast.report)
    fast.plan.save(tmp_path / "plan.json")
    again = tb.deploy(model, x, plan=tmp_path / "plan.json", threads=2, clock=Never())
    assert Plan.load(tmp_path / "plan.json") == fast.plan
    for size in (0, 1, 8, 13):
        assert torch.equal(fast(drawn(size, 24)), again(drawn(size, 24)))


def test_a_region_that_is_not_faster_in_8_bits_stays_as_it_is(model: nn.Module) -> None:
    fast = tb.deploy(model, drawn(8, 24), precision="int8", threads=1, clock=NATIVE)
    assert [part.engine for part in fast.plan.parts] == ["native"]
    assert fast.report.int8 is not None
    assert fast.report.int8.regions == 0
    assert "native is as fast" in str(fast.report)
    assert tb.deploy(model, drawn(8, 24), threads=1, clock=NATIVE).report.int8 is None


def test_calibration_that_does_not_fit(model: nn.Module) -> None:
    x = drawn(1, 24)
    cases: list[tuple[Any, str]] = [
        ([], "calibration has no batches"),
        ([drawn(3, 23)], "a calibration batch begins with torch.float32"),
        ([drawn(3, 24).double()], "a calibration batch begins with torch.float64"),
        ([()], "begins with nothing"),
        ([("x",)], "begins with of type str"),
        ([torch.full((2, 24), float("nan"))], ""),
    ]
    for batches, text in cases[:-1]:
        with pytest.raises(TombolaError, match=text):
            tb.deploy(model, x, precision="int8", calibration=batches, clock=INT8)
    left = tb.deploy(model, x, precision="int8", calibration=cases[-1][0], threads=1, clock=INT8).report.int8
    assert left is not None
    assert "have no scale" in str(left)
    with pytest.raises(TombolaError, match="calibration is for precision"):
        tb.deploy(model, x, calibration=[drawn(3, 24)])
