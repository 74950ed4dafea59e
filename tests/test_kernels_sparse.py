"""The sparse engine against torch: shapes, strides, paddings, groups, dilations, batches, densities, threads."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from activations import PERHAPS
from tombola.deploy.kernels.kernel import reference
from tombola.deploy.kernels.sparse import build, measure, supports
from tombola.deploy.kernels.sparse.candidates import candidates, guess, splits
from tombola.deploy.kernels.sparse.choices import Choices, Flat, Lanes, Split, layers
from tombola.deploy.kernels.sparse.geometry import shapes_of
from tombola.deploy.kernels.sparse.layout import layout
from tombola.deploy.kernels.sparse.lists import make_lists
from tombola.deploy.nonzeros import Nonzeros
from tombola.deploy.ops import RELU, Activation, Conv, Linear, Pointwise, Pool, Region
from tombola.errors import TombolaError

BATCHES = st.sampled_from([1, 3, 8, 13, 64])
DENSITIES = st.sampled_from([0.0, 0.05, 0.3, 1.0])
quick = settings(deadline=None, max_examples=40)


def close(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert one.is_contiguous()
        assert one.dtype == torch.float32
        if other.numel():  # sums of terms of about 1 may cancel, and are then exact to 1e-7 alone
            assert (one - other).abs().max() <= 1e-4 * max(1e-3, other.abs().max().item())


def sparse(generator: torch.Generator, *shape: int, density: float, block: int = 1) -> Tensor:
    """Random weights with zeros; some rows are all kept and some all pruned."""
    weight = torch.randn(shape, generator=generator)
    kept = torch.rand((-(-shape[0] // block), *shape[1:]), generator=generator) < density
    kept[::5][:1] = density > 0
    if shape[0] > 2 * block:
        kept[1] = False
    return weight * kept.repeat_interleave(block, 0)[: shape[0]]


def check(region: Region, batch: int, choices: Choices, *, seed: int = 0) -> None:
    """Outputs as torch's, the same bits for 1, 2 and 3 threads and at the second call."""
    inputs = [torch.randn(batch, *shape, generator=torch.manual_seed(seed)) for shape in region.inputs.values()]
    wanted = reference(region, *inputs)
    first: tuple[Tensor, ...] = ()
    for threads in (1, 2, 3):
        native = build(region, batch, threads, choices)
        found = native(*inputs)
        close(found, wanted)
        first = first or found
        for one, other in zip(first, native(*inputs), strict=True):
            assert torch.equal(one, other)


# ---- by hand -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 8])
def test_a_convolution_by_hand(batch: int) -> None:
    weight = torch.tensor([[[[0.0, 2.0], [0.0, -1.0]]]])  # 2·right - lower right
    region = Region({"x": (1, 2, 3)}, (Conv("c", "x", "y", weight, torch.tensor([0.5])),), ("y",))
    x = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]).expand(batch, 1, 2, 3)
    assert build(region, batch, 1)(x)[0][-1].tolist() == [[[2 * 2 - 5 + 0.5, 2 * 3 - 6 + 0.5]]]


@pytest.mark.parametrize("batch", [1, 8])
def test_a_linear_layer_by_hand(batch: int) -> None:
    weight = torch.tensor([[1.0, 0.0, -2.0], [0.0, 0.0, 0.0]])
    region = Region({"x": (3,)}, (Linear("l", "x", "y", weight, torch.tensor([0.0, -1.0]), activation=RELU),), ("y",))
    x = torch.tensor([[5.0, 7.0, 1.0]]).expand(batch, 3)
    assert build(region, batch, 1)(x)[0].tolist() == [[3.0, 0.0]] * batch


def test_lists_by_hand() -> None:
    weight = np.array([[0, 5, 0, 7], [0, 0, 0, 0], [1, 0, 2, 3]], np.float32)
    offsets, panel_of, shift = np.array([0, 32, 64, 96]), np.array([0, 0, 1, 1]), np.array([0, 0, 8, 8])
    single = make_lists(weight, offsets, panel_of, shift, panels=2, rows=1)
    assert single.starts.tolist() == [0, 1, 1, 2, 3, 3, 5]  # panel 0, rows 0 to 2; panel 1, rows 0 to 2
    assert single.entries[:, 0].tolist() == [32, 8, 96, 72, 104]
    assert single.entries[:, 1].copy().view(np.float32).tolist() == [5, 1, 7, 2, 3]
    shared = make_lists(weight, offsets, 0 * panel_of, shift, panels=1, rows=2)
    assert shared.starts.tolist() == [0, 2, 5]
    assert shared.entries[:, 0].tolist() == [32, 96, 8, 72, 104]
    assert shared.entries[:, 1:].copy().view(np.float32).tolist() == [[5, 0], [7, 0], [1, 0], [2, 0], [3, 0]]


def test_threads_get_shares_of_equal_work() -> None:
    weight = np.zeros((8, 100), np.float32)
    weight[0] = 1  # as much work as all other rows together
    weight[1:, :14] = 1
    lists = make_lists(weight, np.arange(100), np.zeros(100, np.int64), np.zeros(8, np.int64), panels=1, rows=1)
    assert lists.bounds(1).tolist() == [0, 8]
    assert lists.bounds(2).tolist() in ([0, 1, 8], [0, 2, 8])


@pytest.mark.parametrize("flat", [True, False])
def test_places_of_a_layout_are_apart_and_its_borders_are_shared(flat: bool) -> None:
    maps = layout((3, 4, 5), 6, (1, 1), 8, flat=flat)
    pixels = [maps.at(c, y, x) for c in range(3) for y in range(4) for x in range(5)]
    borders = [maps.at(c, y, x) for c in range(3) for y in (-1, 4) for x in range(-1, 6)]
    borders += [maps.at(c, y, x) for c in range(3) for y in range(4) for x in (-1, 5)]
    assert len(set(pixels)) == 60
    assert not set(pixels) & set(borders)
    assert min(pixels + borders) >= 0
    assert maps.at(0, 0, 5) == maps.at(0, 1, -1)


# ---- against torch -------------------------------------------------------------------------------------------------


@quick
@given(st.data())
def test_convolutions(data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([1, 1, 2, 4]))
    inputs, out = (groups * data.draw(st.integers(1, 9)) for _ in range(2))
    kernel, stride, dilation = ((data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))) for _ in range(3))
    padding = (data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3)))
    end = data.draw(st.none() | st.tuples(st.integers(0, 4), st.integers(0, 4)))
    both = [before + after for before, after in zip(padding, end or padding, strict=True)]
    least = [max(1, dilation[i] * (kernel[i] - 1) + 1 - both[i]) for i in range(2)]
    h, w = (data.draw(st.integers(n, n + 10)) for n in least)
    batch, block = data.draw(BATCHES), data.draw(st.sampled_from([1, 1, 4]))
    g = torch.manual_seed(data.draw(st.integers(0, 99)))
    weight = sparse(g, out, inputs // groups, *kernel, density=data.draw(DENSITIES), block=block)
    bias = torch.randn(out, generator=g) if data.draw(st.booleans()) else None
    activation, add = data.draw(PERHAPS), data.draw(st.booleans())
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "end": end}
    alone = Conv("c", "x", "y", weight, bias, activation=activation, **geometry)  # type: ignore[arg-type]
    shape = shapes_of(Region({"x": (inputs, h, w)}, (alone,), ("y",)))["y"]
    op = replace(alone, residual="r" if add else None)
    region = Region({"x": (inputs, h, w)} | ({"r": shape} if add else {}), (op,), ("y",))
    split = data.draw(st.sampled_from(splits(region, batch, 2)))
    choice = data.draw(st.sampled_from(candidates(op, shape, split)))
    check(region, batch, Choices(split, {"y": choice}))


@quick
@given(st.data())
def test_linear_layers(data: st.DataObject) -> None:
    maps = data.draw(st.booleans())
    shape = (data.draw(st.integers(1, 5)), 3, 4) if maps else (data.draw(st.sampled_from([1, 7, 40, 700])),)
    out, batch, block = data.draw(st.integers(1, 20)), data.draw(BATCHES), data.draw(st.sampled_from([1, 1, 2, 4]))
    g = torch.manual_seed(data.draw(st.integers(0, 99)))
    weight = sparse(g, out, torch.Size(shape).numel(), density=data.draw(DENSITIES), block=block)
    bias = torch.randn(out, generator=g) if data.draw(st.booleans()) else None
    add = data.draw(st.booleans())
    op = Linear("l", "x", "y", weight, bias, data.draw(PERHAPS), "r" if add else None)
    region = Region({"x": shape} | ({"r": (out,)} if add else {}), (op,), ("y",))
    split = data.draw(st.sampled_from(splits(region, batch, 2)))
    choice = data.draw(st.sampled_from(candidates(op, (out, 1, 1), split)))
    check(region, batch, Choices(split, {"y": choice}))


@quick
@given(st.data())
def test_pooling(data: st.DataObject) -> None:
    kernel = (data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5)))
    stride = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    kind = data.draw(st.sampled_from(["max", "mean"]))
    padding = tuple(data.draw(st.integers(0, k // 2)) if kind == "max" else 0 for k in kernel)
    shape = (data.draw(st.integers(1, 5)), *(data.draw(st.integers(k, k + 9)) for k in kernel))
    op = Pool("p", "x", "y", kind, kernel, stride, padding, data.draw(PERHAPS))  # type: ignore[arg-type]
    region = Region({"x": shape}, (op,), ("y",))  # type: ignore[dict-item]
    batch = data.draw(BATCHES)
    check(region, batch, guess(region, batch, 2))


def network(seed: int = 0) -> Region:
    """Two inputs, three outputs; residuals, strides, pools, both ways into linear layers, a shared value."""
    g = torch.manual_seed(seed)

    def w(*shape: int, density: float = 0.2) -> Tensor:
        return sparse(g, *shape, density=density)

    def b(n: int) -> Tensor:
        return torch.randn(n, generator=g)

    ops = (
        Conv("stem", "x", "a", w(10, 3, 3, 3, density=1.0), b(10), padding=(1, 1), activation=RELU),
        Conv("one", "a", "b", w(10, 10, 3, 3), b(10), padding=(1, 1), activation=RELU, residual="a"),
        Pool("halve", "b", "p", "max", (2, 2), (2, 2)),
        Conv("two", "p", "c", w(12, 10, 3, 3), None, stride=(2, 2), padding=(1, 1), activation=RELU),
        Conv("skip", "p", "d", w(12, 10, 1, 1), None, stride=(2, 2)),
        Conv("three", "c", "e", w(12, 12, 3, 3), None, padding=(1, 1), activation=RELU, residual="d"),
        Conv("three", "e", "f", w(12, 12, 3, 3), None, padding=(2, 2), dilation=(2, 2), residual="e"),
        Pointwise("norm", "f", "n", b(12), b(12), RELU, "d"),
        Pool("ragged", "n", "m", "max", (3, 3), (2, 2), (1, 1)),
        Pool("mean", "m", "g", "mean", (2, 2), (2, 2)),
        Linear("mix", "v", "h", w(17, 5), b(17), Activation("silu")),
        Linear("head", "n", "i", w(17, 108), b(17), None, "h"),
        Pointwise("scaled", "h", "j", b(17), None),
    )
    return Region({"x": (3, 12, 12), "v": (5,)}, ops, ("i", "e", "j", "g"))


@pytest.mark.parametrize("batch", [1, 3, 8, 13, 64])
def test_a_region_of_everything(batch: int) -> None:
    region = network()
    for split in splits(region, batch, 2):
        shapes = shapes_of(region)
        for pick in (0, -1):  # the last candidates of convolutions are flat ones, so that layouts are converted
            chosen = {op.target: candidates(op, shapes[op.target], split)[pick] for op in layers(region)}
            if pick:
                chosen["c"] = candidates(layers(region)[2], shapes["c"], split)[0]
            check(region, batch, Choices(split, chosen))


def test_an_input_that_is_an_output_and_an_output_given_twice() -> None:
    region = Region({"x": (2, 3, 3)}, (Pointwise("p", "x", "y", activation=RELU),), ("y", "x", "y"))
    for batch in (1, 9):
        check(region, batch, guess(region, batch, 1))


def test_any_batch_strided_inputs_and_no_images() -> None:
    region = network()
    native = build(region, 8, 2)
    for batch in (0, 1, 5, 8, 21):
        x, v = torch.randn(batch, 12, 12, 3).permute(0, 3, 1, 2), torch.randn(5, batch).t()
        close(native(x, v), reference(region, x, v))


# ---- measuring, errors, copies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 16])
def test_measured_choices_build(batch: int) -> None:
    region = network()
    found = measure(region, batch, 1)
    assert not found.cut
    assert set(found.layers) == {op.target for op in layers(region)}
    check(region, batch, found.choices)


def test_bytes_of_weights() -> None:
    weight = torch.zeros(8, 100)
    weight[:, :10] = 1
    region = Region({"x": (100,)}, (Linear("l", "x", "y", weight),), ("y",))
    native = build(region, 8, 1, Choices(Split("rows", 8), {"y": Lanes(1, 1, 1)}))
    assert native.nbytes == 80 * 8 + 9 * 4 + 8 * 4  # offsets and values, where rows start, biases


def test_shared_lists_are_for_blocks() -> None:
    g = torch.manual_seed(0)
    blocks = sparse(g, 16, 50, density=0.1, block=4)
    assert Nonzeros(blocks).waste(4) == 1
    assert Nonzeros(torch.eye(8)).waste(4) == 4
    assert Nonzeros(torch.ones(6, 3)).waste(4) == float("inf")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: Choices(Split("rows", 7), {}), "multiple of 8"),
        (lambda: Choices(Split("rows", 8), {"y": Lanes(9, 9, 1, 8)}), "accumulators"),
        (lambda: Choices(Split("rows", 8), {"y": Lanes(4, 4, 1)}), "measure again"),
        (lambda: Choices(Split("rows", 8), {"y": Lanes(1, 1, 1), "z": Flat(1)}), "'z'"),
        (lambda: Choices(Split("rows", 8), {}), "'y'"),
    ],
)
def test_choices_that_do_not_fit_are_refused(made: Callable[[], Choices], words: str) -> None:
    region = Region({"x": (2, 3, 3)}, (Conv("c", "x", "y", torch.ones(2, 2, 1, 1)),), ("y",))
    with pytest.raises(TombolaError, match=words):
        build(region, 8, 1, made())


def test_inputs_that_do_not_fit_are_refused() -> None:
    native = build(network(), 1, 1)
    x, v = torch.zeros(1, 3, 12, 12), torch.zeros(1, 5)
    for inputs in ((x,), (x, v.double()), (x[..., 1:], v), (x, torch.zeros(2, 5))):
        with pytest.raises(TombolaError):
            native(*inputs)


def test_what_cannot_be_run_is_named() -> None:
    assert supports(Pool("p", "x", "y", "mean", (2, 2), (2, 2), (1, 1))) == "mean pooling with padding"
    assert supports(Pool("p", "x", "y", "max", (2, 2), (2, 2), (1, 1))) is None
    with pytest.raises(TombolaError, match="cannot be compiled"):
        build(Region({"x": (1, 4, 4)}, (Pool("p", "x", "y", "median", (2, 2), (2, 2)),), ("y",)), 1, 1)


def test_copies_share_and_nothing_is_pickled() -> None:
    native = build(network(), 8, 1)
    assert copy.deepcopy(native) is native
    with pytest.raises(TombolaError, match="cannot be pickled"):
        pickle.dumps(native)
